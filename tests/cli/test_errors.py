"""Bad input: exit status 2, one line that says what is wrong, and no file changed."""

import io
import os
import shutil
import sys

import pytest
from tiny_run import content

from tinygpt import cli, testing
from tinygpt.cli import app
from tinygpt.testing import timing

# Paths are relative to the directory that the fixture `work` makes.
TRAIN = ["train", "--data", "sources", "--out", "out", "--seq", "16", "--steps", "2", "--samples", "0"]
GENERATE = ["generate", "--model", "model", "--length", "5"]
# Name of the case -> (arguments, text that the error line must contain).
WRONG = {
    "missing path": ([*TRAIN, "--data=nowhere"], "'nowhere'"),
    "missing path in a list": (["train", "--data", "sources", "nowhere", "--out", "out"], "'nowhere'"),
    "glob without match": (["train", "--data", "sources/*.go", "--out", "out"], "'sources/*.go'"),
    "no source files": (["train", "--data", "prose", "--out", "out"], "found there, give --ext .txt"),
    "empty corpus": (["train", "--data", "empty", "--out", "out"], "no source file in empty"),
    "shorter than a context": (["train", "--data", "short.py", "--out", "out"], "one context of 64 needs 65"),
    "secret": (["train", "--data", "id_rsa", "--out", "out"], "'id_rsa'"),
    "embed and heads": ([*TRAIN, "--embed", "65"], "--embed 65 must be a multiple of --heads 2"),
    "unknown rung": ([*TRAIN, "--kernels", "fast"], "--kernels: unknown rung 'fast'; there are naive"),
    "unknown op of a rung": ([*TRAIN, "--kernels", "sofmax=naive"], "--kernels: unknown op 'sofmax'"),
    "zero batch": ([*TRAIN, "--batch", "0"], "--batch must be at least 1, got 0"),
    "no steps": (["train", "--data", "sources", "--out", "out", "--steps", "0"], "--steps must be at least 1"),
    "negative learning rate": ([*TRAIN, "--lr", "-1"], "--lr must be 0 or more, got -1"),
    "no number": ([*TRAIN, "--lr", "fast"], "--lr"),
    "fraction of a layer": ([*TRAIN, "--layers", "1.5"], "--layers"),
    "one beta": ([*TRAIN, "--betas", "0.9"], "--betas"),
    "unknown optimizer": ([*TRAIN, "--optimizer", "lion"], "--optimizer"),
    "extension": ([*TRAIN, "--ext", "*"], "--ext"),
    "vocabulary of characters": ([*TRAIN, "--vocab-size", "512"], "--vocab-size needs --tokenizer-type bpe"),
    "pattern of characters": ([*TRAIN, "--pattern=gpt2"], "--pattern needs --tokenizer-type bpe"),
    "characters of bpe": (
        [*TRAIN, "--max-chars", "9", "--tokenizer-type", "bpe"],
        "--max-chars needs --tokenizer-type char",
    ),
    "threads": ([*TRAIN, "--threads", "0"], "--threads must be at least 1 or auto, got 0"),
    "steps and epochs": ([*TRAIN, "--epochs", "2"], "--steps and --epochs"),
    "file in the way": (["train", "--data", "sources", "--out", "short.py"], "--out short.py: short.py is a file"),
    "file in the way above": (["train", "--data", "sources", "--out", "short.py/run"], "--out short.py/run: short.py"),
    "other directory": (["train", "--data", "sources", "--out", "prose"], "--out prose: the directory is not empty"),
    "metrics is a directory": ([*TRAIN, "--metrics", "prose"], "--metrics prose: is a directory"),
    "metrics below a file": ([*TRAIN, "--metrics", "short.py/m.html"], "--metrics short.py/m.html"),
    "missing config": ([*TRAIN, "--config", "nowhere.toml"], "--config nowhere.toml: no such file"),
    "broken config": ([*TRAIN, "--config", "broken.toml"], "broken.toml: not a TOML file"),
    "binary config": ([*TRAIN, "--config", "bytes.txt"], "bytes.txt: not a TOML file"),
    "unknown config key": ([*TRAIN, "--config", "unknown.toml"], "unknown.toml: unknown setting 'learning-rate'"),
    "tokenizer": ([*TRAIN, "--tokenizer-type", "words"], "--tokenizer-type"),
    "precision": ([*TRAIN, "--precision", "float16"], "--precision"),
    "named file of other bytes": (["train", "--data", "bytes.txt", "--out", "out"], "(1 skipped: 1 not UTF-8); a file"),
    "wrong config value": ([*TRAIN, "--config", "value.toml"], "lr"),
    "config in config": ([*TRAIN, "--config", "nested.toml"], "nested.toml: unknown setting 'config'"),
    "config in tables": ([*TRAIN, "--config", "table.toml"], "table.toml: unknown setting 'train'"),
    "config out of range": ([*TRAIN, "--config", "range.toml"], "--dropout must be at least 0"),
    "config with steps and epochs": (["train", "--config", "both.toml"], "both.toml: --steps and --epochs"),
    "resume without run": (["train", "--resume", "--out", "nowhere"], "--resume: there is no run in nowhere"),
    "resume with another shape": (
        ["train", "--resume", "--out", "begun", "--layers", "5"],
        "--layers cannot be changed with --resume: the model is that of the run, which has --layers 2",
    ),
    "resume with another kind": (
        ["train", "--resume", "--out", "begun", "--rope"],
        "--rope cannot be changed with --resume",
    ),
    "resume with a value": (["train", "--resume=yes", "--out", "out"], "--resume takes no value"),
    "unknown command": (["trian"], "trian"),
    "unknown flag": ([*TRAIN, "--layer", "3"], "--layer"),
    "flag without value": (["train", "--out"], "--out"),
    "stray word": (["train", "sources"], "unexpected argument 'sources'"),
    "generate: no model": (
        ["generate"],
        "runs/tiny: no such directory; train a model with 'tinygpt train' or name another with --model",
    ),
    "generate: another model": (["generate", "--model", "nowhere"], "nowhere: no such directory"),
    "generate: a file": (["generate", "--model", "short.py"], "short.py"),
    "generate: a broken model": (["generate", "--model", "broken"], "model.safetensors"),
    "generate: no tokenizer": (["generate", "--model", "mute"], "mute: there is no tokenizer.json"),
    "generate: prompt file": ([*GENERATE, "--prompt-file", "nowhere.txt"], "nowhere.txt: No such file"),
    "generate: prompt bytes": ([*GENERATE, "--prompt-file", "bytes.txt"], "bytes.txt: not UTF-8"),
    "generate: prompt words": ([*GENERATE, "--prompt", "a\udcff"], "--prompt: not UTF-8"),
    "generate: two prompts": ([*GENERATE, "--prompt", "a", "--prompt-file", "short.py"], "--prompt and --prompt-file"),
    "generate: length": (["generate", "--model", "model", "--length", "-1"], "--length must be 0 or more, got -1"),
    "generate: temperature": ([*GENERATE, "--temp", "-0.1"], "--temp must be 0 or more, got -0.1"),
    "generate: no temperature": ([*GENERATE, "--temp", "nan"], "--temp must be 0 or more, got nan"),
    "generate: topk": ([*GENERATE, "--topk", "-1"], "--topk must be 0 (all) or more, got -1"),
    "generate: topp": ([*GENERATE, "--topp", "0"], "--topp must be more than 0 and at most 1, got 0"),
    "generate: topp above": ([*GENERATE, "--topp", "1.01"], "--topp must be more than 0 and at most 1, got 1.01"),
    "generate: min-p": ([*GENERATE, "--min-p", "1.5"], "--min-p must be at least 0 and at most 1, got 1.5"),
    "generate: repetition": (
        [*GENERATE, "--repetition-penalty", "0"],
        "--repetition-penalty must be more than 0, got 0",
    ),
    "generate: presence": ([*GENERATE, "--presence-penalty", "nan"], "--presence-penalty must be finite, got nan"),
    "generate: frequency": ([*GENERATE, "--frequency-penalty", "inf"], "--frequency-penalty must be finite, got inf"),
    "generate: samples": ([*GENERATE, "--num-samples", "0"], "--num-samples must be at least 1, got 0"),
    "generate: seed": ([*GENERATE, "--seed", "-1"], "--seed must be 0 or more, got -1"),
    "generate: too many threads": ([*GENERATE, "--threads", "1025"], "--threads must be at most 1024, got 1025"),
    "generate: threads": ([*GENERATE, "--threads", "0"], "--threads must be at least 1, got 0"),
    "generate: kernels": ([*GENERATE, "--kernels", "x"], "--kernels: unknown rung 'x'"),
    "eval: no model": (["eval", "--model", "nowhere", "--data", "sources"], "nowhere"),
    "eval: no data": (["eval", "--model", "model", "--data", "nowhere"], "'nowhere'"),
    "eval: too short": (["eval", "--model", "model", "--data", "letter.py"], "--data: the text must have at least two"),
    "eval: tokens": (["eval", "--model", "model", "--data", "sources", "--max-tokens", "0"], "--max-tokens"),
    "info: no model": (["info", "--model", "nowhere"], "nowhere"),
    "info: broken model": (["info", "--model", "broken"], "model.safetensors"),
    "bench: op": (["bench", "--op", "sofmax"], "--op: unknown op 'sofmax'; there are matmul"),
    "bench: sizes": (["bench", "--op", "softmax", "--sizes", "large"], "--sizes must look like M=512, got 'large'"),
    "bench: size of zero": (["bench", "--op", "matmul", "--sizes", "0"], "--sizes"),
    "bench: letter": (["bench", "--op", "softmax", "--sizes", "R=2", "Q=3"], "--sizes: softmax needs R C, got R Q"),
    "bench: missing letter": (["bench", "--op", "softmax", "--sizes", "R=2"], "--sizes: softmax needs R C, got R"),
    "bench: square softmax": (
        ["bench", "--op", "softmax", "--sizes", "64"],
        "--sizes: a plain number works with --op mat",
    ),
    "bench: sizes that do not fit": (
        ["bench", "--op", "attention", "--sizes", "B=1", "T=2", "H=3", "D=4", "S=1"],
        "are inconsistent sizes for attention",
    ),
    "bench: sizes of all": (["bench", "--sizes", "64"], "--sizes needs exactly one --op"),
    "bench: rung": (["bench", "--kernels", "naive", "fast"], "--kernels: unknown rung 'fast'; there are naive, "),
    "bench: no such rung of the op": (
        ["bench", "--op", "add", "--kernels", "blocked"],
        "--kernels: none of the chosen ops",
    ),
    "bench: library": (["bench", "--against", "numpy,jax"], "--against must be numpy or torch, got 'jax'"),
    "bench: op without a value": (["bench", "--op"], "--op needs at least one op"),
    "bench: sizes without a value": (["bench", "--op", "add", "--sizes"], "--sizes needs at least one size"),
    "bench: kernels without a value": (["bench", "--kernels"], "--kernels needs at least one rung"),
    "bench: threads": (["bench", "--op", "softmax", "--threads", "0"], "--threads must be at least 1, got 0"),
    "bench: seconds": (["bench", "--op", "softmax", "--seconds", "0"], "--seconds must be more than 0, got 0"),
    "bench: for ever": (["bench", "--op", "softmax", "--seconds", "inf"], "--seconds must be more than 0, got inf"),
}


@pytest.fixture
def work(tmp_path, sources, run, monkeypatch):
    """A current directory with the files that the arguments name."""
    shutil.copytree(sources, tmp_path / "sources")
    for name in ("model", "broken", "mute"):
        (tmp_path / name).mkdir()
        for part in ("config.json", "tokenizer.json", "model.safetensors"):
            shutil.copy(run / part, tmp_path / name)
    weights = tmp_path / "broken" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1])
    (tmp_path / "mute" / "tokenizer.json").unlink()
    (tmp_path / "empty").mkdir()
    (tmp_path / "prose").mkdir()
    (tmp_path / "begun").mkdir()
    files = {
        "prose/thesis.txt": b"mine",
        "short.py": b"x = 1\n",
        "letter.py": b"x",
        "id_rsa": b"-----BEGIN OPENSSH PRIVATE KEY-----\n",
        "bytes.txt": b"\xff\xfe",
        "broken.toml": b"lr = \n",
        "unknown.toml": b"learning-rate = 1.0\n",
        "value.toml": b'lr = "fast"\n',
        "table.toml": b"[train]\nlr = 1.0\n",
        "nested.toml": b'config = "range.toml"\n',
        "range.toml": b"dropout = 1.0\n",
        "begun/run.toml": b"layers = 2\nrope = false\n",
        "both.toml": b"steps = 5\nepochs = 1.0\n",
    }
    for name, data in files.items():
        (tmp_path / name).write_bytes(data)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize("what", WRONG)
def test_bad_input_is_one_line(work, capsys, what):
    """Catches a traceback, exit status 0, an error that names nothing, and partial results on disk."""
    arguments, words = WRONG[what]
    before = content(work), sorted(path.name for path in work.rglob("*"))
    assert cli.main(arguments) == 2
    out, err = capsys.readouterr()
    assert err.startswith("tinygpt: error: ")
    assert err.endswith("\n")
    assert err.count("\n") == 1, err
    assert words in err
    assert out == "" or arguments[0] == "train"  # training may print its sources before it finds the fault
    assert (content(work), sorted(path.name for path in work.rglob("*"))) == before


def test_the_same_arguments_without_the_mistake_work(work, capsys):
    """Catches a list of bad arguments that fail for a different reason."""
    assert cli.main([*TRAIN, "--quiet"]) == 0
    assert cli.main([*GENERATE, "--quiet"]) == 0
    assert cli.main(["eval", "--model", "model", "--data", "sources"]) == 0
    assert cli.main(["bench", "--op", "softmax", "--sizes", "R=2", "C=3", "--seconds", "0.001"]) == 0


@pytest.mark.parametrize(
    ("variable", "value", "words"),
    [
        ("TINYGPT_NUM_THREADS", "many", "TINYGPT_NUM_THREADS"),
        ("TINYGPT_KERNELS", "fast", "TINYGPT_KERNELS=fast: unknown rung 'fast'; there are naive"),
    ],
)
def test_a_wrong_environment_is_one_line(work, monkeypatch, variable, value, words):
    """Catches a traceback from the import of the kernels, which read the environment."""
    import subprocess

    monkeypatch.setenv(variable, value)
    done = subprocess.run([sys.executable, "-m", "tinygpt", "info"], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("tinygpt: error: ")
    assert words in done.stderr
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize("where", ["locked", "locked/run"])
def test_a_directory_without_permission_is_refused_at_once(work, capsys, monkeypatch, where):
    """Catches a run that trains and then cannot write its results.

    The missing permission is simulated, because root may write anywhere.
    """
    (work / "locked").mkdir()
    allowed = os.access
    monkeypatch.setattr(os, "access", lambda path, mode: "locked" not in str(path) and allowed(path, mode))
    assert cli.main(["train", "--data", "sources", "--out", where]) == 2
    assert capsys.readouterr().err == f"tinygpt: error: --out {where}: no permission to write in locked\n"
    assert not list((work / "locked").iterdir())


def test_bytes_on_standard_input_are_one_line(work, capsys, monkeypatch):
    """Catches a traceback for bytes that are not UTF-8."""
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"\xff"), encoding="utf-8"))
    assert cli.main([*GENERATE, "--prompt", "-"]) == 2
    assert capsys.readouterr().err == "tinygpt: error: standard input: not UTF-8: invalid start byte\n"


def test_a_missing_extra_is_named(work, capsys, monkeypatch):
    """Catches a page that fails after an hour of training, and an error that does not say what to install."""
    monkeypatch.setitem(sys.modules, "plotly", None)
    monkeypatch.setitem(sys.modules, "plotly.graph_objects", None)
    before = content(work)
    assert cli.main([*TRAIN, "--metrics", "m.html"]) == 2
    assert capsys.readouterr().err == "tinygpt: error: --metrics needs plotly: pip install 'tinygpt[viz]'\n"
    assert content(work) == before


def test_a_failed_run_has_exit_status_1(work, capsys):
    """Catches a failed run with the exit status of bad input, and an error of several lines."""
    blow_up = ["--optimizer", "sgd", "--lr", "1e30", "--clip", "0", "--momentum", "0", "--warmup", "0"]
    assert cli.main(["train", "--data", "sources", "--out", "out", "--seq", "16", *blow_up, "--quiet"]) == 1
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("tinygpt: error: step ")
    assert err.count("\n") == 1


def test_too_large_a_size_is_one_line(work, capsys):
    """Catches a traceback when memory is exhausted."""
    assert cli.main(["bench", "--op", "softmax", "--sizes", "R=9999999", "C=99999999"]) == 1
    err = capsys.readouterr().err
    assert err.startswith("tinygpt: error: not enough memory")
    assert err.count("\n") == 1


def test_a_wrong_rung_is_not_timed(work, capsys, monkeypatch):
    """Catches a bench that times a rung with wrong results, or ends in a traceback."""

    def wrong(function, case, n_threads):
        raise testing.Mismatch("[softmax] 'out' is wrong", "softmax", "out")

    monkeypatch.setattr(timing, "prepare", wrong)
    assert cli.main(["bench", "--op", "softmax", "--sizes", "R=2", "C=3"]) == 1
    out, err = capsys.readouterr()
    assert err == "tinygpt: error: rung naive computes wrong results on this machine: [softmax] 'out' is wrong\n"
    assert "speed-up" not in out


def test_a_defect_keeps_its_traceback(work, monkeypatch):
    """Catches error handling so broad that it hides defects of tinygpt itself."""

    def broken(arguments):
        raise error

    monkeypatch.setattr(app, "config_files", broken)
    for error in (KeyError("x"), AttributeError("x"), TypeError("x"), RuntimeError("x"), AssertionError("x")):
        with pytest.raises(type(error)):
            cli.main(["info"])


@pytest.mark.parametrize(("error", "status"), [(KeyboardInterrupt(), 130), (OSError("disk"), 2), (ValueError(), 2)])
def test_interrupts_and_system_errors_are_one_line(work, capsys, monkeypatch, error, status):
    """Catches a traceback for Ctrl-C outside of training, a system error, or an error without a message."""

    def ends(arguments):
        raise error

    monkeypatch.setattr(app, "config_files", ends)
    assert cli.main(["info"]) == status
    err = capsys.readouterr().err
    assert err.startswith("tinygpt: error: ")
    assert err.count("\n") == 1
    assert len(err) > len("tinygpt: error: \n")
