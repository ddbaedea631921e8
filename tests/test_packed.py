"""Packed weights: tinygpt.packed, and models from tinygpt.load(directory, weights=...)."""

import copy
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import tinygpt
from tinygpt import GPT, GPTConfig, nn
from tinygpt.files import model_directory
from tinygpt.packed import BLOCK, PackedWeight, from_bfloat16, from_int8, to_bfloat16, to_int8

FAMILIES = {
    "gpt2": {"bias": True, "tie_embeddings": True},
    "gpt2 untied": {"bias": True, "tie_embeddings": False},
    "llama": {
        "position": "rope", "norm": "rmsnorm", "activation": "swiglu", "bias": False, "n_kv_head": 2, "ffn_dim": 72
    },
}  # fmt: skip
kinds = pytest.mark.parametrize("kind", ["bfloat16", "int8"])


def small(family="gpt2", seed=1, width=72):
    return GPT(GPTConfig(300, 32, 2, 4, width, **FAMILIES[family]), seed=seed)


def draw(*shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


TOKENS = np.random.default_rng(0).integers(0, 300, (2, 20))


def test_bfloat16_is_the_nearest():
    """Catches truncation and ties not rounded to even, against ml_dtypes."""
    ml_dtypes = pytest.importorskip("ml_dtypes")
    x = draw(1000)
    x[::2] = (x[::2].view(np.uint32) & np.uint32(0xFFFF0000) | np.uint32(0x8000)).view(np.float32)
    np.testing.assert_array_equal(from_bfloat16(to_bfloat16(x)), x.astype(ml_dtypes.bfloat16).astype(np.float32))


@pytest.mark.parametrize("size", [1.0, 1e-4, 1e-7, 1e5])
@pytest.mark.parametrize("K", [1, 31, 32, 33, 100])
def test_int8_is_within_half_a_step(size, K):
    """Catches a scale rounded down, which would clip the largest weight, and the scale of the wrong block."""
    x = np.float32(size) * draw(7, K)
    values, scales = to_int8(x)
    step = np.repeat(scales.view(np.float16).astype(np.float64), BLOCK, axis=1)[:, :K]
    assert abs(values.astype(int)).max() <= 127
    assert (abs(from_int8(values, scales) - x.astype(np.float64)) <= step * (0.5 + 1e-5)).all()
    largest = np.repeat([[abs(row[i : i + BLOCK]).max() for i in range(0, K, BLOCK)] for row in x], BLOCK, 1)[:, :K]
    assert (step <= largest / 127 * (1 + 2**-10) + 2**-24).all()


def test_int8_blocks_are_not_rounded_again():
    """Catches a second rounding: the values of a Q8_0 file must come out bit for bit."""
    scales = np.abs(draw(5, 3) / 100).astype(np.float16)
    values = np.random.default_rng(1).integers(-127, 128, (5, 96)).astype(np.int8)
    values[:, ::BLOCK] = 127  # as in every Q8_0 block, one value has the largest magnitude
    again = to_int8(from_int8(values, scales.view(np.uint16)))
    np.testing.assert_array_equal(again[0], values)
    np.testing.assert_array_equal(again[1], scales.view(np.uint16))


def test_zero_and_empty_blocks():
    """Catches a division by the scale of a block of zeros, and a failure on an empty array."""
    values, scales = to_int8(np.zeros((3, 40), np.float32))
    assert not values.any()
    assert not scales.any()
    assert to_int8(np.zeros((0, 40), np.float32))[1].shape == (0, 2)
    assert to_int8(np.zeros((3, 0), np.float32))[1].shape == (3, 0)


@kinds
def test_rows_are_packed_one_by_one(kind):
    """Catches a range of rows stored at the wrong place, as when q, k and v come from three tensors."""
    weight = draw(10, 70)
    whole, parts = PackedWeight.of(weight, kind), PackedWeight(weight.shape, kind)
    for rows in (slice(4, 10), slice(0, 3), slice(3, 4)):
        parts.pack(weight[rows], rows)
    np.testing.assert_array_equal(parts.rows(), whole.rows())
    ids = np.array([[3, 9], [0, 3]])
    np.testing.assert_array_equal(whole.rows(ids), whole.rows()[ids])


def test_invalid_weights_are_refused():
    """Catches an unknown kind, a weight of the wrong shape, and values beyond any scale."""
    with pytest.raises(ValueError, match=r"\[PackedWeight\] 'kind' must be one of bfloat16, int8, got 'int4'"):
        PackedWeight((2, 3), "int4")
    with pytest.raises(ValueError, match=r"\[PackedWeight\] 'weight' must have shape \(2, 3\), got \(3, 2\)"):
        PackedWeight((2, 3), "int8").pack(draw(3, 2))
    with pytest.raises(ValueError, match=r"\[to_int8\] 'x' must be within"):
        PackedWeight.of(np.full((1, 2), 1e7, np.float32), "int8")


@kinds
@pytest.mark.parametrize("family", FAMILIES)
def test_a_packed_model_equals_one_with_rounded_weights(tmp_path, family, kind):
    """Catches a weight that is skipped, packed twice or misnamed, and the wrong rows of the embedding."""
    model = small(family)
    model_directory.save(tmp_path, model)
    packed, _ = tinygpt.load(tmp_path, weights=kind)
    rounded = copy.deepcopy(model)
    for name, weight in packed.named_packed():
        dict(rounded.named_parameters())[name].data = weight.rows()
    names = {name for name, _ in packed.named_packed()} | {name for name, _ in packed.named_parameters()}
    assert names == {name for name, _ in model.named_parameters()}
    assert packed.num_parameters() == model.num_parameters()
    assert all(p.data.ndim == 1 or name == "wpe.weight" for name, p in packed.named_parameters())
    np.testing.assert_allclose(packed(TOKENS).data, rounded(TOKENS).data, rtol=0, atol=1e-5)
    assert abs(packed.loss(TOKENS, TOKENS).item() - rounded.loss(TOKENS, TOKENS).item()) < 1e-5
    new = packed.generate(TOKENS, 8, temperature=0)
    assert np.array_equal(new, rounded.generate(TOKENS, 8, temperature=0))


@kinds
def test_packing_in_place_is_loading(tmp_path, kind):
    """Catches norms and positions lost when a model in memory is packed, because they move to a new arena."""
    model = small()
    model_directory.save(tmp_path, model)
    loaded, _ = tinygpt.load(tmp_path, weights=kind)
    model.pack(kind)
    np.testing.assert_array_equal(model(TOKENS).data, loaded(TOKENS).data)


@kinds
def test_training_and_saving_are_refused(tmp_path, kind):
    """Catches training that would update the norms only, and a saved file without the packed weights."""
    model = small()
    model.pack(kind)
    with pytest.raises(RuntimeError, match="no tensor of this graph has requires_grad"):
        model.loss(TOKENS, TOKENS).backward()
    layer = nn.Linear(8, 4)
    layer.initialise()
    layer.pack(kind)
    with pytest.raises(RuntimeError, match=r"\[linear\] 'weight' is packed and cannot be trained"):
        layer(tinygpt.Tensor(draw(2, 8), requires_grad=True))
    with pytest.raises(ValueError, match=rf"\[save\] 'model' has weights packed as {kind}"):
        model_directory.save(tmp_path / "run", model)
    assert not list((tmp_path / "run").glob("*.safetensors"))


def test_unknown_weights_are_refused(tmp_path):
    """Catches a misspelt kind that falls back to float32."""
    model_directory.save(tmp_path, small())
    with pytest.raises(ValueError, match=r"\[load\] 'weights' must be one of float32, bfloat16, int8, got 'int4'"):
        tinygpt.load(tmp_path, weights="int4")


MEASURE = """
import sys
import tinygpt, tinygpt.files.model_directory
def high_water():
    return next(1024 * int(line.split()[1]) for line in open("/proc/self/status") if line.startswith("VmHWM:"))
before = high_water()
model, _ = tinygpt.load(sys.argv[1], weights=sys.argv[2])
print(high_water() - before, sum(weight.nbytes for _, weight in model.named_packed()))
"""


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="the system does not report peak memory")
@pytest.mark.parametrize(("kind", "share"), [("bfloat16", 2 / 4), ("int8", 1.0625 / 4)])
def test_loading_never_holds_the_float32_model(tmp_path, kind, share):
    """Catches all weights in float32 at once: only the packed ones and a few copies of one tensor may exist."""
    model = GPT(GPTConfig(2000, 32, 24, 4, 256), seed=0)
    model_directory.save(tmp_path, model)
    full = 4 * model.num_parameters()
    largest = 4 * max(p.data.size for p in model.parameters())
    command = [sys.executable, "-c", MEASURE, str(tmp_path), kind]
    peak, stored = map(int, subprocess.run(command, check=True, capture_output=True, text=True).stdout.split())
    assert stored == pytest.approx(share * full, rel=0.05)
    # The peak includes the pages of the file, which is memory-mapped while it is read.
    mapped = (tmp_path / "model.safetensors").stat().st_size
    assert peak - mapped < stored + 8 * largest < 0.8 * full
