"""Costs: autograd ops and plain kernels choose their number of threads from the same table."""

import sys

import numpy as np
import pytest

from tinygpt import GPT, GPTConfig, Tensor, kernels, lora, ops, optim
from tinygpt.kernels import registry, spec, threads
from tinygpt.kernels.spec import OPS
from tinygpt.ops.attention import rotation_tables
from tinygpt.packed import PackedWeight
from tinygpt.tensor import no_grad

R, C, V = 6, 8, 11
RNG = np.random.default_rng(0)


def normal(*shape):
    return RNG.standard_normal(shape, np.float32)


X, WIDE, WEIGHT, BIAS, LOGITS = normal(R, C), normal(R, 2 * C), normal(C), normal(C), normal(R, V)
TARGETS, TOKENS = RNG.integers(0, V, R, np.int32), RNG.integers(0, V, (2, 3), np.int32)
TABLE, QKV = normal(V, C), normal(2, 3, 3 * C)
Q, K, VALUES = (part.reshape(2, 3, 2, C // 2) for part in np.split(QKV, 3, axis=-1))
COS, SIN = rotation_tables(3, C // 2, 10000.0)
# Name -> (autograd op, plain kernel on the same arrays).
PAIRS = {
    "gelu": (lambda: ops.gelu(Tensor(X)), lambda: kernels.gelu(X)),
    "swiglu": (lambda: ops.swiglu(Tensor(WIDE)), lambda: kernels.swiglu(WIDE)),
    "softmax": (lambda: ops.softmax(Tensor(X)), lambda: kernels.softmax(X)),
    "layernorm": (
        lambda: ops.layernorm(Tensor(X), Tensor(WEIGHT), Tensor(BIAS)),
        lambda: kernels.layernorm(X, WEIGHT, BIAS),
    ),
    "rmsnorm": (lambda: ops.rmsnorm(Tensor(X), Tensor(WEIGHT)), lambda: kernels.rmsnorm(X, WEIGHT)),
    "cross_entropy": (
        lambda: ops.cross_entropy(Tensor(LOGITS), TARGETS),
        lambda: kernels.cross_entropy(LOGITS, TARGETS),
    ),
    "matmul": (lambda: ops.linear(Tensor(X), Tensor(TABLE)), lambda: kernels.matmul(X, TABLE, trans_b=True)),
    "embedding": (lambda: ops.embedding(TOKENS, Tensor(TABLE)), lambda: kernels.embedding(TOKENS, TABLE)),
    "attention": (lambda: ops.attention(Tensor(QKV), 2, 2), lambda: kernels.attention(Q, K, VALUES)),
    "add": (lambda: Tensor(X) + Tensor(X), lambda: kernels.add(X, X)),
}


def threads_of(call, op):
    """The number of threads that `call` passes to each call of the kernel of `op`."""
    given = []

    def wrap(name, _, function):
        def counted(*arguments):
            if name == op:
                given.append(arguments[-1])
            return function(*arguments)

        return counted

    registry.watch(wrap)
    try:
        call()
    finally:
        registry.watch(None)
    return given


@pytest.mark.parametrize("name", PAIRS)
def test_ops_and_kernels_count_the_same_work(name, monkeypatch):
    """Catches a cost defined twice: the threshold is set exactly at the op's work, and one above it."""
    operation, plain = PAIRS[name]
    counted = []
    monkeypatch.setattr(threads, "for_work", lambda work: counted.append(work) or 1)
    plain()
    monkeypatch.undo()
    work = counted[-1]
    with threads.fixed(2):
        for limit, expected in ((work, 2), (work + 1, 1)):
            monkeypatch.setattr(threads, "SMALL_WORK", limit)
            assert threads_of(operation, name) == threads_of(plain, name) == [expected]


def test_every_cost_belongs_to_an_op():
    """Catches a cost under an unknown op name, and an op whose work cannot be computed."""
    assert set(kernels.spec.WORK) <= set(OPS)
    dims = dict.fromkeys("MNKRCNVFBTHDSGPE", 4)
    assert all(op.work(dims) > 0 for op in OPS.values())


LLAMA = {"position": "rope", "norm": "rmsnorm", "activation": "swiglu", "bias": False}


@pytest.fixture
def counted(monkeypatch):
    """Compare the work that callers count with the table; return the names of the kernels that were called.

    Every kernel receives the counted work in place of a number of threads.
    """
    seen = set()

    def wrap(name, _, function):
        def checked(*arguments):
            given = dict(zip(OPS[name].names, arguments, strict=True))
            arrays = {key: value for key, value in given.items() if value is None or isinstance(value, np.ndarray)}
            flags = {arg.swapped_by: given[arg.swapped_by] for arg in OPS[name].args if arg.swapped_by}
            seen.add(name)
            assert given["n_threads"] == OPS[name].work(spec.check(name, arrays, **flags)), name
            return function(*arguments[:-1], 1)

        return checked

    original = threads.for_work
    for module in [module for name, module in sys.modules.items() if name.startswith("tinygpt.")]:
        if vars(module).get("for_work") is original:
            monkeypatch.setattr(module, "for_work", lambda work: work)
    registry.watch(wrap)
    yield seen
    registry.watch(None)


def small_model(**options):
    return GPT(GPTConfig(vocab_size=11, block_size=8, n_layer=2, n_head=2, n_embd=16, **options), seed=0)


def training_step(model, parameters):
    optimizer = optim.AdamW(parameters, lr=1e-3)
    model.loss(TOKENS, TOKENS, (0, 0, 0)).backward()
    optimizer.step(optim.clip_scale(optimizer.grad_norm(), 1.0))


@pytest.mark.parametrize("options", [{"dropout": 0.1}, LLAMA], ids=["gpt2", "llama"])
def test_a_training_step_counts_what_the_table_says(options, counted):
    """Catches a cost of any kernel in a training step, gradients and update included, that differs from the table."""
    model = small_model(**options)
    training_step(model, model.parameters())
    assert {"matmul", "attention_backward", "embedding_backward", "cross_entropy_backward", "adamw"} <= counted
    assert "squared_norm" in counted
    assert len(counted) >= 14


def test_adapters_count_what_the_table_says(counted):
    """Catches a cost of the low-rank matmuls, in training and merging, that differs from the table."""
    model = small_model()
    training_step(model, lora.add(model, rank=2))
    lora.merge(model)
    assert {"matmul", "adamw"} <= counted


@pytest.mark.parametrize(("kind", "op"), [("bfloat16", "matmul_bfloat16"), ("int8", "matmul_int8")])
def test_packed_weights_count_what_the_table_says(kind, op, counted):
    """Catches a cost of a matmul with packed weights that differs from the table."""
    packed = PackedWeight.of(normal(V, 2 * C), kind)
    with no_grad():
        ops.linear(Tensor(WIDE), packed)
    assert op in counted
