"""Test cases of every op: random inputs from a seed, with float64 reference and error bound.

A factory takes the sizes of its op under the letters of `tinygpt.kernels.spec`, and flags for optional arguments.
Inputs are drawn from N(0, 1) unless they are given.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np

from tinygpt import reference
from tinygpt.kernels import spec
from tinygpt.testing import bounds
from tinygpt.testing.guard import Case, Layout

_F32 = np.float32


class _Draw:
    """Source of random float32 arrays from one seed; an absent array is None."""

    def __init__(self, seed: int):
        self.generator = np.random.default_rng(seed)

    def __call__(self, *shape: int) -> np.ndarray:
        return self.generator.standard_normal(shape).astype(_F32)

    def maybe(self, wanted: bool, *shape: int) -> Any:
        return self(*shape) if wanted else None

    def given(self, x: Any, *shape: int) -> np.ndarray:
        return self(*shape) if x is None else np.ascontiguousarray(x, _F32)

    def ids(self, high: int, *shape: int) -> np.ndarray:
        return self.generator.integers(0, high, shape).astype(np.int32)


def _case(
    op: str,
    inputs: Mapping[str, Any],
    *,
    values: Any = None,
    errors: Any = None,
    starts: Mapping[str, Any] | None = None,
    without: Iterable[str] = (),
    layouts: Mapping[str, Layout] | None = None,
    shared: Mapping[str, str] | None = None,
) -> Case:
    """Build a case from `inputs`, with reference and bound.

    `starts` holds the arrays that outputs are added to, and `without` names outputs to omit.

    Reference and bound are functions with the op's name that take its inputs by name. A factory that has called them
    itself passes their results as `values` and `errors`.
    """
    starts = {name: x for name, x in (starts or {}).items() if x is not None}
    if values is None:
        values, errors = getattr(reference, op)(**inputs), getattr(bounds, op)(**inputs)
    names = [arg.name for arg in spec.OPS[op].args if arg.role in ("out", "inout")] or ["result"]
    values = values if isinstance(values, tuple) else (values,)
    wanted, bound = {}, {}
    for name, value, rounded in zip(names, values, errors, strict=True):
        if name not in without:
            added = starts[name] if name in starts and name not in inputs else 0.0
            wanted[name] = np.asarray(np.asarray(value, dtype=np.float64) + added)
            bound[name] = np.asarray(rounded.error)
    flags = {arg.name for arg in spec.OPS[op].args if arg.role == "scalar"}
    scalars = {name: False for name in flags if name.startswith("accumulate")}
    return Case(op, scalars | dict(inputs), wanted, bound, starts, layouts or {}, shared or {})


def matmul_case(
    M: int,
    N: int,
    K: int,
    trans_a: bool = False,
    trans_b: bool = False,
    accumulate: bool = False,
    bias: bool = False,
    residual: bool = False,
    activation: int = 0,
    pre: bool = False,
    seed: int = 0,
) -> Case:
    """Return a case of (M, K) times (K, N); each operand is stored transposed if its flag is set."""
    draw = _Draw(seed)
    inputs = {
        "a": draw(*((K, M) if trans_a else (M, K))),
        "b": draw(*((N, K) if trans_b else (K, N))),
        "trans_a": trans_a,
        "trans_b": trans_b,
        "bias": draw.maybe(bias, N),
        "residual": draw.maybe(residual, M, N),
        "activation": activation,
    }
    start = draw.maybe(accumulate, M, N)
    values, errors = reference.matmul(**inputs), bounds.matmul(**inputs, start=start)
    without = () if pre else ("pre",)
    inputs["accumulate"] = accumulate
    return _case("matmul", inputs, values=values, errors=errors, starts={"out": start}, without=without)


def matmul_bfloat16_case(
    M: int, N: int, K: int, bias: bool = False, residual: bool = False, activation: int = 0, seed: int = 0
) -> Case:
    """Return a case of (M, K) times the transpose of (N, K), whose bfloat16 are the upper halves of random floats."""
    draw = _Draw(seed)
    inputs = {"a": draw(M, K), "b": (draw(N, K).view(np.uint32) >> 16).astype(np.uint16)}
    after = {"bias": draw.maybe(bias, N), "residual": draw.maybe(residual, M, N), "activation": activation}
    return _case("matmul_bfloat16", inputs | after)


def matmul_int8_case(
    M: int, N: int, K: int, bias: bool = False, residual: bool = False, activation: int = 0, seed: int = 0
) -> Case:
    """Return a case of (M, K) times the transpose of (N, K): int8 blocks with scales around 1 / 64, 0 and subnormal."""
    draw, blocks = _Draw(seed), -(-K // 32)
    scales = np.abs(draw(N, blocks) / 64).astype(np.float16)
    scales.reshape(-1)[3::7], scales.reshape(-1)[5::7] = 0, np.float16(3e-7)
    b = draw.generator.integers(-127, 128, (N, K)).astype(np.int8)
    inputs = {"a": draw(M, K), "b": b, "scales": scales.view(np.uint16)}
    after = {"bias": draw.maybe(bias, N), "residual": draw.maybe(residual, M, N), "activation": activation}
    return _case("matmul_int8", inputs | after)


def column_sum_case(R: int, C: int, accumulate: bool = False, seed: int = 0) -> Case:
    """Return a case of summing R rows."""
    draw = _Draw(seed)
    x, start = draw(R, C), draw.maybe(accumulate, C)
    values, errors = reference.column_sum(x), bounds.column_sum(x, start)
    return _case("column_sum", {"x": x, "accumulate": accumulate}, values=values, errors=errors, starts={"out": start})


def softmax_case(R: int, C: int, x: Any = None, seed: int = 0) -> Case:
    """Return a case with R rows of C elements."""
    return _case("softmax", {"x": _Draw(seed).given(x, R, C)})


def softmax_backward_case(R: int, C: int, seed: int = 0) -> Case:
    """Return a backward case, from a softmax rounded to float32."""
    draw = _Draw(seed)
    return _case("softmax_backward", {"dy": draw(R, C), "y": reference.softmax(draw(R, C)).astype(_F32)})


def layernorm_case(
    R: int, C: int, residual: bool = False, bias: bool = True, eps: float = 1e-5, x: Any = None, seed: int = 0
) -> Case:
    """Return a case with R rows of C elements."""
    draw = _Draw(seed)
    inputs = {
        "x": draw.given(x, R, C),
        "residual": draw.maybe(residual, R, C),
        "weight": draw(C),
        "bias": draw.maybe(bias, C),
        "eps": eps,
    }
    return _case("layernorm", inputs, without=() if residual else ("total",))


def layernorm_backward_case(
    R: int, C: int, dtotal: bool = False, bias: bool = True, accumulate: bool = False, seed: int = 0
) -> Case:
    """Return a backward case, with mean and rstd of the forward pass rounded to float32."""
    draw = _Draw(seed)
    x, weight = draw(R, C), draw(C)
    _, _, mean, rstd = reference.layernorm(x, None, weight, None, 1e-5)
    inputs = {
        "dy": draw(R, C),
        "x": x,
        "weight": weight,
        "mean": mean.astype(_F32),
        "rstd": rstd.astype(_F32),
        "dtotal": draw.maybe(dtotal, R, C),
    }
    start, start_bias = draw.maybe(accumulate, C), draw.maybe(accumulate and bias, C)
    values = reference.layernorm_backward(**inputs)
    errors = bounds.layernorm_backward(**inputs, start=start, start_bias=start_bias)
    inputs["accumulate"] = accumulate
    starts, without = {"dweight": start, "dbias": start_bias}, () if bias else ("dbias",)
    return _case("layernorm_backward", inputs, values=values, errors=errors, starts=starts, without=without)


def rmsnorm_case(R: int, C: int, residual: bool = False, eps: float = 1e-5, x: Any = None, seed: int = 0) -> Case:
    """Return a case with R rows of C elements."""
    draw = _Draw(seed)
    inputs = {"x": draw.given(x, R, C), "residual": draw.maybe(residual, R, C), "weight": draw(C), "eps": eps}
    return _case("rmsnorm", inputs, without=() if residual else ("total",))


def rmsnorm_backward_case(R: int, C: int, dtotal: bool = False, accumulate: bool = False, seed: int = 0) -> Case:
    """Return a backward case, with rstd of the forward pass rounded to float32."""
    draw = _Draw(seed)
    x, weight = draw(R, C), draw(C)
    rstd = reference.rmsnorm(x, None, weight, 1e-5)[2].astype(_F32)
    inputs = {"dy": draw(R, C), "x": x, "weight": weight, "rstd": rstd, "dtotal": draw.maybe(dtotal, R, C)}
    start = draw.maybe(accumulate, C)
    values, errors = reference.rmsnorm_backward(**inputs), bounds.rmsnorm_backward(**inputs, start=start)
    inputs["accumulate"] = accumulate
    return _case("rmsnorm_backward", inputs, values=values, errors=errors, starts={"dweight": start})


def gelu_case(N: int, x: Any = None, seed: int = 0) -> Case:
    """Return a case with N elements of N(0, 9), so that both tails of gelu occur."""
    return _case("gelu", {"x": 3 * _Draw(seed)(N) if x is None else np.asarray(x, _F32)})


def gelu_backward_case(N: int, x: Any = None, seed: int = 0) -> Case:
    """Return a backward case at N elements of N(0, 9)."""
    draw = _Draw(seed)
    return _case("gelu_backward", {"dy": draw(N), "x": 3 * draw(N) if x is None else np.asarray(x, _F32)})


def swiglu_case(R: int, F: int, x: Any = None, seed: int = 0) -> Case:
    """Return a case with R rows of F gates and F values of up."""
    return _case("swiglu", {"x": 3 * _Draw(seed)(R, 2 * F) if x is None else np.asarray(x, _F32)})


def swiglu_backward_case(R: int, F: int, x: Any = None, seed: int = 0) -> Case:
    """Return a backward case for both halves."""
    draw = _Draw(seed)
    return _case("swiglu_backward", {"dy": draw(R, F), "x": 3 * draw(R, 2 * F) if x is None else np.asarray(x, _F32)})


def add_case(N: int, seed: int = 0) -> Case:
    """Return a case of adding two arrays of N elements."""
    draw = _Draw(seed)
    return _case("add", {"a": draw(N), "b": draw(N)})


def dropout_case(
    R: int,
    C: int,
    T: int = 1,
    rate: float = 0.25,
    residual: bool = False,
    key: int = 1,
    site: int = 2,
    sequence: int = 3,
    seed: int = 0,
) -> Case:
    """Return a case with R rows, T per sequence."""
    draw = _Draw(seed)
    x, extra = draw(R, C), draw.maybe(residual, R, C)
    scalars = {"rate": rate, "key": key, "site": site, "sequence": sequence, "T": T}
    return _case("dropout", {"x": x, "residual": extra, **scalars})


def _heads(layout: str, B: int, T: int, S: int, H: int, G: int, D: int) -> dict[str, Layout]:
    """Return the layouts of q, k and v: contiguous, in one fused buffer (q, k, v), or k and v in a larger KV cache."""
    if layout == "plain":
        return {}
    if layout == "fused":
        if S != T:
            raise ValueError(f"[attention] 'layout' fused must have S = T, got {S} and {T}")
        heads = {"q": slice(0, H), "k": slice(H, H + G), "v": slice(H + G, H + 2 * G)}
        fused = {name: Layout((B, T, H + 2 * G, D), (slice(None), slice(None), part)) for name, part in heads.items()}
        return fused | {f"d{name}": place for name, place in fused.items()}
    if layout == "cache":
        # A cache stores heads first, (B, G, capacity, D). The kernel gets a view (B, S, G, D) of its used part.
        cache = Layout((B, G, S + 5, D), (slice(None), slice(None), slice(0, S)), (0, 2, 1, 3))
        return {"k": cache, "v": cache}
    raise ValueError(f"[attention] 'layout' must be plain, fused or cache, got '{layout}'")


def attention_case(
    B: int,
    T: int,
    H: int,
    D: int,
    S: int | None = None,
    G: int | None = None,
    weights: bool = False,
    layout: str = "plain",
    size: float = 1.0,
    seed: int = 0,
) -> Case:
    """Return a case of T queries of H heads against S keys of G heads; a large `size` spreads the scores."""
    draw, S, G = _Draw(seed), T if S is None else S, H if G is None else G
    inputs = {"q": _F32(size) * draw(B, T, H, D), "k": draw(B, S, G, D), "v": draw(B, S, G, D), "scale": D**-0.5}
    without = () if weights else ("weights",)
    return _case("attention", inputs, without=without, layouts=_heads(layout, B, T, S, H, G, D))


def attention_backward_case(
    B: int,
    T: int,
    H: int,
    D: int,
    S: int | None = None,
    G: int | None = None,
    layout: str = "plain",
    size: float = 1.0,
    saved: Mapping[str, np.ndarray] | None = None,
    seed: int = 0,
) -> Case:
    """Return a backward case, with out and lse from `saved`, or from the reference rounded to float32."""
    forward = attention_case(B, T, H, D, S, G, size=size, seed=seed)
    if saved is None:
        saved = {name: forward.wanted[name].astype(_F32) for name in ("out", "lse")}
    length, groups = forward.inputs["k"].shape[1:3]
    inputs = {"dout": _Draw(seed + 1)(B, T, H, D), **forward.inputs, **saved}
    return _case("attention_backward", inputs, layouts=_heads(layout, B, T, length, H, groups, D))


def _targets(draw: _Draw, R: int, V: int, ignored: bool) -> np.ndarray:
    """Return random targets; with `ignored` every third is negative."""
    targets = draw.ids(V, R)
    if ignored:
        targets[::3] = -100
    return targets


def cross_entropy_case(
    R: int, V: int, ignored: bool = False, logits: Any = None, targets: Any = None, seed: int = 0
) -> Case:
    """Return a case with R rows of V logits; with `ignored` every third row is ignored."""
    draw = _Draw(seed)
    x, ids = draw.given(logits, R, V), _targets(draw, R, V, ignored)
    return _case("cross_entropy", {"logits": x, "targets": ids if targets is None else np.asarray(targets, np.int32)})


def cross_entropy_backward_case(
    R: int, V: int, ignored: bool = False, in_place: bool = False, logits: Any = None, seed: int = 0
) -> Case:
    """Return a backward case of a mean over the rows; with `in_place` the gradient overwrites the logits."""
    forward = cross_entropy_case(R, V, ignored, logits, seed=seed)
    inputs = {**forward.inputs, "lse": forward.wanted["lse"].astype(_F32), "scale": 1 / max(R, 1)}
    return _case("cross_entropy_backward", inputs, shared={"dlogits": "logits"} if in_place else {})


def embedding_case(B: int, T: int, V: int, C: int, positions: bool = True, start: int = 0, seed: int = 0) -> Case:
    """Return a case with B sequences of T tokens out of V; positions have two unused rows."""
    draw = _Draw(seed)
    rows = draw.maybe(positions, start + T + 2, C)
    inputs = {"tokens": draw.ids(max(V, 1), B, T), "table": draw(V, C), "positions": rows, "start": start}
    return _case("embedding", inputs)


def embedding_backward_case(
    B: int,
    T: int,
    V: int,
    C: int,
    positions: bool = True,
    start: int = 0,
    accumulate: bool = False,
    accumulate_positions: bool = False,
    tokens: Any = None,
    seed: int = 0,
) -> Case:
    """Return a backward case for both tables; positions have two unused rows."""
    draw, P = _Draw(seed), start + T + 2 if positions else 0
    ids = draw.ids(V, B, T) if tokens is None else np.ascontiguousarray(tokens, np.int32)
    inputs: dict[str, Any] = {"dy": draw(B * T, C), "tokens": ids, "start": start}
    begin, begin_positions = draw.maybe(accumulate, V, C), draw.maybe(positions and accumulate_positions, P, C)
    values = reference.embedding_backward(**inputs, V=V, P=P)
    errors = bounds.embedding_backward(**inputs, V=V, P=P, start_table=begin, start_positions=begin_positions)
    inputs |= {"accumulate": accumulate, "accumulate_positions": accumulate_positions}
    starts, without = {"dtable": begin, "dpositions": begin_positions}, () if positions else ("dpositions",)
    return _case("embedding_backward", inputs, values=values, errors=errors, starts=starts, without=without)


def rope_case(
    B: int, T: int, H: int, E: int, inverse: bool = False, in_place: bool = False, fused: bool = False, seed: int = 0
) -> Case:
    """Return a case with heads of width 2 E at positions 0..T-1; `fused` places them inside wider rows."""
    angles = np.arange(T)[:, None] * 10000.0 ** (-np.arange(E) / max(E, 1))
    tables = {"cos": np.cos(angles).astype(_F32), "sin": np.sin(angles).astype(_F32)}
    place = Layout((B, T, H + 3, 2 * E), (slice(None), slice(None), slice(1, H + 1)))
    layouts = {"x": place, "out": place} if fused else {}
    shared = {"out": "x"} if in_place else {}
    inputs = {"x": _Draw(seed)(B, T, H, 2 * E), **tables, "inverse": inverse}
    return _case("rope", inputs, layouts=layouts, shared=shared)


def squared_norm_case(N: int, x: Any = None, seed: int = 0) -> Case:
    """Return a case of summing N squares."""
    return _case("squared_norm", {"x": _Draw(seed).given(x, N)})


def adamw_case(
    N: int,
    step: int = 3,
    lr: float = 1e-3,
    beta1: float = 0.9,
    beta2: float = 0.95,
    eps: float = 1e-8,
    weight_decay: float = 0.1,
    grad_scale: float = 0.5,
    grad: Any = None,
    seed: int = 0,
) -> Case:
    """Return a case of one step of N parameters; step 1 starts from zero moments, as training does."""
    draw = _Draw(seed)
    arrays = {"param": draw(N), "grad": draw.given(grad, N), "m": draw(N), "v": draw(N) ** 2}
    if step == 1:
        arrays["m"], arrays["v"] = np.zeros(N, _F32), np.zeros(N, _F32)
    scalars = {"lr": lr, "beta1": beta1, "beta2": beta2, "eps": eps, "weight_decay": weight_decay}
    inputs = {**arrays, **scalars, "step": step, "grad_scale": grad_scale}
    return _case("adamw", inputs, starts={name: arrays[name] for name in ("param", "m", "v")})


# Op name to its factory.
FACTORIES: dict[str, Callable[..., Case]] = {
    name.removesuffix("_case"): factory
    for name, factory in list(globals().items())
    if name.endswith("_case") and name[0] != "_"
}

# One call of each op in a training step of a small model: 4 sequences of 64 tokens, width 256, 4 heads, 4096 tokens in
# the vocabulary.
_DEFAULT: dict[str, dict[str, Any]] = {
    "matmul": {"M": 256, "N": 256, "K": 256},
    "matmul_bfloat16": {"M": 1, "N": 1024, "K": 256, "bias": True},
    "matmul_int8": {"M": 1, "N": 1024, "K": 256, "bias": True},
    "column_sum": {"R": 256, "C": 1024},
    "softmax": {"R": 256, "C": 4096},
    "layernorm": {"R": 256, "C": 256, "residual": True},
    "layernorm_backward": {"R": 256, "C": 256, "dtotal": True},
    "rmsnorm": {"R": 256, "C": 256, "residual": True},
    "rmsnorm_backward": {"R": 256, "C": 256, "dtotal": True},
    "gelu": {"N": 256 * 1024},
    "swiglu": {"R": 256, "F": 704},
    "add": {"N": 256 * 256},
    "dropout": {"R": 256, "C": 256, "T": 64, "residual": True},
    "attention": {"B": 4, "T": 64, "H": 4, "D": 64, "layout": "fused"},
    "cross_entropy": {"R": 256, "V": 4096},
    "embedding": {"B": 4, "T": 64, "V": 4096, "C": 256},
    "rope": {"B": 4, "T": 64, "H": 4, "E": 32, "fused": True},
    "squared_norm": {"N": 1 << 20},
    "adamw": {"N": 1 << 20},
}


def make(op: str, **sizes: Any) -> Case:
    """Return a case of any op, by name.

    Parameters
    ----------
    op : str
    **sizes
        Arguments of the op's factory, for example ``make("matmul", M=64, N=64, K=64)``.

    Raises
    ------
    ValueError
        Unknown op.
    """
    if op not in FACTORIES:
        raise ValueError(f"[testing] unknown op '{op}'; there are {', '.join(FACTORIES)}")
    return FACTORIES[op](**sizes)


def default_cases(op: str) -> tuple[Case, ...]:
    """Return cases of medium size for `tinygpt bench`: one call in a training step of a small model.

    Parameters
    ----------
    op : str

    Returns
    -------
    tuple of Case
        A backward op has the sizes of its forward op.
    """
    sizes = _DEFAULT.get(op) or _DEFAULT.get(op.removesuffix("_backward"), {})
    return (make(op, **sizes),)


def shapes_around(*sizes: int, most: int | None = None) -> tuple[int, ...]:
    """Return lengths at which loops over tiles of these sizes typically fail.

    Parameters
    ----------
    *sizes : int
        Tile and vector widths. Each adds itself, one less and one more.
    most : int, optional
        Largest length to return.

    Returns
    -------
    tuple of int
        Ascending, with 0, 1, and primes that no tile divides.
    """
    lengths = {0, 1, 2, 3, 7, 13, *(size + step for size in sizes for step in (-1, 0, 1))}
    return tuple(sorted(n for n in lengths if n >= 0 and (most is None or n <= most)))
