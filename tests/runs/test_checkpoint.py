"""Checkpoints: they restore the exact state, and a kill or a damaged file leaves what was there."""

import json
import os
import re
import shutil
import weakref
from pathlib import Path

import adapted_models
import numpy as np
import pytest
from saved_models import OPTIMIZERS, STATE, TOKENIZER, bits, filled, killed, listing, not_finite, train

import tinygpt
from tinygpt import lora, optim
from tinygpt.files import adapters, weights
from tinygpt.io import checksums
from tinygpt.runs import checkpoint, layout


@pytest.fixture
def run(tmp_path):
    """A run directory with one checkpoint, and the model and optimizer saved in it."""
    model = filled()
    optimizer = OPTIMIZERS["AdamW"](model)
    train(model, optimizer, 3)
    folder = layout.checkpoint_directory(tmp_path, 3)
    checkpoint.save_checkpoint(folder, model, TOKENIZER, optimizer, STATE)
    return folder, model, optimizer


def test_a_kill_leaves_no_partial_checkpoint(run):
    """Catches a checkpoint that can be found before it is complete."""
    folder, _, _ = run
    root, calls = folder.parent.parent, 0
    while killed("checkpoint", layout.checkpoint_directory(root, 4), calls):
        found = layout.latest_checkpoint(root)
        if found == folder:
            again = filled(9)
            assert checkpoint.load_checkpoint(found, again, OPTIMIZERS["AdamW"](again)) == STATE
        else:
            assert found == layout.checkpoint_directory(root, 4)
            again = filled(9)
            assert checkpoint.load_checkpoint(found, again, optim.SGD(again.parameters())) == {"step": 4}
            shutil.rmtree(found)
        calls += 1
    assert calls > 8
    checkpoint.prune_checkpoints(root)
    assert listing(folder.parent) == ["step-3", "step-4"]


@pytest.mark.parametrize("name", OPTIMIZERS)
@pytest.mark.parametrize(
    "options",
    [
        {"dropout": 0.25, "bias": False},
        {"position": "rope", "norm": "rmsnorm", "activation": "swiglu", "bias": False, "n_kv_head": 1},
        {"position": "rope", "tie_embeddings": False, "rope_theta": 77.0},
    ],
)
def test_a_loaded_checkpoint_continues_exactly(tmp_path, name, options):
    """Catches a weight, a moment or a step count that is not restored bit for bit."""
    model = filled(1, **options)
    optimizer = OPTIMIZERS[name](model)
    train(model, optimizer, 3)
    checkpoint.save_checkpoint(tmp_path / "step-3", model, None, optimizer, STATE)
    other = filled(2, **options)
    again = OPTIMIZERS[name](other)
    train(other, again, 1)
    state = checkpoint.load_checkpoint(tmp_path / "step-3", other, again)
    assert state == STATE
    assert bits(other, again) == bits(model, optimizer)
    train(model, optimizer, 2)
    train(other, again, 2)
    assert bits(other, again) == bits(model, optimizer)


def test_a_checkpoint_is_a_model_directory(run):
    """Catches a checkpoint that only a training run can open."""
    folder, model, _ = run
    found, tokenizer = tinygpt.load(folder)
    assert bits(found) == bits(model)
    assert tokenizer.characters == TOKENIZER.characters
    assert len(listing(folder)) == 7


def test_a_checkpoint_of_the_same_step_is_replaced(run):
    """Catches a rename onto an existing directory, which fails."""
    folder, _, _ = run
    model = filled(7)
    checkpoint.save_checkpoint(folder, model, None, OPTIMIZERS["SGD"](model), {"step": 3})
    assert bits(tinygpt.load(folder)[0]) == bits(model)
    assert tinygpt.load(folder)[1] is None
    assert listing(folder.parent) == ["step-3"]


def test_only_some_parameters_may_be_trained(tmp_path):
    """Catches optimizer state saved by position, which would restore it to the wrong parameter."""
    model = filled()
    chosen = [p for name, p in model.named_parameters() if "attn" in name]
    optimizer = optim.AdamW(chosen[::-1])
    train(model, optimizer, 2)
    checkpoint.save_checkpoint(tmp_path / "step-2", model, None, optimizer, {"step": 2})
    other = filled(2)
    again = optim.AdamW([p for name, p in other.named_parameters() if "attn" in name])
    checkpoint.load_checkpoint(tmp_path / "step-2", other, again)
    assert bits(other, again) == bits(model, optimizer)


def test_loading_keeps_no_copy_of_the_tensors(run, monkeypatch):
    """Catches tensors kept between check and use: the memory of a second model and optimizer."""
    folder, model, optimizer = run
    seen, alive = [], []

    def read(self, name, do=weights.TensorFile.read):
        values = do(self, name)
        seen.append(weakref.ref(values))
        alive.append(sum(reference() is not None for reference in seen))
        return values

    monkeypatch.setattr(weights.TensorFile, "read", read)
    checkpoint.load_checkpoint(folder, model, optimizer)
    tinygpt.load(folder)
    assert len(seen) > 3 * len(list(model.parameters()))
    assert max(alive) <= 3  # a loop variable keeps its tensor until the next one is read, and after the loop


def rewrite(folder, name, old, new):
    """Replace bytes of a file by as many others, so that no offset changes."""
    content = (folder / name).read_bytes()
    assert content.count(old) == 1
    assert len(old) == len(new)
    (folder / name).write_bytes(content.replace(old, new))


SHAPE = b'"v.wpe.weight":{"dtype":"F32","shape":[%d,%d]'
BREAKS = {
    "seconds": (
        lambda d: (d / "state.json").write_text('{"step": 1, "seconds": 1e999}'),
        "state.json: 'seconds' must be a finite number from 0, got ",
    ),
    "no weights": (lambda d: (d / "model.safetensors").unlink(), "model.safetensors: no such file"),
    "no optimizer": (lambda d: (d / "optimizer.safetensors").unlink(), "optimizer.safetensors: no such file"),
    "no state": (lambda d: (d / "state.json").unlink(), "state.json: no such file"),
    "state cut": (lambda d: (d / "state.json").write_text('{"step": 3'), "state.json: must be JSON"),
    "state list": (lambda d: (d / "state.json").write_text("[]"), "state.json: must hold an object"),
    "no step": (lambda d: (d / "state.json").write_text("{}"), "state.json: 'step' must be a count from 0, got null"),
    "step": (
        lambda d: (d / "state.json").write_text('{"step": -1}'),
        "state.json: 'step' must be a count from 0, got -",
    ),
    "cut": (
        lambda d: os.truncate(d / "optimizer.safetensors", (d / "optimizer.safetensors").stat().st_size - 1),
        "optimizer.safetensors: is damaged or no safetensors file: incomplete metadata",
    ),
    "class": (
        lambda d: rewrite(d, "optimizer.safetensors", b'"AdamW"', b'"SGD--"'),
        "optimizer.safetensors: must be the state of AdamW, got 'SGD--'",
    ),
    "steps": (
        lambda d: rewrite(d, "optimizer.safetensors", b'"steps":"3"', b'"steps":"-"'),
        "optimizer.safetensors: must have a count of steps in its metadata, got '-'",
    ),
    "misnamed": (
        lambda d: rewrite(d, "optimizer.safetensors", b'"m.wpe.weight"', b'"m.wpx.weight"'),
        "optimizer.safetensors: has no tensor 'm.wpe.weight', which the model asks for",
    ),
    "shape": (
        lambda d: rewrite(d, "optimizer.safetensors", SHAPE % (6, 8), SHAPE % (8, 6)),
        r"optimizer.safetensors: tensor 'v.wpe.weight' has shape \(8, 6\), the model asks for \(6, 8\)",
    ),
    "weight": (
        lambda d: not_finite(d / "model.safetensors", "transformer.ln_f.bias"),
        "model.safetensors: tensor 'transformer.ln_f.bias' holds values that are NaN or infinite",
    ),
    "moment": (
        lambda d: not_finite(d / "optimizer.safetensors", "v.norm.bias"),
        "optimizer.safetensors: tensor 'v.norm.bias' holds values that are NaN or infinite",
    ),
    "other model": (
        lambda d: tinygpt.save(d, filled(n_layer=2), TOKENIZER),
        "config.json: belongs to another model: n_layer is 2, this one has 1",
    ),
}


@pytest.mark.parametrize(("damage", "message"), BREAKS.values(), ids=BREAKS)
def test_a_bad_checkpoint_changes_nothing(run, damage, message):
    """Catches a state partly restored before the error, and an error that does not name the file."""
    folder, _, _ = run
    damage(folder)
    model = filled(8)
    optimizer = OPTIMIZERS["AdamW"](model)
    train(model, optimizer, 1)
    before = bits(model, optimizer)
    with pytest.raises((ValueError, FileNotFoundError), match=f"^{re.escape(str(folder))}/{message}") as caught:
        checkpoint.load_checkpoint(folder, model, optimizer)
    assert "\n" not in str(caught.value)
    assert bits(model, optimizer) == before


def test_moments_that_are_not_finite_are_refused(run):
    """Catches a run resumed from NaN, also in the last value of the last tensor."""
    folder, model, optimizer = run
    content = (folder / "optimizer.safetensors").read_bytes()
    (folder / "optimizer.safetensors").write_bytes(content[:-4] + np.float32(np.inf).tobytes())
    before = bits(model, optimizer)
    train(model, optimizer, 1)
    with pytest.raises(ValueError, match=r"optimizer\.safetensors: tensor 'v\.wte\.weight' holds values that are NaN"):
        checkpoint.load_checkpoint(folder, model, optimizer)
    assert bits(model, optimizer) != before
    optimizer.state["m"][0] = np.nan
    with pytest.raises(ValueError, match=r"must be finite"):
        checkpoint.save_checkpoint(folder, model, TOKENIZER, optimizer, {"step": 4})
    assert json.loads((folder / "state.json").read_text()) == STATE
    assert listing(folder.parent) == ["step-3"]


@pytest.mark.parametrize(
    ("state", "kind", "message"),
    [
        ({"step": 1, "loss": float("inf")}, ValueError, "must be plain JSON: Out of range float values"),
        ({"step": 1, "loss": np.float32(1)}, TypeError, "must be plain JSON: Object of type float32"),
        ({"step": 1, "shape": (1, 2)}, TypeError, "keys are str, sequences are lists"),
        ({"step": 1, 2: 3}, TypeError, "keys are str, sequences are lists"),
        ([("step", 1)], TypeError, "must be plain JSON"),
        ({}, ValueError, "must have a count from 0 as 'step', got None"),
        ({"step": -1}, ValueError, "must have a count from 0 as 'step', got -1"),
        ({"step": 1, "text": "x" * 2**24}, ValueError, "must take less than 16777216 bytes"),
    ],
    ids=["inf", "float32", "tuple", "int key", "list", "no step", "negative step", "too long"],
)
def test_a_state_that_json_would_change_is_refused(tmp_path, state, kind, message):
    """Catches a value that JSON changes silently, so that a resumed run would differ."""
    model = filled()
    with pytest.raises(kind, match=rf"^\[save_checkpoint\] 'state' .*{message}"):
        checkpoint.save_checkpoint(tmp_path / "step-1", model, None, OPTIMIZERS["SGD"](model), state)
    assert listing(tmp_path) == []


def test_an_optimizer_of_another_model_is_refused(tmp_path):
    """Catches moments saved under the names of another model's parameters."""
    with pytest.raises(ValueError, match=r"\[save_checkpoint\] 'optimizer' must be one of the parameters of 'model'"):
        checkpoint.save_checkpoint(tmp_path / "step-1", filled(), None, OPTIMIZERS["SGD"](filled()), {"step": 1})
    assert listing(tmp_path) == []


def test_latest_checkpoint(tmp_path):
    """Catches step 9 sorted after step 10, and names that are not checkpoints."""
    assert layout.latest_checkpoint(tmp_path) is None
    folder = tmp_path / "checkpoints"
    for name in ("step-9", "step-10", ".step-11.0123abcd.tmp", "step-12.tmp", "step-013", "step-", "step-x", "step--1"):
        (folder / name).mkdir(parents=True)
    (folder / "step-14").write_text("a file")
    (folder / "step-\N{ARABIC-INDIC DIGIT ONE}5").mkdir()
    assert layout.latest_checkpoint(tmp_path) == folder / "step-10"
    assert layout.latest_checkpoint(str(tmp_path)) == layout.checkpoint_directory(str(tmp_path), 10)


def test_prune_keeps_the_newest(tmp_path):
    """Catches the newest removed, other files removed, and an old tree without a replacement that is lost."""
    folder = tmp_path / "checkpoints"
    for name in ("step-9", "step-10", "step-100", "step-2", "notes", ".step-11.0123abcd.tmp"):
        (folder / name).mkdir(parents=True)
    for name in (".step-10.0123abcd.old", ".step-200.0123abcd.old"):
        (folder / name).mkdir()
    (tmp_path / ".model.0123abcd.tmp").mkdir()
    (tmp_path / ".cache").mkdir()
    checkpoint.prune_checkpoints(tmp_path)
    assert listing(folder) == ["notes", "step-10", "step-100", "step-200"]
    assert listing(tmp_path) == [".cache", "checkpoints"]
    checkpoint.prune_checkpoints(tmp_path, keep=1)
    assert listing(folder) == ["notes", "step-200"]
    with pytest.raises(ValueError, match=r"\[prune_checkpoints\] 'keep' must be at least 1, got 0"):
        checkpoint.prune_checkpoints(tmp_path, keep=0)
    checkpoint.prune_checkpoints(Path(tmp_path / "nowhere"))


def test_a_checkpoint_of_adapters(tmp_path):
    """Catches a checkpoint as large as the model, and a moment or weight not restored bit for bit."""
    model = adapted_models.adapted()
    optimizer = optim.AdamW(lora.parameters(model), lr=1e-2)
    adapted_models.step(model, optimizer)
    checkpoint.save_checkpoint(tmp_path / "step-1", model, None, optimizer, {"step": 1})
    found = {str(path.relative_to(tmp_path / "step-1")) for path in (tmp_path / "step-1").rglob("*") if path.is_file()}
    files = {layout.OPTIMIZER, layout.STATE, checksums.NAME}
    assert found == {f"adapter/{adapters.CONFIG}", f"adapter/{adapters.WEIGHTS}", *files}
    other = adapted_models.base()
    again = optim.AdamW(lora.add(other, 3, 5.0), lr=1e-2)
    assert checkpoint.load_checkpoint(tmp_path / "step-1", other, again) == {"step": 1}
    assert [adapted_models.step(other, again) for _ in range(3)] == [
        adapted_models.step(model, optimizer) for _ in range(3)
    ]
    plain = adapted_models.base()
    with pytest.raises(FileNotFoundError, match=r"config\.json"):
        checkpoint.load_checkpoint(tmp_path / "step-1", plain, optim.AdamW(plain.parameters()))
    wrong = adapted_models.base()
    with pytest.raises(ValueError, match="has adapters of rank 3 and alpha 5, the model has rank 2 and alpha 4"):
        checkpoint.load_checkpoint(tmp_path / "step-1", wrong, optim.AdamW(lora.add(wrong, 2)))


FILES = ["model.safetensors", "optimizer.safetensors", "state.json", "config.json", "tokenizer.json"]


@pytest.mark.parametrize("name", FILES)
def test_a_flipped_bit_is_detected(run, name):
    """Catches a value changed on disk, which no other check can recognise."""
    folder, model, optimizer = run
    content = bytearray((folder / name).read_bytes())
    content[-40] ^= 1  # flips the lowest bit of a weight's mantissa, or of a character
    (folder / name).write_bytes(content)
    with pytest.raises(ValueError, match=re.escape(str(folder / name))):
        checkpoint.check_checkpoint(folder)
    before = bits(model, optimizer)
    with pytest.raises(ValueError, match=re.escape(str(folder / name))):
        checkpoint.load_checkpoint(folder, model, optimizer)
    assert bits(model, optimizer) == before


@pytest.mark.parametrize("name", [*FILES, checksums.NAME])
def test_a_truncated_file_is_detected(run, name):
    """Catches a resumed run that chooses a checkpoint with a truncated file."""
    folder, _, _ = run
    os.truncate(folder / name, (folder / name).stat().st_size // 2)
    with pytest.raises(ValueError, match=re.escape(str(folder / name))):
        checkpoint.check_checkpoint(folder)


def test_a_complete_checkpoint_passes(run):
    """Catches a check that refuses everything, or checkpoints of an earlier version without checksums."""
    folder, _, _ = run
    checkpoint.check_checkpoint(folder)
    (folder / checksums.NAME).unlink()
    checkpoint.check_checkpoint(folder)
    (folder / "tokenizer.json").unlink()
    checkpoint.check_checkpoint(folder)


@pytest.mark.parametrize("value", ["1e999", "-1", "true", "null", '"1"'])
def test_invalid_seconds_are_refused(run, value):
    """Catches an impossible duration, and an error without the name of the file."""
    folder, _, _ = run
    (folder / "state.json").write_text(f'{{"step": 3, "seconds": {value}}}')
    with pytest.raises(ValueError, match=rf"{re.escape(str(folder))}/state\.json: 'seconds' must be a finite number"):
        checkpoint.check_checkpoint(folder)
