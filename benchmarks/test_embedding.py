"""Speed of every rung of csrc/embedding.pyx, at the sizes of a training step."""

from conftest import each_rung

from tinygpt import testing


@each_rung("embedding", "embedding_backward")
def test_embedding(ladder, op, rung):
    for case in testing.default_cases(op):
        ladder(case, rung)
