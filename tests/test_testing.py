"""The checker itself: it must reject every kind of wrong result, and accept right ones."""

import ctypes
import dataclasses
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tinygpt import reference, testing
from tinygpt.kernels.spec import OPS
from tinygpt.testing import Case, Layout, Mismatch, bounds, check, compare, run, shapes_around
from tinygpt.testing.rounding import Rounded, contract, exact, gamma, scalar

# A small call of every op, with its optional outputs.
SMALL = {
    "matmul_bfloat16": {"M": 5, "N": 7, "K": 9, "bias": True, "residual": True, "activation": 1},
    "matmul_int8": {"M": 5, "N": 7, "K": 41, "bias": True, "residual": True, "activation": 1},
    "matmul": {"M": 5, "N": 7, "K": 9, "bias": True, "residual": True, "activation": 1, "pre": True},
    "column_sum": {"R": 9, "C": 5},
    "softmax": {"R": 3, "C": 9},
    "softmax_backward": {"R": 3, "C": 9},
    "layernorm": {"R": 3, "C": 9, "residual": True},
    "layernorm_backward": {"R": 3, "C": 9, "dtotal": True},
    "rmsnorm": {"R": 3, "C": 9, "residual": True},
    "rmsnorm_backward": {"R": 3, "C": 9, "dtotal": True},
    "gelu": {"N": 9},
    "gelu_backward": {"N": 9},
    "swiglu": {"R": 3, "F": 5},
    "swiglu_backward": {"R": 3, "F": 5},
    "add": {"N": 9},
    "dropout": {"R": 4, "C": 9, "T": 2, "residual": True},
    "attention": {"B": 2, "T": 4, "H": 4, "D": 3, "S": 6, "G": 2, "weights": True},
    "attention_backward": {"B": 2, "T": 4, "H": 4, "D": 3, "S": 6, "G": 2},
    "cross_entropy": {"R": 4, "V": 9},
    "cross_entropy_backward": {"R": 4, "V": 9},
    "embedding": {"B": 2, "T": 3, "V": 4, "C": 5},
    "embedding_backward": {"B": 2, "T": 3, "V": 4, "C": 5},
    "rope": {"B": 2, "T": 3, "H": 2, "E": 2},
    "squared_norm": {"N": 9},
    "adamw": {"N": 9},
}
every_op = pytest.mark.parametrize("op", OPS)


def small(op, **more):
    return testing.make(op, **SMALL[op], **more)


def writer(case, change=lambda name, values: values):
    """A function with the op's signature that writes the expected results after a change, without computing."""

    def function(*arguments):
        given = dict(zip(OPS[case.op].names, arguments, strict=True))
        for name, wanted in case.wanted.items():
            values = change(name, wanted.copy())
            if name == "result":
                return values
            if values is not None:
                given[name][...] = values
        return None

    return function


def memory(x, first, count=1):
    """Floats in memory from element `first` of `x`, whoever owns them: what an out-of-bounds pointer reaches."""
    return np.ctypeslib.as_array((ctypes.c_float * count).from_address(x.ctypes.data + 4 * first))


def test_small_has_every_op():
    """Catches an op that these tests do not cover, or that has no factory."""
    assert SMALL.keys() == OPS.keys() == testing.FACTORIES.keys()


@every_op
def test_accepts_the_rounded_result(op):
    """Catches a checker that rejects the float64 result rounded to float32, the best possible one."""
    case = small(op)
    check(writer(case), case)


@every_op
def test_rejects_zeros(op):
    """Catches a bound as large as the result, with which a kernel that only writes zeros would pass."""
    case = small(op)
    for wrong in case.wanted:
        with pytest.raises(Mismatch) as found:
            check(writer(case, lambda name, x, wrong=wrong: 0 * x if name == wrong else x), case)
        assert (found.value.op, found.value.output, found.value.got) == (op, wrong, 0)


@every_op
def test_rejects_unwritten_outputs(op):
    """Catches outputs that are not filled with NaN before the call, and NaN that passes a comparison."""
    case = small(op)
    for wrong in case.wanted:
        nothing = math.nan if wrong == "result" else None
        if wrong in case.starts:  # contains numbers before the call
            nothing = math.nan
        with pytest.raises(Mismatch) as found:
            check(writer(case, lambda name, x, wrong=wrong, n=nothing: n if name == wrong else x), case)
        assert math.isnan(found.value.got)


@every_op
@pytest.mark.parametrize("bad", [math.nan, math.inf, "near"])
def test_rejects_one_wrong_element(op, bad):
    """Catches a norm over all elements instead of each: one is off by a thousandth of the largest."""
    case = small(op)
    for wrong, wanted in case.wanted.items():
        for flat in {0, wanted.size // 2, wanted.size - 1}:
            index = np.unravel_index(flat, wanted.shape)

            def change(name, x, wrong=wrong, index=index):
                if name == wrong:
                    x[index] = x[index] + 1e-3 * abs(x).max() if bad == "near" else bad
                return x

            with pytest.raises(Mismatch) as found:
                check(writer(case, change), case)
            assert found.value.output == wrong
            assert found.value.index == tuple(int(i) for i in index)


@every_op
def test_bounds_and_reference_agree(op):
    """Catches a formula that differs between `reference` and `bounds`, one of which must be wrong."""
    case = small(op)
    inputs = {arg.name: case.inputs[arg.name] for arg in OPS[op].args if arg.name in case.inputs}
    inputs = {name: x for name, x in inputs.items() if not name.startswith("accumulate")}
    if op == "embedding_backward":
        inputs |= {"V": len(case.wanted["dtable"]), "P": len(case.wanted["dpositions"])}
    values = getattr(reference, op)(**inputs)
    values = values if isinstance(values, tuple) else (values,)
    for value, rounded in zip(values, getattr(bounds, op)(**inputs), strict=True):
        np.testing.assert_allclose(rounded.value, value, rtol=1e-12, atol=1e-14)


MISSING = {  # missing term -> (case, results without it)
    "the last product of a sum": (
        testing.matmul_case(5, 7, 512),
        lambda x: {"out": reference.matmul(x["a"][:, :-1], x["b"][:-1])[0]},
    ),
    "the last row": (testing.column_sum_case(2000, 3), lambda x: {"out": reference.column_sum(x["x"][:-1])}),
    "the largest term of a softmax": (
        testing.softmax_case(1, 2000),
        lambda x: {"out": reference.softmax(np.append(x["x"][:, 1:].copy(), [[-np.inf]], axis=1))},
    ),
    "one deviation of 200": (
        testing.layernorm_case(1, 200),
        lambda x: (
            dict(
                zip(
                    ("out", "total", "mean", "rstd"),
                    reference.layernorm(x["x"][:, :-1], None, x["weight"][:-1], None, 1e-5),
                    strict=True,
                )
            )
            | {"out": np.zeros((1, 200))}
        ),
    ),
    "the last logit": (
        testing.cross_entropy_case(3, 2000, targets=[0, 1, 2]),
        lambda x: dict(zip(("losses", "lse"), reference.cross_entropy(x["logits"][:, :-1], [0, 1, 2]), strict=True)),
    ),
    "the last key": (
        testing.attention_case(1, 1, 1, 8, S=64),
        lambda x: dict(
            zip(("out", "lse"), reference.attention(x["q"], x["k"][:, :-1], x["v"][:, :-1], x["scale"]), strict=False)
        ),
    ),
    "the last element": (testing.squared_norm_case(100_000), lambda x: {"result": reference.squared_norm(x["x"][:-1])}),
}


@pytest.mark.parametrize("what", MISSING)
def test_rejects_a_missing_term(what):
    """Catches bounds too wide to detect one missing term of a sum."""
    case, without = MISSING[what]
    results = without(case.inputs)
    for name in case.wanted:
        alone = dataclasses.replace(case, wanted={name: case.wanted[name]})
        with pytest.raises(Mismatch):
            compare(alone, results)


@pytest.mark.parametrize("distance", [-1, 0, 63, -64])
@pytest.mark.parametrize("strided", [False, True])
def test_rejects_a_write_outside(distance, strided):
    """Catches unchecked guard zones: before, after, and between the rows of a view."""
    case = testing.rope_case(2, 3, 2, 2, fused=strided)

    def function(x, out, *rest):
        writer(case)(x, out, *rest)
        # A head has 4 elements, a token has 2 heads, and the wider row has 3 elements more.
        after = 8 if strided else case.wanted["out"].size
        memory(out, distance if distance < 0 else after + distance)[0] = 1.0

    with pytest.raises(Mismatch, match="wrote outside 'out'"):
        check(function, case)


def test_rejects_reading_before_writing():
    """Catches outputs that start at zero, which hide an accumulation into uninitialised memory."""
    case = testing.matmul_case(3, 4, 5)

    def function(a, b, out, *rest):
        out += a @ b

    with pytest.raises(Mismatch) as found:
        check(function, case)
    assert math.isnan(found.value.got)
    accumulating = testing.matmul_case(3, 4, 5, accumulate=True)
    check(function, accumulating)


def test_rejects_overwriting_instead_of_accumulating():
    """Catches accumulate cases that start from zero, with which a plain store would pass."""

    def function(a, b, out, *rest):
        out[...] = a @ b

    with pytest.raises(Mismatch):
        check(function, testing.matmul_case(3, 4, 5, accumulate=True))


def test_inputs_are_read_only_and_checked():
    """Catches a kernel that changes an input, even after making it writable."""
    case = testing.add_case(5)

    def obedient(a, b, out, n_threads):
        with pytest.raises(ValueError, match="read-only"):
            a[0] = 0
        out[...] = a + b

    def forceful(a, b, out, n_threads):
        out[...] = a + b
        b.flags.writeable = True
        b[3] += 1

    check(obedient, case)
    with pytest.raises(Mismatch, match="changed its input 'b'"):
        check(forceful, case)


def test_a_read_outside_an_input_gives_nan():
    """Catches guard zones of zeros, which would not change a sum that runs too far."""
    case = testing.column_sum_case(4, 3)

    def function(x, out, accumulate, n_threads):
        out[...] = memory(x, 0, 15).reshape(5, 3).sum(0)

    with pytest.raises(Mismatch) as found:
        check(function, case)
    assert math.isnan(found.value.got)


@pytest.mark.parametrize("offset", [0, 4, 60])
def test_offset_is_kept(offset):
    """Catches a test of misaligned arrays whose arrays are aligned."""
    case = testing.rope_case(2, 3, 2, 2)

    def function(*arguments):
        assert {x.ctypes.data % 64 for x in arguments[:4]} == {offset}
        writer(case)(*arguments)

    check(function, case, offset=offset)


@pytest.mark.parametrize("layout", ["plain", "fused", "cache"])
def test_layouts_have_their_strides(layout):
    """Catches strided cases that are contiguous, so that the kernel would never get a view."""
    case = testing.attention_case(2, 4, 4, 3, G=2, layout=layout)
    wanted = {"plain": (4 * 12, 4 * 6), "fused": (4 * 24, 4 * 24), "cache": (4 * 12, 4 * 3)}[layout]

    def function(q, k, v, *rest):
        assert (q.strides[1], k.strides[1]) == wanted
        assert v.strides == k.strides
        np.testing.assert_array_equal(k, case.inputs["k"])
        writer(case)(q, k, v, *rest)

    check(function, case)


@pytest.mark.parametrize(
    ("op", "output", "source"), [("rope", "out", "x"), ("cross_entropy_backward", "dlogits", "logits")]
)
def test_in_place_is_one_memory(op, output, source):
    """Catches in-place cases with two arrays, so that the kernel would never read its own output."""
    case = small(op, in_place=True)

    def function(*arguments):
        given = dict(zip(OPS[op].names, arguments, strict=True))
        assert given[output] is given[source]
        np.testing.assert_array_equal(given[source], case.inputs[source])
        writer(case)(*arguments)

    check(function, case)


def test_infinity_must_be_the_same():
    """Catches an infinity that passes because infinity minus infinity is NaN."""
    case = Case("add", {"a": None, "b": None}, {"out": np.array([np.inf, 1.0])}, {"out": np.zeros(2)})
    compare(case, {"out": np.float32([np.inf, 1])})
    for wrong in ([-np.inf, 1], [np.nan, 1], [3e38, 1], [np.inf, np.inf]):
        with pytest.raises(Mismatch):
            compare(case, {"out": np.float32(wrong)})


@pytest.mark.parametrize("bad", [{"wanted": np.nan}, {"bound": np.inf}, {"bound": np.nan}, {"bound": -1.0}], ids=str)
def test_refuses_cases_that_accept_anything(bad):
    """Catches a case with an infinite bound or a NaN result, which no kernel could fail."""
    wanted, bound = np.full(2, bad.get("wanted", 1.0)), np.full(2, bad.get("bound", 0.0))
    with pytest.raises(ValueError, match=r"\[add\] 'out' must have"):
        Case("add", {}, {"out": wanted}, {"out": bound})
    with pytest.raises(ValueError, match="must have shape"):
        Case("add", {}, {"out": np.zeros(2)}, {"out": np.zeros(3)})


def test_refuses_a_layout_of_another_shape():
    """Catches a view smaller than the output, whose other elements would count as guards."""
    case = dataclasses.replace(testing.add_case(4), layouts={"out": Layout((9,), (slice(0, 5),))})
    with pytest.raises(ValueError, match="the view must have shape"):
        run(writer(case), case)


def test_the_message_names_element_and_sizes():
    """Catches a message without the element or the size of the call."""
    case = testing.add_case(4)

    def change(name, x):
        x[2] += 1
        return x

    with pytest.raises(AssertionError, match=r"\[add\] 'out' at \(2,\) must be .* within .*, got .*; 1 of 4 .*\(N 4\)"):
        check(writer(case, change), case)


@every_op
def test_same_seed_same_case(op):
    """Catches a case with new random values each time, whose failure cannot be repeated."""
    one, two, other = small(op), small(op), small(op, seed=5)
    for name, x in one.inputs.items():
        np.testing.assert_array_equal(x, two.inputs[name])
    arrays = [name for name, x in one.inputs.items() if isinstance(x, np.ndarray) and x.dtype == np.float32]
    assert any((one.inputs[name] != other.inputs[name]).any() for name in arrays)


@every_op
def test_default_case_and_its_cost(op):
    """Catches an op that `tinygpt bench` cannot run, and sizes bound to the wrong letters."""
    (case,) = testing.default_cases(op)
    assert case.flops >= 100_000 or op in ("add", "embedding", "embedding_backward")
    assert case.bytes >= 100_000
    arrays = {arg.name: arg for arg in OPS[op].args if arg.shape}
    for name, x in [*case.inputs.items(), *case.wanted.items()]:
        if name in arrays and x is not None:
            sizes = [OPS[op].args and _size(axis, case.dims) for axis in arrays[name].axes(case.inputs)]
            assert x.shape == tuple(sizes)


def _size(axis, dims):
    return math.prod(int(factor) if factor.isdigit() else dims[factor] for factor in axis.split("*"))


def test_cost_by_hand():
    """Catches absent arguments that are counted: 2 M N K flops, 4 bytes per element of a, b and out."""
    case = testing.matmul_case(2, 3, 5, trans_b=True)
    assert (case.flops, case.bytes, case.label) == (60, 4 * (10 + 15 + 6), "M 2  K 5  N 3  b transposed")
    with_bias = testing.matmul_case(2, 3, 5, bias=True, pre=True)
    assert with_bias.bytes == case.bytes + 4 * (3 + 6)
    assert testing.adamw_case(10).bytes == 4 * 10 * 7


def test_unknown_op():
    """Catches a KeyError for a misspelt name."""
    with pytest.raises(ValueError, match="unknown op 'matmull'; there are matmul"):
        testing.make("matmull")


def test_shapes_around():
    """Catches a tile size without its neighbours, and sizes above the limit."""
    assert {0, 1, 2, 3, 7, 8, 9, 13, 15, 16, 17} <= set(shapes_around(8, 16))
    assert max(shapes_around(8, 16, most=9)) == 9


def test_gamma():
    """Catches n - 1 roundings for n, and a bound that becomes negative beyond its range."""
    assert gamma(0) == 0
    assert gamma(1) == pytest.approx(2.0**-24, rel=1e-6)
    assert gamma(2**23) == pytest.approx(1.0)
    with pytest.raises(ValueError, match="below"):
        gamma(2**24)


OPERATIONS = {
    "sum": (lambda x, y: x + y),
    "difference": (lambda x, y: x - y),
    "product": (lambda x, y: x * y),
    "quotient": (lambda x, y: x / (y * y + 0.5)),
    "polynomial": (lambda x, y: (x * x - y) * (x + y) + 1),
}


@pytest.mark.parametrize("name", OPERATIONS)
@settings(max_examples=25, deadline=None, derandomize=True)
@given(seed=st.integers(0, 2**32 - 1))
def test_float32_stays_within_its_bound(name, seed):
    """Catches a missing rounding: float32 arithmetic must stay within the bound of the same formula."""
    draw = np.random.default_rng(seed)
    x, y = (draw.standard_normal(200).astype(np.float32) * np.float32(10) ** draw.integers(-3, 4, 200) for _ in "xy")
    x, y = x.astype(np.float32), y.astype(np.float32)
    formula = OPERATIONS[name]
    rounded = formula(exact(x), exact(y))
    assert (abs(formula(x, y) - formula(x.astype(np.float64), y.astype(np.float64))) <= rounded.error).all()


@pytest.mark.parametrize("name", ["exp", "tanh", "log", "sqrt"])
@settings(max_examples=25, deadline=None, derandomize=True)
@given(seed=st.integers(0, 2**32 - 1))
def test_functions_propagate_the_error_of_their_argument(name, seed):
    """Catches a missing derivative: any argument in its interval must give a value within the bound."""
    draw = np.random.default_rng(seed)
    x = draw.uniform(-20, 20, 200) if name in ("exp", "tanh") else draw.uniform(1e-3, 1e3, 200)
    error = abs(x) * 10.0 ** draw.uniform(-9, -1, 200)
    elsewhere = x + draw.uniform(-1, 1, 200) * error
    rounded = getattr(Rounded(x, error), name)()
    assert (abs(getattr(np, name)(elsewhere) - getattr(np, name)(x)) <= rounded.error).all()


@settings(max_examples=25, deadline=None, derandomize=True)
@given(seed=st.integers(0, 2**32 - 1), n=st.integers(1, 300))
def test_sums_stay_within_their_bound_in_any_order(seed, n):
    """Catches a bound valid for pairwise sums only: sequential sums in the worst order must be within it."""
    draw = np.random.default_rng(seed)
    x, y = draw.standard_normal((2, n)).astype(np.float32)
    products = np.sort(x * y)
    for order in (products, products[::-1], draw.permutation(products)):
        total = np.float32(0)
        for term in order:
            total = np.float32(total + term)
        exact_sum = Rounded(order.astype(np.float64)).sum(0)
        assert abs(float(total) - exact_sum.value) <= exact_sum.error
        bound = contract("i,i->", exact(x), exact(y), n)
        assert abs(float(total) - bound.value) <= bound.error


def test_scalar_is_rounded_once():
    """Catches a scalar that counts as exact although float32 rounds it, and the reverse."""
    assert scalar(0.5).error == 0
    assert 0 < scalar(0.1).error <= 0.1 * 2.0**-24
