"""Settings of a run: what is refused, and that a file of them means the same as flags."""

import dataclasses
import math

import pytest
import tomli_w

from tinygpt import cli
from tinygpt.train import loop
from tinygpt.train.settings import TrainSettings, flag

COUNTS = ("layers", "embed", "heads", "seq", "kv_heads", "ffn", "batch", "grad_accum", "eval_every", "steps",
          "checkpoint_every", "threads", "max_chars", "vocab_size")  # fmt: skip
FROM_ZERO = ("warmup", "eval_tokens", "samples", "sample_length", "seed", "lr", "min_lr", "weight_decay", "clip")
WRONG = [
    *((name, value) for name in COUNTS for value in (0, -1)),
    *((name, -1) for name in FROM_ZERO),
    *((name, value) for name in ("lr", "min_lr", "weight_decay", "clip") for value in (math.inf, math.nan, -1e-9)),
    *(("epochs", value) for value in (0.0, -1.0, math.inf, math.nan)),
    *(("held_out", value) for value in (0.0, 1.0, -0.1, math.nan)),
    *((name, value) for name in ("dropout", "momentum") for value in (1.0, -0.1, math.nan)),
    *(("betas", value) for value in ((1.0, 0.9), (0.9, 1.0), (-0.1, 0.9), (0.9, math.nan))),
    ("data", []),
    ("optimizer", "adagrad"),
    ("schedule", "step"),
    ("tokenizer_type", "words"),
    ("pattern", "gpt3"),
    ("vocab_size", 256),
    ("precision", "float16"),
    ("ext", "a/b"),
    ("ext", ","),
]
# What belongs to one call and not to the run.
OF_A_CALL = {"resume", "config", "quiet", "metrics", "profile"}
# A value for every other setting that is not its default.
OTHERS = {
    "data": ["one", "tw o/*.py"],
    "out": "elsewhere",
    "ext": ".py,.go",
    "held_out": 0.25,
    "layers": 3,
    "embed": 48,
    "heads": 4,
    "seq": 17,
    "kv_heads": 2,
    "ffn": 100,
    "rope": True,
    "rmsnorm": True,
    "swiglu": True,
    "bias": False,
    "tie": False,
    "dropout": 0.1,
    "tokenizer_type": "bpe",
    "max_chars": 77,
    "vocab_size": 600,
    "pattern": "gpt4",
    "steps": 5,
    "epochs": 1.5,
    "batch": 3,
    "grad_accum": 2,
    "optimizer": "adam",
    "lr": 1 / 3,
    "min_lr": 1e-300,
    "warmup": 7,
    "schedule": "linear",
    "betas": (0.1, 0.2),
    "weight_decay": 0.01,
    "momentum": 0.3,
    "clip": 0.0,
    "seed": 2**62,
    "eval_every": 11,
    "eval_tokens": 0,
    "checkpoint_every": 13,
    "samples": 0,
    "sample_length": 0,
    "recompute": True,
    "kernels": "naive,softmax=numpy",
    "precision": "float32",
    "threads": 1,
}


@pytest.fixture
def told(monkeypatch):
    """The settings that `tinygpt train` hands to the loop, which does not run."""
    calls = []
    monkeypatch.setattr(loop, "train", lambda settings, report: calls.append(settings))
    return calls


@pytest.mark.parametrize(("name", "value"), WRONG)
def test_a_wrong_value_is_named(name, value):
    """Catches a bound that is not checked, or checked for another setting, and a message that hides which one."""
    with pytest.raises(ValueError, match=rf"^{flag(name)}\b") as error:
        TrainSettings(**{name: value}).validate()
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({"embed": 65}, ("--embed 65", "--heads 2")),
        ({"embed": 60, "heads": 4, "kv_heads": 3}, ("--heads 4", "--kv-heads 3")),
        ({"embed": 6, "rope": True}, ("--embed", "--heads", "--rope")),
    ],
)
def test_values_that_do_not_fit_together_are_named(settings, named):
    """Catches a shape that the model would refuse in words the command line does not know."""
    with pytest.raises(ValueError) as error:  # noqa: PT011 - the words are checked below
        TrainSettings(**settings).validate()
    assert all(name in str(error.value) for name in named)
    assert "\n" not in str(error.value)


def test_the_smallest_and_largest_values_pass():
    """Catches a bound that is one off."""
    TrainSettings().validate()
    TrainSettings(**dict.fromkeys(COUNTS, 1) | {"vocab_size": 257}).validate()
    TrainSettings(**dict.fromkeys(FROM_ZERO, 0), dropout=0.0, momentum=0.0, betas=(0.0, 0.0)).validate()
    TrainSettings(held_out=1e-9, epochs=1e-9, dropout=0.999999).validate()


def test_every_setting_reaches_the_model():
    """Catches a flag of the shape that is read and then forgotten."""
    config = TrainSettings(**OTHERS).model_config(99)
    assert (config.vocab_size, config.block_size, config.n_layer, config.n_embd) == (99, 17, 3, 48)
    assert (config.n_head, config.n_kv_head, config.ffn_dim, config.dropout) == (4, 2, 100, 0.1)
    assert (config.position, config.norm, config.activation) == ("rope", "rmsnorm", "swiglu")
    assert (config.bias, config.tie_embeddings) == (False, False)


@pytest.mark.parametrize("left_out", ["epochs", "steps"])
def test_a_table_read_back_is_the_same(tmp_path, monkeypatch, told, left_out):
    """Catches a setting that the table lacks, rounds, or writes under a name or in a form that is not read."""
    assert OTHERS.keys() | OF_A_CALL == {field.name for field in dataclasses.fields(TrainSettings)}
    settings = TrainSettings(**{name: value for name, value in OTHERS.items() if name != left_out})
    monkeypatch.chdir(tmp_path)
    (tmp_path / "run.toml").write_text(tomli_w.dumps(settings.table()))
    assert cli.main(["train", "--config", "run.toml"]) == 0
    data = [str(tmp_path / name) for name in settings.data]
    if left_out == "steps":
        assert "steps" not in settings.table()
    assert told == [dataclasses.replace(settings, data=data, config="run.toml")]


def test_a_table_leaves_out_what_belongs_to_a_call():
    """Catches a run.toml that would resume, or write a page, each time it is given as --config."""
    settings = TrainSettings(resume=True, config="x", quiet=True, metrics="x", profile=True)
    assert not settings.table().keys() & OF_A_CALL


def test_the_only_kinds_so_far_are_in_the_table():
    """Catches a run.toml from which a later version could not tell what the run was."""
    table = TrainSettings().table()
    assert (table["tokenizer-type"], table["precision"]) == ("char", "float32")


def test_data_is_found_from_another_folder(tmp_path, monkeypatch):
    """Catches relative paths in run.toml, which mean other files when the run goes on from elsewhere."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path / "me"))
    table = TrainSettings(data=["code", "code/*.py", "~/code", "/code"]).table()
    wanted = [str(tmp_path / "code"), str(tmp_path / "code" / "*.py"), str(tmp_path / "me" / "code"), "/code"]
    assert table["data"] == wanted
