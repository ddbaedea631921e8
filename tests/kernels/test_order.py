"""Order of the rungs in every csrc file: a learner reads each op from its textbook loops to its fastest form."""

import re
from pathlib import Path

import pytest

from tinygpt.kernels import registry
from tinygpt.kernels.spec import OPS

FILES = sorted((Path(__file__).parents[2] / "csrc").glob("*.pyx"))
RUNG = re.compile(r"^def (\w+)_(" + "|".join(registry.LADDER) + r")(_bfloat16)?\(", re.MULTILINE)


def rungs(text):
    """Return (op, index on the ladder) for every rung that `text` defines, from top to bottom."""
    return [(op, registry.LADDER.index(rung)) for op, rung, _ in RUNG.findall(text)]


def disorder(text):
    """Describe what is out of order in the text of a csrc file; None if nothing is."""
    found = rungs(text)
    ops = list(dict.fromkeys(op for op, _ in found))
    for op in ops:
        places = [place for place, (name, _) in enumerate(found) if name == op]
        ladder = [index for name, index in found if name == op]
        if places != list(range(places[0], places[0] + len(places))):
            return f"the rungs of {op} do not follow each other"
        if ladder != sorted(ladder):
            return f"the rungs of {op} are not in the order of the ladder"
        forward = op.removesuffix("_backward")
        if forward != op and ops.index(op) != ops.index(forward) + 1:
            return f"{op} does not follow {forward}"
    return None


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_rungs_are_in_order(path):
    """Catches a rung before the one it builds on, and a backward rung among the forward ones."""
    assert disorder(path.read_text()) is None


def test_every_op_is_found():
    """Catches a pattern that finds no rungs, with which every order would pass."""
    found = {op for path in FILES for op, _ in rungs(path.read_text())}
    assert found == OPS.keys()


@pytest.mark.parametrize(
    "names",
    [
        ("a_parallel", "a_naive"),
        ("a_naive", "b_naive", "a_simd"),
        ("a_naive", "a_backward_naive", "a_simd", "a_backward_simd"),
        ("a_naive", "b_naive", "a_backward_naive"),
        ("a_backward_naive", "a_naive"),
    ],
)
def test_a_wrong_order_is_reported(names):
    """Catches a check that never fails."""
    assert disorder("".join(f"def {name}(x):\n    pass\n" for name in names))


def test_a_right_order_passes():
    """Catches a check that always fails."""
    names = ("a_naive", "a_simd", "a_simd_bfloat16", "a_backward_naive", "a_backward_simd", "b_naive")
    assert disorder("".join(f"def {name}(x):\n    pass\n" for name in names)) is None
