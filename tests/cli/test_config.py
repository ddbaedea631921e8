"""Settings from files: what overrides what, and that a run can be made again."""

import pytest
from tiny_run import flags, state, tiny, without_clock

from tinygpt import cli
from tinygpt.runs.directory import begin
from tinygpt.runs.metrics import read_metrics
from tinygpt.train import loop
from tinygpt.train.settings import DEFAULTS, TrainSettings


@pytest.fixture
def told(tmp_path, monkeypatch):
    """A function that calls `tinygpt train` and gives the settings that reach the loop, which does not run."""
    calls = []
    monkeypatch.setattr(loop, "train", lambda settings, report: calls.append(settings))
    monkeypatch.chdir(tmp_path)

    def call(*arguments):
        assert cli.main(["train", *arguments]) == 0
        return calls.pop()

    return call


def config(tmp_path, text, name="config.toml"):
    (tmp_path / name).write_text(text)
    return str(tmp_path / name)


def test_flags_override_the_file(tmp_path, told):
    """Catches a file that wins over flags, and one that is not read."""
    file = config(tmp_path, 'lr = 0.5\nbatch = 7\nrope = true\ndata = ["a", "b"]\nbetas = [0.1, 0.2]\n')
    settings = told("--config", file, "--lr", "0.25", "--data", "c")
    assert (settings.optimisation.lr, settings.corpus.data) == (0.25, ["c"])
    assert (settings.optimisation.batch, settings.model.rope, settings.optimisation.betas) == (7, True, (0.1, 0.2))
    assert (settings.optimisation.steps, settings.output.out) == (DEFAULTS["steps"], DEFAULTS["out"])
    assert told("--config", file, "--no-rope").model.rope is False
    assert told(f"--config={file}").optimisation.batch == 7


def test_names_may_have_dashes_or_underscores(tmp_path, told):
    """Catches a key that is ignored for its spelling."""
    file = config(tmp_path, "grad-accum = 2\nweight_decay = 0.5\n")
    settings = told("--config", file)
    assert (settings.optimisation.grad_accum, settings.optimisation.weight_decay) == (2, 0.5)


def test_the_former_name_of_the_validation_split_serves(tmp_path, told):
    """Catches a run.toml or a script of an earlier version that is refused, or read without effect."""
    assert told("--held-out", "0.2").corpus.val_fraction == told("--val-fraction", "0.2").corpus.val_fraction == 0.2
    for name in ("held-out", "held_out", "val-fraction"):
        assert told("--config", config(tmp_path, f"{name} = 0.3\n")).corpus.val_fraction == 0.3
    begin(tmp_path / "old", {"held-out": 0.4})
    assert told("--resume", "--out", "old").corpus.val_fraction == 0.4


def test_whole_numbers_serve_as_fractions(tmp_path, told):
    """Catches an error for `lr = 1`, which TOML takes for an integer."""
    assert told("--config", config(tmp_path, "lr = 1\nepochs = 2\n")).optimisation.lr == 1.0


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
def test_steps_and_epochs_replace_each_other(tmp_path, told, arguments, text, length):
    """Catches --steps without effect because a file has epochs."""
    settings = told("--config", config(tmp_path, text), *arguments)
    assert (settings.optimisation.steps, settings.optimisation.epochs) == length


def test_a_run_that_goes_on_has_its_settings(tmp_path, told):
    """Catches --resume with default settings, flags without effect, and a run directory under its old name."""
    begin(tmp_path / "moved", TrainSettings(out="old", lr=0.5, batch=7, epochs=2.0, seq=9).table())
    file = config(tmp_path, "lr = 0.25\nbatch = 3\n")
    settings = told("--resume", "--out", "moved", "--config", file, "--batch", "2", "--steps", "9")
    assert (settings.output.out, settings.output.resume, settings.model.seq) == ("moved", True, 9)
    assert (settings.optimisation.batch, settings.optimisation.lr) == (2, 0.25)
    assert (settings.optimisation.steps, settings.optimisation.epochs) == (9, None)
    assert told("--resume", "--out=moved").optimisation.epochs == 2.0


def test_the_default_directory_goes_on(tmp_path, told):
    """Catches --resume that needs --out although training did not."""
    begin(tmp_path / "runs" / "tiny", TrainSettings(out="elsewhere", seq=9).table())
    settings = told("--resume")
    assert (settings.output.out, settings.model.seq) == ("runs/tiny", 9)


def test_the_directory_to_go_on_in_may_stand_in_the_file(tmp_path, told):
    """Catches --resume that looks in the default directory when the file names another one."""
    begin(tmp_path / "mine", TrainSettings(out="mine", seq=9).table())
    settings = told("--resume", "--config", config(tmp_path, 'out = "mine"\n'))
    assert (settings.output.out, settings.model.seq) == ("mine", 9)


def test_a_run_can_be_made_again_from_its_settings(sources, tmp_path, monkeypatch):
    """Catches a setting that run.toml forgets: the second run would leave the first one's track."""
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
