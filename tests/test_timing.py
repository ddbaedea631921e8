"""Timing of rungs: each is checked before it is timed, and the timed call is that of the case."""

import numpy as np
import pytest

from tinygpt import testing
from tinygpt.kernels import registry, spec
from tinygpt.testing import timing
from tinygpt.testing.timing import FEWEST_CALLS, median_seconds, prepare


@pytest.mark.parametrize("op", testing.FACTORIES)
def test_every_rung_can_be_called_repeatedly(op):
    """Catches outputs of the wrong shape, missing arguments, and inputs changed by a call."""
    (case,) = testing.default_cases(op)
    rung = registry.rungs(op)[-1]
    call = prepare(registry.function(op, rung), case, 1)
    call()
    call()


def test_a_wrong_rung_is_refused():
    """Catches a time for a rung with wrong results: one that does nothing would be the fastest."""
    case = testing.make("softmax", R=4, C=9)
    right = registry.function("softmax", "naive")

    def nothing(x, out, n_threads):
        pass

    def one_off(x, out, n_threads):
        right(x, out, n_threads)
        out[2, 3] += 1e-3

    def outside(x, out, n_threads):
        right(x, out, n_threads)
        x.flags.writeable = True
        x[0, 0] += 1

    prepare(right, case, 1)
    for wrong in (nothing, one_off, outside):
        with pytest.raises(testing.Mismatch):
            prepare(wrong, case, 1)


def test_the_call_uses_the_values_of_the_case():
    """Catches a call timed on zeros, on the case's own arrays, or with another number of threads."""
    case = testing.make("softmax", R=4, C=9)
    calls = []

    def spy(x, out, n_threads):
        registry.function("softmax", "naive")(x, out, n_threads)
        calls.append((x, out, n_threads))

    call = prepare(spy, case, 3)
    calls.clear()
    call()
    call()
    (x, out, n_threads), again = calls
    np.testing.assert_array_equal(x, case.inputs["x"])
    assert not np.shares_memory(x, case.inputs["x"])
    np.testing.assert_allclose(out, case.wanted["out"], rtol=1e-5)
    assert n_threads == 3
    assert again[1] is out


def test_updated_arrays_start_from_the_case():
    """Catches parameters and moments that start from zeros, which is different work."""
    case = testing.make("adamw", N=17)
    seen = []

    def spy(*arguments):
        seen.append([np.copy(one) for one in arguments if isinstance(one, np.ndarray)])
        registry.function("adamw", "naive")(*arguments)

    call = prepare(spy, case, 1)
    seen.clear()
    call()
    names = [arg.name for arg in spec.OPS["adamw"].args if arg.shape]
    starts = {**{name: x for name, x in case.inputs.items() if isinstance(x, np.ndarray)}, **case.starts}
    assert len(names) == len(seen[0])
    for name, array in zip(names, seen[0], strict=True):
        np.testing.assert_array_equal(array, starts[name])


def test_strides_are_those_of_the_case():
    """Catches contiguous q, k and v although the case has them fused."""
    case = testing.make("attention", B=2, T=3, H=2, D=4, layout="fused")
    strides = []

    def spy(q, k, v, *rest):
        strides.append((q.strides, k.strides, v.strides))
        registry.function("attention", "naive")(q, k, v, *rest)

    call = prepare(spy, case, 1)
    call()
    assert strides[0] == strides[1]
    assert strides[0][0] != np.empty((2, 3, 2, 4), np.float32).strides


def test_the_median_is_of_calls_after_the_first(monkeypatch):
    """Catches a mean, a first call that is counted, and a slow rung that is called once.

    The clock is simulated.
    """
    clock = iter([0.0, 10.0, 15.0, 20.0, 21.0, 30.0, 32.0])  # the end is set at 0.2; calls take 5, 1 and 2 seconds
    calls = []
    monkeypatch.setattr(timing.time, "perf_counter", lambda: next(clock, 1000.0))
    assert median_seconds(lambda: calls.append(1), 0.2) == 2
    assert len(calls) == 1 + FEWEST_CALLS
