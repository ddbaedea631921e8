"""Messages for a failing function that fits no known mistake: symptoms, exceptions, values."""

import numpy as np
import pytest

from tinygpt import testing
from tinygpt.gym.catalogue import find
from tinygpt.gym.judge import attempt, judge, printed, symptom
from tinygpt.gym.trials import KernelTrial, ValueTrial, Wrong, difference

SOFTMAX = find("naive-softmax")


def failure_of(function):
    return judge(SOFTMAX, function, "softmax.py")


def right(x):
    powers = np.exp(x)
    return powers / powers.sum(axis=1, keepdims=True)


def assigned(change):
    """A softmax whose right result is changed before it is written."""

    def softmax(x, out):
        out[...] = change(right(x))

    return softmax


@pytest.mark.parametrize(
    ("function", "words"),
    [
        (lambda x, out: right(x), "The function returns its result. Write it into 'out' instead"),
        (lambda x, out: None, "Nothing was written into 'out'"),
        (assigned(lambda y: 3 * y), "Every element is 3 times what it must be"),
        (assigned(lambda y: y + np.float32(0.25)), "Every element differs by the same 0.25"),
        (assigned(lambda y: 0 * y), "Every element is 0"),
        (assigned(lambda y: np.where(y > 0.5, y, np.nan)), "Part of 'out' is NaN"),
    ],
)
def test_a_symptom_is_described(function, words):
    """Catches a failure without a reason although its values tell one."""
    failure = failure_of(function)
    assert failure.number == 1
    assert words in failure.reason
    assert failure.mistake == failure.hint == ""


def test_a_transposed_result_is_described():
    """Catches exchanged rows and columns that are called random."""
    trial = KernelTrial("square", testing.matmul_case(3, 3, 2))
    wanted = trial.wanted["out"]
    assert "transposed" in symptom(trial, {"out": wanted.T.copy(), "returned": None})
    assert symptom(trial, {"out": wanted + np.eye(3), "returned": None}) == ""


def test_the_first_wrong_element_is_named():
    """Catches a message that leaves the learner to search."""

    def softmax(x, out):
        out[...] = right(x)
        if len(x) > 1:
            out[1, 0] = 7

    failure = failure_of(softmax)
    assert failure.title == "two rows of three"
    assert failure.problem.startswith("out[1, 0] must be 0.665241 (within ")
    assert failure.problem.endswith("got 7; 1 of 6 elements are wrong")
    assert dict(failure.inputs)["x"].startswith("[[ 0.,  1.,  2.]")
    assert "7." in dict(failure.got)["out"]


@pytest.mark.parametrize(
    ("function", "problem"),
    [
        (lambda x, out: x.fill(0), "ValueError: assignment destination is read-only"),
        (lambda x: None, "TypeError: "),
        (lambda x, out: 1 // 0, "ZeroDivisionError: "),
    ],
)
def test_an_exception_is_told(function, problem):
    """Catches a traceback, and an exception that ends the check."""
    assert problem in failure_of(function).problem


def test_a_written_input_is_explained():
    """Catches a message of NumPy that does not tell a learner what to do."""
    assert failure_of(lambda x, out: x.fill(0)).reason.startswith("An input was written to. Inputs are read-only")
    assert failure_of(lambda x, out: 1 // 0).reason == ""


def test_several_results_are_shown_one_by_one():
    """Catches a dict printed on one line, in which nobody finds the array that is wrong."""
    failure = judge(find("autograd-mul"), lambda a, b: (a * b, lambda dout: (dout * b, dout * b)))
    assert [name for name, _ in failure.wanted] == [name for name, _ in failure.got] == ["out", "da", "db"]


def test_a_write_outside_is_told():
    """Catches a kernel that overwrites its neighbours unnoticed."""

    def softmax(x, out):
        out[...] = right(x)
        np.lib.stride_tricks.as_strided(out, (out.size + 1,), (4,))[-1] = 1

    assert failure_of(softmax).problem.startswith("wrote outside 'out': 1 elements")


def test_a_changed_argument_is_told():
    """Catches a function that passes although it destroys its input."""
    trial = ValueTrial("sorted", {"x": [3, 1, 2]}, [1, 2, 3])
    failure, _, _ = attempt(trial, lambda x: x.sort() or x)
    assert failure.problem == "the function changed its argument 'x'; work on a copy"
    assert attempt(trial, sorted)[0] is None


@pytest.mark.parametrize(
    ("got", "wanted", "problem"),
    [
        (None, 1.0, r"result must be 1.0, got nothing \(is there a return\?\)"),
        (1.5, 1.0, r"result must be 1, got 1.5"),
        (float("nan"), 1.0, r"result must be 1, got nan"),
        ([1, 2], [1, 3], r"result\[1\] must be 3, got 2"),
        ([1], [1, 3], r"result must have 2 elements, got 1"),
        ("a", ["a"], r"result must be a list, got str"),
        ({"da": 1.0}, {"db": 1.0}, r"result must have the keys db"),
        ({"db": 2.0}, {"db": 1.0}, r"db must be 1, got 2"),
        (np.zeros(2), np.zeros(3), r"result must be an array of shape \(3,\), got shape \(2,\)"),
        (np.array([0.0, 2.0]), np.zeros(2), r"result\[1\] must be 0, got 2"),
        (np.array([np.nan, 0.0]), np.zeros(2), r"result\[0\] must be 0, got nan"),
        ("b", "a", "result must be 'a', got 'b'"),
    ],
)
def test_values_are_compared(got, wanted, problem):
    """Catches a wrong value that passes, NaN above all, and a difference without its place."""
    with pytest.raises(Wrong, match=f"^{problem}"):
        difference(got, wanted, 0.0, "result")
    difference(wanted, wanted, 0.0, "result")


def test_large_arrays_are_cut():
    """Catches a screen full of numbers, and a cut without the shape."""
    assert printed(np.zeros((40, 50), np.float32)).startswith("shape (40, 50)\n[[0., 0., ..., 0., 0.]")
    assert printed(np.float32([1.5])) == "[1.5]"
    assert printed(0.125) == "0.125"
