"""Facts and notes of a run: splits, vocabulary, clipping, threads."""

import math

import pytest
from tiny_run import Listening, tiny

from tinygpt.kernels import threads
from tinygpt.train import outputs
from tinygpt.train.loop import train
from tinygpt.train.report import Report
from tinygpt.train.setup import prepare


def test_the_files_of_the_validation_split_are_named(sources, tmp_path):
    """Catches a split without file names, and a long list of them."""
    report = Listening()
    run = prepare(tiny(sources, tmp_path / "out", val_fraction=0.7), report)
    assert run.corpus.validation_files == 5
    told = report.facts["tokens"].partition("validation: 5 files (")[2].partition(")")[0]
    assert told.endswith(" and 2 more")
    assert all((sources / name).is_file() for name in told.removesuffix(" and 2 more").split(", "))


def test_few_validation_tokens_are_reported(sources, tmp_path):
    """Catches a validation loss compared between runs although its uncertainty is larger than the difference."""
    report = Listening()
    run = prepare(tiny(sources, tmp_path / "out"), report)
    n = len(run.corpus.validation)
    told = f"{n} tokens (so few that the loss is uncertain by about {2 / math.sqrt(n):.2f})"
    assert report.facts["tokens"].endswith(told)
    report = Listening()
    prepare(tiny(sources, tmp_path / "out", val_fraction=0.5), report)
    assert "uncertain" not in report.facts["tokens"]


def test_a_smaller_vocabulary_is_reported(sources, tmp_path):
    """Catches a vocabulary far smaller than --vocab-size without a note."""
    report = Listening()
    run = prepare(tiny(sources, tmp_path, tokenizer_type="bpe", vocab_size=100_000, seq=8), report)
    small = f"vocabulary {run.tokenizer.vocab_size} (not 100,000: the text has no more pairs to merge)"
    assert small in report.facts["tokens"]
    report = Listening()
    prepare(tiny(sources, tmp_path, tokenizer_type="bpe", vocab_size=270), report)
    assert "vocabulary 270   validation" in report.facts["tokens"]


@pytest.mark.parametrize(("clip", "told"), [(1e-3, True), (1e3, False), (0.0, False)])
def test_clipping_of_most_steps_is_reported(sources, tmp_path, clip, told, monkeypatch):
    """Catches a run in which nearly every step is clipped, without a note."""
    monkeypatch.setattr(outputs, "FEWEST_STEPS", 50)
    report = Listening()
    train(tiny(sources, tmp_path / "out", steps=60, eval_every=60, clip=clip), report)
    notes = [note for note in report.notes if "the gradient was clipped in 100% of the steps" in note]
    assert len(notes) == told


def test_more_threads_than_cores_are_reported(sources, tmp_path):
    """Catches --threads 999 accepted without a note."""
    cores = min(threads.limits().values())
    report = Listening()
    train(tiny(sources, tmp_path / "out", steps=1, threads=cores + 1), report)
    assert f"{cores + 1} threads will share the {cores} cores that this process may use" in report.notes
    train(tiny(sources, tmp_path / "again", steps=1, threads=1), Report())
