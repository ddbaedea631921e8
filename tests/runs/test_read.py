"""Runs read back from their files: complete, incomplete and hostile ones."""

import json

import pytest
from run_data import records, write_run

from tinygpt import GPT
from tinygpt.runs import layout
from tinygpt.runs.read import read_run


def test_a_run_is_read_from_its_directory_or_its_file(tmp_path):
    """Catches a run without settings or size, a wrong number of parameters, and wrong totals."""
    folder = write_run(tmp_path / "run", 'schedule = "linear"')
    for path in (folder, folder / "metrics.jsonl", str(folder)):
        found = read_run(path)
        assert found.records == records()
        assert (found.vocab_size, found.total_steps, found.warmup, found.tokens_per_step) == (100, 60, 6, 64)
        assert found.notes == []
    model = GPT(found_config(folder))
    assert found.parameters == model.num_parameters()


def found_config(folder):
    from tinygpt.files import config

    return config.read(folder)[1]


def test_a_file_alone_is_a_run(tmp_path):
    """Catches a reader that needs the other files of the run directory."""
    path = tmp_path / "copy.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in records()))
    found = read_run(path)
    assert (found.settings, found.parameters, found.total_steps, found.warmup) == ({}, None, None, 0)


def test_the_length_follows_from_epochs(tmp_path):
    """Catches a run by --epochs without its number of steps. A step is 0.01 epochs here."""
    folder = write_run(tmp_path / "run")
    (folder / "run.toml").write_text("epochs = 2.0\nwarmup = 3")
    assert (read_run(folder).total_steps, read_run(folder).warmup) == (200, 3)


def test_a_torn_last_line_is_reported(tmp_path):
    """Catches a killed run that cannot be read, and a line dropped silently."""
    folder = write_run(tmp_path / "run")
    with (folder / "metrics.jsonl").open("a") as file:
        file.write('{"step": 60, "lo')
    found = read_run(folder)
    assert found.records == records()
    (note,) = found.notes
    assert "metrics.jsonl: line 64 is incomplete" in note


HOSTILE = {
    "no JSON": "{",
    "NaN": '{"step": 1, "loss": NaN}',
    "infinite": '{"step": 1, "loss": 1e999}',
    "huge": '{"step": 1, "loss": 1' + "0" * 400 + "}",
    "text": '{"step": 1, "loss": "</script>"}',
    "truth": '{"step": 1, "loss": true}',
    "list": '{"step": 1, "loss": 2.0, "lr": [1]}',
    "no loss": '{"step": 1}',
    "negative step": '{"step": -2, "loss": 1.0}',
    "large step": '{"step": 1' + "0" * 20 + ', "loss": 1.0}',
    "deep": '{"step": 1, "loss": ' + "[" * 100_000 + "]" * 100_000 + "}",
    "twice": '{"step": 1, "loss": 1.0, "loss": 2.0}',
    "many digits": '{"step": 1' + "0" * 5000 + "}",
}


@pytest.mark.parametrize("case", HOSTILE)
def test_a_hostile_line_is_named(tmp_path, case):
    """Catches a traceback, an error of several lines or without the line number, and a value that cannot be drawn."""
    folder = write_run(tmp_path / "run", config=False)
    lines = (folder / "metrics.jsonl").read_text().split("\n")
    (folder / "metrics.jsonl").write_text("\n".join([*lines[:2], HOSTILE[case], *lines[2:]]))
    with pytest.raises(ValueError, match=r"line 3: ") as error:
        read_run(folder)
    assert str(error.value).startswith(str(folder / "metrics.jsonl"))
    assert "\n" not in str(error.value)
    assert len(str(error.value)) < 400 + len(str(folder))


def test_steps_that_go_back_are_refused(tmp_path):
    """Catches two runs in one file, whose curve would jump back."""
    with pytest.raises(ValueError, match=r"metrics\.jsonl: step 0 comes after step 59"):
        read_run(write_run(tmp_path / "run", lines=records() + records()))


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ({"step": 0, "weights": [1]}, "'weights' must be an object"),
        ({"step": 0, "weights": {"wte": 5}}, "'wte' must be an object"),
        ({"step": 0, "weights": {"wte": {"step": 5}}}, "'wte.step' is not known here"),
        ({"step": 0, "weights": {"wte": {"q": 5}}}, "'wte.q' must be a list of 7"),
        ({"step": 0, "weights": {"wte": {"q": [1, 2]}}}, "'wte.q' must be a list of 7"),
        ({"step": 0, "weights": {"wte": {"mean": "x"}}}, "'wte.mean' must be finite numbers"),
    ],
)
def test_a_hostile_watch_file_is_named(tmp_path, line, words):
    """Catches a value of watch.jsonl that would break the page or reach it as something other than a number."""
    folder = write_run(tmp_path / "run")
    (folder / "watch.jsonl").write_text(json.dumps(line) + "\n")
    with pytest.raises(ValueError, match=r"watch\.jsonl: line 1: ") as error:
        read_run(folder)
    assert words in str(error.value)


@pytest.mark.parametrize("where", ["nowhere", "empty"])
def test_a_missing_run_is_named(tmp_path, where):
    """Catches an empty page, and an error that does not say what is missing."""
    (tmp_path / "empty").mkdir()
    with pytest.raises(FileNotFoundError, match=str(tmp_path / where)):
        read_run(tmp_path / where)


def test_bad_settings_are_named(tmp_path):
    """Catches a traceback for a broken run.toml."""
    folder = write_run(tmp_path / "run", "[[[")
    with pytest.raises(ValueError, match=r"run\.toml: not a TOML file"):
        read_run(folder)


def test_the_size_of_a_young_run_is_read_from_its_checkpoint(tmp_path):
    """Catches a run before its first evaluation, which has a model only in its checkpoint."""
    folder = write_run(tmp_path / "run", config=False)
    assert read_run(folder).vocab_size is None
    where = layout.checkpoint_directory(folder, 0)
    where.mkdir(parents=True)
    (write_run(tmp_path / "other") / "config.json").rename(where / "config.json")
    assert read_run(folder).vocab_size == 100
