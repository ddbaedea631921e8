"""Settings from files: their precedence, and runs repeated from their own settings."""

import pytest
from tiny_run import flags, state, tiny, without_clock

from tinygpt import cli
from tinygpt.runs.directory import begin
from tinygpt.runs.metrics import read_metrics
from tinygpt.train import loop
from tinygpt.train.settings import DEFAULTS, TrainSettings


@pytest.fixture
def settings_of(tmp_path, monkeypatch):
    """A function that calls `tinygpt train` without running the loop and returns the settings that reach it."""
    calls = []
    monkeypatch.setattr(loop, "train", lambda settings, report, comm: calls.append(settings))
    monkeypatch.chdir(tmp_path)

    def call(*arguments):
        assert cli.main(["train", *arguments]) == 0
        return calls.pop()

    return call


def config(tmp_path, text, name="config.toml"):
    (tmp_path / name).write_text(text)
    return str(tmp_path / name)


def test_flags_override_the_file(tmp_path, settings_of):
    """Catches a file that overrides flags, and a file that is not read."""
    file = config(tmp_path, 'lr = 0.5\nbatch = 7\nrope = true\ndata = ["a", "b"]\nbetas = [0.1, 0.2]\n')
    settings = settings_of("--config", file, "--lr", "0.25", "--data", "c")
    assert (settings.optimisation.lr, settings.corpus.data) == (0.25, ["c"])
    assert (settings.optimisation.batch, settings.model.rope, settings.optimisation.betas) == (7, True, (0.1, 0.2))
    assert (settings.optimisation.steps, settings.output.out) == (DEFAULTS["steps"], DEFAULTS["out"])
    assert settings_of("--config", file, "--no-rope").model.rope is False
    assert settings_of(f"--config={file}").optimisation.batch == 7


def test_names_may_have_dashes_or_underscores(tmp_path, settings_of):
    """Catches a key that is ignored because of its dashes or underscores."""
    file = config(tmp_path, "grad-accum = 2\nweight_decay = 0.5\n")
    settings = settings_of("--config", file)
    assert (settings.optimisation.grad_accum, settings.optimisation.weight_decay) == (2, 0.5)


def test_the_former_name_of_the_validation_split_works(tmp_path, settings_of):
    """Catches a run.toml or script of an earlier version that is refused or ignored."""
    for flag in ("--held-out", "--val-fraction"):
        assert settings_of(flag, "0.2").corpus.val_fraction == 0.2
    for name in ("held-out", "held_out", "val-fraction"):
        assert settings_of("--config", config(tmp_path, f"{name} = 0.3\n")).corpus.val_fraction == 0.3
    begin(tmp_path / "old", {"held-out": 0.4})
    assert settings_of("--resume", "--out", "old").corpus.val_fraction == 0.4


def test_integers_are_accepted_as_floats(tmp_path, settings_of):
    """Catches an error for `lr = 1`, which TOML parses as an integer."""
    assert settings_of("--config", config(tmp_path, "lr = 1\nepochs = 2\n")).optimisation.lr == 1.0


@pytest.mark.parametrize(
    ("arguments", "text", "length"),
    [
        (["--steps", "7"], "epochs = 2.0\n", (7, None)),
        (["--steps=7"], "steps = 3\n", (7, None)),
        (["--epochs", "3"], "steps = 5\n", (2000, 3.0)),
        ([], "epochs = 2.0\n", (2000, 2.0)),
        ([], "steps = 5\n", (5, None)),
        ([], "", (2000, None)),
    ],
)
def test_steps_and_epochs_replace_each_other(tmp_path, settings_of, arguments, text, length):
    """Catches --steps without effect because the file sets epochs."""
    settings = settings_of("--config", config(tmp_path, text), *arguments)
    assert (settings.optimisation.steps, settings.optimisation.epochs) == length


def test_a_resumed_run_keeps_its_settings(tmp_path, settings_of):
    """Catches --resume with default settings, flags without effect, and a directory's old name in use."""
    begin(tmp_path / "moved", TrainSettings(out="old", lr=0.5, batch=7, epochs=2.0, seq=9).table())
    file = config(tmp_path, "lr = 0.25\nbatch = 3\n")
    settings = settings_of("--resume", "--out", "moved", "--config", file, "--batch", "2", "--steps", "9")
    assert (settings.output.out, settings.output.resume, settings.model.seq) == ("moved", True, 9)
    assert (settings.optimisation.batch, settings.optimisation.lr) == (2, 0.25)
    assert (settings.optimisation.steps, settings.optimisation.epochs) == (9, None)
    assert settings_of("--resume", "--out=moved").optimisation.epochs == 2.0


def test_resume_without_out_uses_the_default_directory(tmp_path, settings_of):
    """Catches --resume that needs --out although training did not."""
    begin(tmp_path / "runs" / "tiny", TrainSettings(out="elsewhere", seq=9).table())
    settings = settings_of("--resume")
    assert (settings.output.out, settings.model.seq) == ("runs/tiny", 9)


def test_resume_uses_the_directory_of_the_config_file(tmp_path, settings_of):
    """Catches --resume that ignores the directory named in the config file."""
    begin(tmp_path / "mine", TrainSettings(out="mine", seq=9).table())
    settings = settings_of("--resume", "--config", config(tmp_path, 'out = "mine"\n'))
    assert (settings.output.out, settings.model.seq) == ("mine", 9)


def test_a_run_can_be_repeated_from_its_settings(sources, tmp_path, monkeypatch):
    """Catches a setting missing from run.toml, which would make the repeated run differ."""
    settings = tiny(sources, tmp_path / "first", lr=0.02, seed=3, dropout=0.1, grad_accum=2, weight_decay=0.3)
    monkeypatch.chdir(sources.parent)
    shape = flags(settings, "out", "layers", "embed", "heads", "seq", "steps", "eval_every", "samples", "threads")
    extra = flags(settings, "lr", "seed", "dropout", "grad_accum", "weight_decay")
    assert cli.main(["train", "--data", sources.name, *shape, *extra, "--rope", "--no-bias", "--quiet"]) == 0
    monkeypatch.chdir(tmp_path)
    again = ["--config", str(tmp_path / "first" / "run.toml"), "--out", "second", "--quiet"]
    assert cli.main(["train", *again]) == 0
    first, second = tmp_path / "first", tmp_path / "second"
    assert state(first) == state(second)
    last = [path / "checkpoints" / "step-12" for path in (first, second)]
    assert state(last[0]) == state(last[1])
    records = [without_clock(read_metrics(path / "metrics.jsonl")) for path in (first, second)]
    assert records[0] == records[1]
