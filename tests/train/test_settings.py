"""Settings of a run: invalid values, and tables that read back as the same settings."""

import math

import pytest
import tomli_w

from tinygpt import GPT, cli
from tinygpt.tokenizers.gguf_metadata import PATTERN_OF, to_metadata
from tinygpt.train import loop
from tinygpt.train.memory import needed_bytes
from tinygpt.train.report import Report
from tinygpt.train.settings import DEFAULTS, TrainSettings, key
from tinygpt.train.setup import prepare

COUNTS = ("layers", "embed", "heads", "seq", "kv_heads", "ffn", "batch", "grad_accum", "eval_every", "steps",
          "log_every", "checkpoint_every", "keep", "threads", "max_chars", "vocab_size")  # fmt: skip
FROM_ZERO = ("warmup", "eval_tokens", "samples", "sample_length", "seed", "lr", "min_lr", "weight_decay", "clip")
WRONG = [
    *((name, value) for name in COUNTS for value in (0, -1)),
    *((name, -1) for name in FROM_ZERO),
    *((name, value) for name in ("lr", "min_lr", "weight_decay", "clip") for value in (math.inf, math.nan, -1e-9)),
    *(("tokens", value) for value in (0, -1)),
    *(("ema", value) for value in (1.0, -0.1, math.nan)),
    *(("spike_sigma", value) for value in (0.0, -1.0, math.inf, math.nan)),
    *(("decay", value) for value in (0.0, 1.1, math.nan)),
    *(("epochs", value) for value in (0.0, -1.0, math.inf, math.nan)),
    *(("fim_rate", value) for value in (-0.1, 1.1, math.nan)),
    *(("val_fraction", value) for value in (0.0, 1.0, -0.1, math.nan)),
    *((name, value) for name in ("dropout", "momentum") for value in (1.0, -0.1, math.nan)),
    *(("betas", value) for value in ((1.0, 0.9), (0.9, 1.0), (-0.1, 0.9), (0.9, math.nan))),
    *(("checkpoint_every", value) for value in ("0m", "-5m", "5 minutes", "m", "1.5h", "")),
    *(("max_minutes", value) for value in (0.0, -1.0, math.inf, math.nan)),
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
LENGTHS = ("steps", "epochs", "tokens")  # of which one is given
# Settings that belong to one call and are not saved with the run.
OF_A_CALL = {"resume", "config", "quiet", "max_minutes"}
# For every other setting, a value that is not the default.
OTHERS = {
    "data": ["one", "tw o/*.py"],
    "out": "elsewhere",
    "ext": ".py,.go",
    "val_fraction": 0.25,
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
    "fim_rate": 0.5,
    "pattern": "gpt4",
    "steps": 5,
    "epochs": 1.5,
    "tokens": 12345,
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
    "decay": 0.5,
    "ema": 0.99,
    "spike_sigma": 6.0,
    "overfit_one_batch": True,
    "seed": 2**62,
    "eval_every": 22,
    "eval_tokens": 0,
    "checkpoint_every": "13m",
    "keep": 5,
    "keep_best": True,
    "log_every": 3,
    "samples": 0,
    "sample_length": 0,
    "recompute": True,
    "kernels": "naive,softmax=numpy",
    "precision": "float32",
    "threads": 1,
    "metrics": "/page.html",
    "tensorboard": "/board",
    "watch": "weights",
    "watch_every": 5,
    "profile": True,
    "shard_optimizer": True,
    "deterministic_reduce": True,
    "compress": "bf16",
    "sync_every": 2,
    "outer_lr": 1 / 3,
    "outer_momentum": 0.5,
}
# Settings of a run from an existing model. Such a run cannot have the settings in SHAPE.
FURTHER = {"from_": "a model", "lora_rank": 3, "lora_alpha": 1 / 3, "lora_targets": ["out", "down"]}
EXCLUSIVE = (
    "shard_optimizer",
    "deterministic_reduce",
    "compress",
    "ema",
    "spike_sigma",
    "overfit_one_batch",
)  # with sync_every
SHAPE = ("layers", "embed", "heads", "kv_heads", "ffn", "rope", "rmsnorm", "swiglu", "bias", "tie", "tokenizer_type",
         "max_chars", "vocab_size", "pattern")  # fmt: skip


@pytest.fixture
def received(monkeypatch):
    """The settings that `tinygpt train` passes to the training loop, which is replaced and does not run."""
    calls = []
    monkeypatch.setattr(loop, "train", lambda settings, report, comm: calls.append(settings))
    return calls


@pytest.mark.parametrize(("name", "value"), WRONG)
def test_an_invalid_value_is_named(name, value):
    """Catches a bound that is missing or belongs to another setting, and an error that does not name the setting."""
    with pytest.raises(ValueError, match=rf"^\[train\] '{name}'[ :]") as error:
        TrainSettings(**{name: value}).validate()
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({"embed": 65}, ("'embed' 65", "'heads' 2")),
        ({"embed": 60, "heads": 4, "kv_heads": 3}, ("'heads' 4", "'kv_heads' 3")),
        ({"embed": 6, "rope": True}, ("'embed'", "'heads'", "'rope'")),
    ],
)
def test_inconsistent_values_are_named(settings, named):
    """Catches a shape that only the model refuses, with names that are not flags."""
    with pytest.raises(ValueError) as error:  # noqa: PT011 - the words are checked below
        TrainSettings(**settings).validate()
    assert all(name in str(error.value) for name in named)
    assert "\n" not in str(error.value)


def test_the_smallest_and_largest_values_pass():
    """Catches a bound that is off by one."""
    TrainSettings().validate()
    TrainSettings(**dict.fromkeys(COUNTS, 1) | {"vocab_size": 257}).validate()
    TrainSettings(**dict.fromkeys(FROM_ZERO, 0), dropout=0.0, momentum=0.0, betas=(0.0, 0.0)).validate()
    TrainSettings(val_fraction=1e-9, epochs=1e-9, dropout=0.999999).validate()


@pytest.mark.parametrize(
    "changes",
    [{"embed": 10_000_000}, {"batch": 10**8}, {"seq": 10**9}, {"layers": 10**7}, {"ffn": 10**9},
     {"vocab_size": 10**10, "tokenizer_type": "bpe"}],
    ids=str,
)  # fmt: skip
def test_a_model_too_large_for_memory_is_refused_at_once(tmp_path, changes):
    """Catches minutes of work before an error that does not say which setting is too large."""
    name = next(iter(changes))
    settings = TrainSettings(data=[str(tmp_path / "nowhere")], out=str(tmp_path / "out"), **changes)
    words = rf"^\[train\] '{name}' \d+ is too large: .* [MTPE]iB of memory, this machine has"
    with pytest.raises(ValueError, match=words):
        loop.train(settings)
    assert list(tmp_path.iterdir()) == []


def test_the_memory_estimate_is_not_too_high():
    """Catches a run that is refused although it would fit."""
    for changes in ({}, {"swiglu": True, "rope": True, "tie": False}, {"optimizer": "sgd"}):
        settings = TrainSettings(embed=128, layers=4, batch=8, **changes)
        config = settings.model.config(300)
        model = GPT(config, None)
        parts = {"sgd": 3}.get(settings.optimisation.optimizer, 4)
        weights = 4 * parts * model.num_parameters()
        estimate = needed_bytes(settings.replace(batch=1, seq=1), config)
        assert 0.9 * weights < estimate < 1.05 * weights


def test_every_setting_reaches_the_model():
    """Catches a setting of the shape that is ignored."""
    config = TrainSettings(**OTHERS).model.config(99)
    assert (config.vocab_size, config.block_size, config.n_layer, config.n_embd) == (99, 17, 3, 48)
    assert (config.n_head, config.n_kv_head, config.ffn_dim, config.dropout) == (4, 2, 100, 0.1)
    assert (config.position, config.norm, config.activation) == ("rope", "rmsnorm", "swiglu")
    assert (config.bias, config.tie_embeddings) == (False, False)


@pytest.mark.parametrize("length", LENGTHS)
def test_a_table_read_back_is_the_same(tmp_path, monkeypatch, received, length):
    """Catches a setting that the table lacks, rounds, or writes in a form that cannot be read."""
    assert OTHERS.keys() | FURTHER.keys() | OF_A_CALL == DEFAULTS.keys()
    settings = TrainSettings(**{name: value for name, value in OTHERS.items() if name not in LENGTHS or name == length})
    monkeypatch.chdir(tmp_path)
    (tmp_path / "again.toml").write_text(tomli_w.dumps(settings.table()))
    assert cli.main(["train", "--config", "again.toml"]) == 0
    data = [str(tmp_path / name) for name in settings.corpus.data]
    assert settings.table().keys() & set(LENGTHS) == {length}
    assert received == [settings.replace(data=data, config="again.toml")]


def test_a_table_of_a_run_from_a_model_read_back_is_the_same(tmp_path, monkeypatch, received):
    """Catches a resumed run without its adapters, and a table that contains a shape."""
    rest = {name: value for name, value in OTHERS.items() if name not in (*SHAPE, *EXCLUSIVE, "epochs", "tokens")}
    settings = TrainSettings(**rest, **FURTHER)
    settings.validate()
    monkeypatch.chdir(tmp_path)
    (tmp_path / "again.toml").write_text(tomli_w.dumps(settings.table()))
    assert not settings.table().keys() & {name.replace("_", "-") for name in SHAPE}
    assert cli.main(["train", "--config", "again.toml"]) == 0
    data = [str(tmp_path / name) for name in settings.corpus.data]
    from_ = str(tmp_path / "a model")
    assert received == [settings.replace(data=data, from_=from_, config="again.toml")]


@pytest.mark.parametrize("name", SHAPE)
def test_a_shape_with_from_is_refused(name, tmp_path, monkeypatch, received, capsys):
    """Catches a shape flag that is ignored: given as a value, as its default, in a file, or when resuming."""
    default = DEFAULTS[name]
    words = f"--{key(name)} cannot be given with --from"
    with pytest.raises(ValueError, match=f"'{name}' cannot be given with 'from'"):
        TrainSettings(from_="model", **{name: OTHERS[name]}).validate()
    monkeypatch.chdir(tmp_path)
    typed = ["--" + key(name)] if default in (True, False) else ["--" + key(name), str(default or 2)]
    given = tomli_w.dumps({name: 2 if default is None else default})
    (tmp_path / "one.toml").write_text(given)
    (tmp_path / "two.toml").write_text(given + 'from = "model"\n')
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "run.toml").write_text('from = "model"\n')
    calls = [["--from", "model", *typed], ["--from=model", "--config", "one.toml"], ["--config", "two.toml"]]
    calls.append(["--resume", "--out", "out", *typed])
    if default in (True, False):
        calls.append(["--from", "model", "--no-" + key(name)])
    for call in calls:
        assert cli.main(["train", *call]) == 2, call
        assert words in capsys.readouterr().err
    assert received == []
    kind = ["--tokenizer-type", "bpe"] if name in ("vocab_size", "pattern") else []
    assert cli.main(["train", *typed, *kind]) == 0
    assert cli.main(["train", "--from", "model"]) == 0


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"lora_rank": 4}, "'lora_rank' needs 'from'"),
        ({"from_": "m", "lora_alpha": 4.0}, "'lora_alpha' needs 'lora_rank'"),
        ({"from_": "m", "lora_targets": ["qkv"]}, "'lora_targets' needs 'lora_rank'"),
        ({"from_": "m", "lora_rank": 0}, "'lora_rank' must be at least 1, got 0"),
        *(({"from_": "m", "lora_rank": 1, "lora_alpha": x}, "'lora_alpha' must") for x in (0.0, math.inf, math.nan)),
        ({"from_": "m", "lora_rank": 1, "lora_targets": ["q"]}, "'lora_targets' must be among qkv, .*, down, got q"),
        ({"from_": "m", "lora_rank": 1, "lora_targets": []}, "'lora_targets' must"),
    ],
)
def test_invalid_adapter_settings_are_named(settings, words):
    """Catches adapters on a model from scratch, which would train noise, and a flag without effect."""
    with pytest.raises(ValueError, match=words) as error:
        TrainSettings(**settings).validate()
    assert "\n" not in str(error.value)


def test_a_table_leaves_out_settings_of_the_call():
    """Catches a run.toml that would resume, or be quiet, whenever it is given as --config."""
    assert not TrainSettings(resume=True, config="x", quiet=True).table().keys() & OF_A_CALL


def test_defaults_are_in_the_table():
    """Catches a run.toml whose meaning would change with the defaults of a later version."""
    table = TrainSettings().table()
    assert (table["tokenizer-type"], table["precision"]) == ("char", "float32")


def test_data_is_found_from_another_folder(tmp_path, monkeypatch):
    """Catches relative paths in run.toml, which mean other files when a run is resumed from another folder."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path / "me"))
    table = TrainSettings(data=["code", "code/*.py", "~/code", "/code"]).table()
    wanted = [str(tmp_path / "code"), str(tmp_path / "code" / "*.py"), str(tmp_path / "me" / "code"), "/code"]
    assert table["data"] == wanted


class Notes(Report):
    """A report that keeps the notes of a run."""

    def __init__(self):
        self.notes = []

    def note(self, text):
        self.notes.append(text)


def test_a_default_bpe_model_can_be_exported(tmp_path):
    """Catches a default pattern that GGUF cannot name, and no note about such a pattern."""
    assert TrainSettings().corpus.pattern in PATTERN_OF.values()
    (tmp_path / "a.py").write_text("def add(a, b):\n    return a + b\n" * 40)
    for changes, expected in (({}, 0), ({"pattern": "gpt4"}, 0), ({"pattern": "code"}, 1)):
        report = Notes()
        tokenizer = prepare(
            TrainSettings(data=[str(tmp_path)], tokenizer_type="bpe", seq=8, **changes), report
        ).tokenizer
        assert sum("cannot be exported to llama.cpp" in note for note in report.notes) == expected
        if not expected:
            to_metadata(tokenizer)
