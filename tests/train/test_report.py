"""Facts and notes of a run: splits, clipping, threads."""

import math

import pytest
from tiny_run import Listening, tiny

from tinygpt.kernels import threads
from tinygpt.train import outputs
from tinygpt.train.loop import train
from tinygpt.train.report import Report
from tinygpt.train.setup import prepare


def test_the_files_of_the_validation_split_are_named(sources, tmp_path):
    """Catches a split that nobody can look at, and a long list of files."""
    report = Listening()
    run = prepare(tiny(sources, tmp_path / "out", val_fraction=0.7), report)
    assert run.corpus.validation_files == 5
    told = report.facts["tokens"].partition("validation: 5 files (")[2].partition(")")[0]
    assert told.endswith(" and 2 more")
    assert all((sources / name).is_file() for name in told.removesuffix(" and 2 more").split(", "))


def test_few_validation_tokens_are_told(sources, tmp_path):
    """Catches a validation loss that decides between runs although chance alone moves it that much."""
    report = Listening()
    run = prepare(tiny(sources, tmp_path / "out"), report)
    n = len(run.corpus.validation)
    told = f"{n} tokens (so few that the loss is uncertain by about {2 / math.sqrt(n):.2f})"
    assert report.facts["tokens"].endswith(told)
    report = Listening()
    prepare(tiny(sources, tmp_path / "out", val_fraction=0.5), report)
    assert "uncertain" not in report.facts["tokens"]


def test_a_vocabulary_that_stays_small_is_told(sources, tmp_path):
    """Catches --vocab-size 1000000 that gives far less without a word."""
    report = Listening()
    run = prepare(tiny(sources, tmp_path, tokenizer_type="bpe", vocab_size=100_000, seq=8), report)
    small = f"vocabulary {run.tokenizer.vocab_size} (not 100,000: the text has no more pairs to merge)"
    assert small in report.facts["tokens"]
    report = Listening()
    prepare(tiny(sources, tmp_path, tokenizer_type="bpe", vocab_size=270), report)
    assert "vocabulary 270   validation" in report.facts["tokens"]


@pytest.mark.parametrize(("clip", "told"), [(1e-3, True), (1e3, False), (0.0, False)])
def test_clipping_of_most_steps_is_told(sources, tmp_path, clip, told, monkeypatch):
    """Catches a run whose steps are all as large as the clipping allows, without a word about it."""
    monkeypatch.setattr(outputs, "FEWEST_STEPS", 50)
    report = Listening()
    train(tiny(sources, tmp_path / "out", steps=60, eval_every=60, clip=clip), report)
    notes = [note for note in report.notes if "the gradient was clipped in 100% of the steps" in note]
    assert len(notes) == told


def test_more_threads_than_cores_are_told(sources, tmp_path):
    """Catches --threads 999 that is accepted as if it made the run faster."""
    cores = min(threads.limits().values())
    report = Listening()
    train(tiny(sources, tmp_path / "out", steps=1, threads=cores + 1), report)
    assert f"{cores + 1} threads will share the {cores} cores that this process may use" in report.notes
    train(tiny(sources, tmp_path / "again", steps=1, threads=1), Report())
