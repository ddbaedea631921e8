"""Training from an existing model: all weights, or adapters only."""

import json
import math
import re
import shutil
import signal

import numpy as np
import pytest
from safetensors.numpy import load_file
from tiny_run import MODEL, Listening, content, state, tiny, train_arrays, without_clock, write_sources

import tinygpt
from tinygpt import GPT, GPTConfig, cli, lora, optim
from tinygpt.data.windows import Windows
from tinygpt.evaluate import evaluate
from tinygpt.files import adapters
from tinygpt.runs import layout
from tinygpt.runs.metrics import read_metrics
from tinygpt.tokenizers import BPETokenizer
from tinygpt.train.loop import Interrupted, train
from tinygpt.train.report import Report
from tinygpt.train.settings import TrainSettings
from tinygpt.train.setup import flops_per_token, prepare

LLAMA = {"position": "rope", "norm": "rmsnorm", "activation": "swiglu", "bias": False, "rope_theta": 500.0}
WAYS = {"full": {}, "adapters": {"lora_rank": 2, "seed": 3, "lr": 3e-2}}
WAYS["some"] = {"lora_rank": 1, "lora_targets": ["down", "qkv"], "lr": 3e-2}


def checkpoints(out):
    return sorted(path.name for path in (out / "checkpoints").iterdir())


def stop(*_):
    signal.raise_signal(signal.SIGINT)


@pytest.fixture(scope="module")
def other(tmp_path_factory):
    """A text unlike the one the base model was trained on."""
    folder = tmp_path_factory.mktemp("other") / "notes"
    folder.mkdir()
    for i in range(6):
        lines = [f"Note {n} of day {i}: {n} apples, {n + i} pears.\n" for n in range(1, 40)]
        (folder / f"day{i}.py").write_text("".join(lines))
    return folder


@pytest.fixture(scope="module")
def base(sources, tmp_path_factory):
    """A briefly trained Llama model directory, with a longer context than the runs use."""
    folder = tmp_path_factory.mktemp("base") / "model"
    text = "".join(path.read_text() for path in sorted(sources.iterdir()))
    tokenizer = BPETokenizer.train([text], 280)
    model = GPT(GPTConfig(tokenizer.vocab_size + 4, 40, 2, 2, 16, ffn_dim=24, norm_eps=1e-4, **LLAMA), seed=5)
    windows, optimizer = Windows(tokenizer.encode(text), 40), optim.AdamW(model.parameters(), 1e-2)
    for step in range(40):
        optimizer.zero_grad()
        model.loss(*windows.batch(4 * step, 4)).backward()
        optimizer.step()
    tinygpt.save(folder, model, tokenizer)
    return folder


def further(data, out, base, **changes):
    """Settings for 12 steps from an existing model."""
    pace = {"steps": 12, "eval_every": 4, "checkpoint_every": 5, "samples": 0, "threads": 1, "warmup": 2, "lr": 3e-3}
    start = {"data": [str(data)], "out": str(out), "from_": str(base), "seq": 16}
    return TrainSettings(**{**start, **pace, **changes})


@pytest.fixture(scope="module", params=WAYS)
def done(request, other, base, tmp_path_factory):
    """A finished run of 12 steps for each kind of training, with its report and score."""
    out, report = tmp_path_factory.mktemp("further") / "mine", Listening()
    before = content(base)
    score = train(further(other, out, base, **WAYS[request.param]), report)
    assert content(base) == before
    return out, report, score, WAYS[request.param]


def test_the_validation_loss_falls_from_that_of_the_given_model(done, other, base):
    """Catches fresh weights, another vocabulary, and a missing evaluation of the given model."""
    out, report, score, way = done
    run = prepare(further(other, out, base, **way), Report())
    model, tokenizer = tinygpt.load(base)
    assert (run.corpus.validation == tokenizer.encode(tokenizer.decode(run.corpus.validation))).all()
    given = evaluate(model, run.corpus.validation, run.corpus.validation_bytes, window=16)
    lines = [line for line in read_metrics(out / "metrics.jsonl") if "val_loss" in line]
    assert [line["step"] for line in lines] == [-1, 3, 7, 11]
    assert lines[0]["val_loss"] == given.loss
    assert f"validation loss {given.loss:.4f}" in report.facts["given"]
    assert "windows of 16 tokens" in report.facts["given"]
    assert score.loss < given.loss - 0.02


def test_a_loss_of_the_first_tokens_says_so(other, base, tmp_path):
    """Catches losses over different tokens printed as if they were comparable."""
    report = Listening()
    train(further(other, tmp_path / "out", base, steps=1, eval_tokens=32), report)
    run = prepare(further(other, tmp_path / "out", base), Report())
    assert f"the first 32 of {len(run.corpus.validation) - 1:,} tokens" in report.facts["given"]


def test_the_result_has_the_architecture_of_the_given_model(done, base, other):
    """Catches a changed context, RoPE base or epsilon, and a result without its adapters."""
    out, _, score, way = done
    given, found = (json.loads((folder / "config.json").read_text()) for folder in (base, out))
    assert found == given
    for name in ("tokenizer.json", "tokenizer_config.json"):
        assert (out / name).read_bytes() == (base / name).read_bytes()
    held = prepare(further(other, out, base), Report()).corpus
    assert evaluate(tinygpt.load(out)[0], held.validation, held.validation_bytes, window=16) == score
    names = [*MODEL, "checkpoints", "metrics.jsonl", "run.toml", *(["adapter"] if way else [])]
    assert sorted(path.name for path in out.iterdir()) == sorted(names)
    before, after = (load_file(folder / "model.safetensors") for folder in (base, out))
    moved = {name.split(".")[-2] for name in before if (before[name] != after[name]).any()}
    everything = {"embed_tokens", "q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj",
                  "input_layernorm", "post_attention_layernorm", "norm"}  # fmt: skip
    adapted = {name for name in everything if name.endswith("_proj")}
    some = {"q_proj", "k_proj", "v_proj", "down_proj"}
    assert moved == (everything if not way else some if "lora_targets" in way else adapted)


def test_the_adapters_of_the_best_model_are_saved(done, base):
    """Catches adapters of a different step than the merged weights."""
    out, _, _, way = done
    if not way:
        assert not (out / "adapter").exists()
        return
    model = tinygpt.load(base)[0]
    adapters.load(out / "adapter", model)
    assert lora.of(model).base == str(base)
    lora.merge(model)
    merged = tinygpt.load(out)[0]
    assert all((a.data == b.data).all() for a, b in zip(model.parameters(), merged.parameters(), strict=True))


def test_checkpoints_of_adapters_are_small(done, base):
    """Catches a checkpoint that contains the frozen weights."""
    out, _, _, way = done
    assert checkpoints(out) == ["step-10", "step-12"]
    last = content(out / "checkpoints" / "step-12")
    assert ("model.safetensors" in last) == (not way)
    if way:
        trained = load_file(out / "adapter" / adapters.WEIGHTS)
        values = sum(array.nbytes for array in trained.values())
        assert sum(map(len, last.values())) < 4 * values + 12000


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("cut", [1, 6])
def test_a_resumed_run_is_identical(other, base, tmp_path, way, cut):
    """Catches reinitialised adapters, lost moments, and a best loss that forgets the given model."""
    options = WAYS[way] | {"dropout": 0.1, "grad_accum": 2, "batch": 2}
    whole, halves = (further(other, tmp_path / name, base, **options) for name in ("whole", "halves"))
    score = train(whole)
    with pytest.raises(Interrupted):
        train(halves, Listening(**{f"step{cut - 1}": stop}))
    tinygpt.load(halves.output.out)
    halves.output.resume = True
    report = Listening()
    assert train(halves, report) == score
    assert [record["step"] for record in report.records] == list(range(cut, 12))
    one, two = tmp_path / "whole", tmp_path / "halves"
    for part in (".", "checkpoints/step-12", *(["adapter", "checkpoints/step-12/adapter"] if WAYS[way] else [])):
        assert state(one / part), part
        assert state(one / part) == state(two / part), part
    assert without_clock(read_metrics(one / "metrics.jsonl")) == without_clock(read_metrics(two / "metrics.jsonl"))


def test_from_the_command_line_and_resumed(other, base, tmp_path, capsys):
    """Catches an ignored flag, and a run.toml from which a run with adapters cannot be resumed."""
    out = tmp_path / "out"
    words = f"--from {base} --data {other} --out {out} --seq 16 --steps 3 --samples 0 --threads 1".split()
    assert cli.main(["train", *words, "--lora-rank", "2", "--lora-targets", "qkv", "up", "--lora-alpha", "3"]) == 0
    told = capsys.readouterr().out
    assert re.search(r"^adapters +rank 2, alpha 3, on qkv, up: [\d,]+ parameters", told, re.MULTILINE)
    assert re.search(r"^given +validation loss", told, re.MULTILINE)
    assert cli.main(["train", "--resume", "--out", str(out), "--steps", "5", "--quiet"]) == 0
    lines = [line["step"] for line in read_metrics(out / "metrics.jsonl") if "loss" in line]
    assert lines == [0, 1, 2, 3, 4]
    assert cli.main(["train", *words, "--lora-targets", "q", "--lora-rank", "1"]) == 2


def test_a_changed_base_is_refused_and_a_moved_one_found_again(other, base, tmp_path):
    """Catches adapters resumed over different weights, and an error that does not say what to do."""
    mine = shutil.copytree(base, tmp_path / "base")
    settings = further(other, tmp_path / "out", mine, lora_rank=2)
    with pytest.raises(Interrupted):
        train(settings, Listening(step2=stop))
    settings.output.resume = True
    before = content(tmp_path / "out")
    mine.rename(tmp_path / "moved")
    with pytest.raises(FileNotFoundError, match=rf"{mine}: no such directory; .*say with 'from' where it is now"):
        train(settings)
    model, tokenizer = tinygpt.load(base)
    model.norm.weight.data[0] += 0.5
    tinygpt.save(mine, model, tokenizer)
    with pytest.raises(ValueError, match=rf"belongs to a base \({mine}\) with other weights"):
        train(settings)
    assert content(tmp_path / "out") == before
    settings.model.from_ = str(tmp_path / "moved")
    train(settings)


def test_a_full_run_is_resumed_without_its_base(other, base, tmp_path):
    """Catches a complete checkpoint that is not used."""
    mine = shutil.copytree(base, tmp_path / "base")
    settings = further(other, tmp_path / "out", mine)
    with pytest.raises(Interrupted):
        train(settings, Listening(step2=stop))
    shutil.rmtree(mine)
    settings.output.resume = True
    train(settings)


def test_defaults_follow_the_model(sources, base, tmp_path):
    """Catches the context length, learning rate or dropout of a model from scratch."""
    data = write_sources(tmp_path / "data")

    def prepared(**changes):
        return prepare(TrainSettings(data=[str(data)], from_=str(base), **changes), Report())

    run, adapters = prepared(), prepared(lora_rank=2)
    assert (run.settings.model.seq, run.windows.block_size) == (40, 40)
    assert run.settings.peak_lr == 0.06 / 16
    assert adapters.settings.peak_lr == 0.6 / 16
    assert adapters.settings.model.lora_alpha == 4
    assert prepared(lr=0.5).settings.peak_lr == 0.5
    assert prepared(dropout=0.2).model.config.dropout == 0.2
    long = tinygpt.load(base)[0]
    model = GPT(GPTConfig(**vars(long.config) | {"block_size": 300, "dropout": 0.25}), seed=0)
    tinygpt.save(tmp_path / "long", model, tinygpt.load(base)[1])
    run = prepare(TrainSettings(data=[str(data)], from_=str(tmp_path / "long"), val_fraction=0.4), Report())
    assert (run.settings.model.seq, run.model.config.block_size, run.model.config.dropout) == (256, 300, 0.25)
    assert prepare(tiny(sources, tmp_path, seq=None), Report()).settings.model.seq == 64


def test_dropout_reaches_every_block(other, base, tmp_path):
    """Catches a dropout rate that is in the config but not applied."""
    losses = set()
    for dropout in (0.0, 0.2):
        run = prepare(further(other, tmp_path, base, dropout=dropout), Report())
        assert run.model.config.dropout == dropout
        losses.add(tuple(train_arrays(run, 2)))
    assert len(losses) == 2


def test_flops_are_those_of_the_run(other, base, tmp_path):
    """Catches flops counted for the whole context, or for gradients that adapters do not need."""
    full = prepare(further(other, tmp_path, base), Report())
    light = prepare(further(other, tmp_path, base, lora_rank=1), Report())
    config = GPTConfig(**vars(full.model.config) | {"block_size": 16})
    assert flops_per_token(full.settings, full.model) == config.flops_per_token()
    trained = sum(p.data.size for p in light.optimizer.parameters)
    assert flops_per_token(light.settings, light.model) == 2 * config.flops_per_token(backward=False) + 6 * trained


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"seq": 41}, "'seq' 41 must be at most the context of the model, 40"),
        ({"from_": "nowhere"}, "nowhere: no such directory"),
        ({"from_": "{bare}"}, "bare: there is no tokenizer.json"),
        ({"from_": "{out}"}, "'out' .*out: is also the model that 'from' names"),
    ],
)
def test_an_unusable_model_is_refused(other, base, tmp_path, changes, message):
    """Catches a run directory of a run that could not begin, and a base moved away by its own run."""
    tinygpt.save(tmp_path / "bare", tinygpt.load(base)[0])
    train(further(other, tmp_path / "out", base, steps=1))
    before = content(tmp_path)
    changes = {name: value.format(bare=tmp_path / "bare", out=tmp_path / "out") if name == "from_" else value
               for name, value in changes.items()}  # fmt: skip
    out = tmp_path / "out" if "out" in str(changes) else tmp_path / "new"
    with pytest.raises((ValueError, FileNotFoundError), match=message) as error:
        train(further(other, out, base, **changes))
    assert "\n" not in str(error.value)
    assert content(tmp_path) == before


def test_a_model_that_only_gets_worse_is_kept_unchanged(sources, base, tmp_path):
    """Catches a best model worse than the given one, and the score of the last model."""
    for name, way in (("full", {"lr": 1.0}), ("light", {"lora_rank": 2, "lr": 1.0})):
        out = tmp_path / name
        score = train(further(sources, out, base, steps=4, clip=0.0, warmup=0, schedule="constant", **way))
        lines = [line["val_loss"] for line in read_metrics(out / "metrics.jsonl") if "val_loss" in line]
        assert lines[0] == min(lines) < math.inf
        assert score.loss < lines[0] + 0.1 < lines[-1]  # the score of the best model, not of the last
        one, two = (load_file(folder / "model.safetensors") for folder in (base, out))
        assert all(np.array_equal(one[key], two[key]) for key in one)
        assert layout.latest_checkpoint(out) is not None
