"""Windows: which tokens each batch has, for any length, context and seed."""

import numpy as np
import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from tinygpt.data.windows import StridedWindows, Windows

LENGTHS = st.integers(2, 200)
CONTEXTS = st.integers(1, 40)
SEEDS = st.integers(0, 2**64)
patient = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])


def starts_of_epoch(windows, epoch):
    """Return the starts of an epoch's windows. The tokens are 0, 1, 2, ..., so a start is the first input."""
    inputs, _ = windows.batch(epoch * windows.n_windows, windows.n_windows)
    return inputs[:, 0]


@patient
@given(LENGTHS, CONTEXTS, SEEDS, st.integers(0, 1000))
def test_targets_are_the_next_tokens(n, block_size, seed, first):
    """Catches targets that are not shifted by one, and a window that runs past the end."""
    assume(n > block_size)
    windows = Windows(np.arange(n), block_size, seed)
    inputs, targets = windows.batch(first, 3)
    assert inputs.shape == targets.shape == (3, block_size)
    assert inputs.dtype == targets.dtype == np.int32
    assert inputs.flags.c_contiguous
    assert targets.flags.c_contiguous
    assert np.array_equal(targets, inputs + 1)
    assert targets.max() < n
    assert np.array_equal(np.diff(inputs, axis=1), np.ones((3, block_size - 1)))


@patient
@given(LENGTHS, CONTEXTS, SEEDS, st.integers(0, 50))
def test_an_epoch_is_a_permutation_of_adjacent_windows(n, block_size, seed, epoch):
    """Catches a repeated or missing window, overlaps or gaps, and an offset out of range."""
    assume(n > block_size)
    windows = Windows(np.arange(n), block_size, seed)
    starts = np.sort(starts_of_epoch(windows, epoch))
    assert 0 <= starts[0] < 2 * block_size
    assert np.array_equal(starts, starts[0] + block_size * np.arange(windows.n_windows))


@patient
@given(LENGTHS, CONTEXTS)
def test_an_epoch_has_as_many_windows_as_fit(n, block_size):
    """Catches an epoch that leaves out more tokens than the largest offset requires."""
    assume(n > block_size)
    count = Windows(np.arange(n), block_size).n_windows
    assert count >= 1
    last_offset = block_size - 1
    assert last_offset + (count + 1) * block_size + 1 > n


@patient
@given(LENGTHS, CONTEXTS, SEEDS, st.integers(0, 500), st.lists(st.integers(1, 7), min_size=1, max_size=8))
def test_a_batch_depends_on_its_numbers_alone(n, block_size, seed, first, sizes):
    """Catches state between calls: a resumed run or another batch size would see other tokens."""
    assume(n > block_size)
    windows = Windows(np.arange(n), block_size, seed)
    inputs, targets = windows.batch(first, sum(sizes))
    place = 0
    for size in sizes:
        fresh = Windows(np.arange(n), block_size, seed).batch(first + place, size)
        again = windows.batch(first + place, size)
        for got in (fresh, again):
            assert np.array_equal(got[0], inputs[place : place + size])
            assert np.array_equal(got[1], targets[place : place + size])
        place += size


def test_epochs_and_seeds_differ():
    """Catches one order or one offset for all epochs, and an ignored seed."""
    windows = Windows(np.arange(1000), 10, seed=1)
    epochs = [starts_of_epoch(windows, epoch) for epoch in range(300)]
    assert len({tuple(starts) for starts in epochs}) == 300
    # 99 windows and their last target are 991 of the 1000 tokens, which leaves offsets 0 ... 9.
    assert windows.n_windows == 99
    assert {int(starts.min()) for starts in epochs} == set(range(10))
    assert not np.array_equal(epochs[0], np.sort(epochs[0]))
    assert not np.array_equal(epochs[0], starts_of_epoch(Windows(np.arange(1000), 10, seed=2), 0))


def test_every_token_is_seen_in_some_epoch():
    """Catches tokens at the start or end that no offset reaches."""
    for n in range(48, 64):
        windows = Windows(np.arange(n), 8)
        inputs, targets = windows.batch(0, 300 * windows.n_windows)
        assert set(inputs.ravel()) == set(range(n - 1))
        assert set(targets.ravel()) == set(range(1, n))


def test_the_shortest_text_has_one_window():
    """Catches a count of 0 where exactly one context fits."""
    windows = Windows(np.arange(9), 8)
    assert windows.n_windows == 1
    inputs, targets = windows.batch(123, 2)
    assert np.array_equal(inputs, [np.arange(8)] * 2)
    assert np.array_equal(targets, [np.arange(1, 9)] * 2)


def test_the_tokens_are_not_changed_by_a_batch():
    """Catches a batch that is a view of the corpus: a mask written into it would change the corpus."""
    tokens = np.arange(20, dtype=np.int32)
    inputs, targets = Windows(tokens, 5).batch(0, 2)
    inputs[:] = -7
    targets[:] = -7
    assert np.array_equal(tokens, np.arange(20))


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: Windows(np.arange(8), 8), ValueError, r"\[Windows\] 'tokens' must be at least 9 long, got 8"),
        (lambda: Windows([], 8), ValueError, r"\[Windows\] 'tokens' must be at least 9 long, got 0"),
        (lambda: Windows(np.arange(8), 0), ValueError, r"\[Windows\] 'block_size' must be at least 1, got 0"),
        (lambda: Windows(np.arange(8), 2, seed=-1), ValueError, r"\[Windows\] 'seed' must be at least 0, got -1"),
        (lambda: Windows(np.ones(8), 2), TypeError, r"\[Windows\] 'tokens' must be integers, got float64"),
        (lambda: Windows(np.ones((2, 8), int), 2), ValueError, r"\[Windows\] 'tokens' must have one axis, got shape"),
        (lambda: Windows(np.arange(8), 2).batch(-1, 1), ValueError, r"\[batch\] 'first_sequence' must be at least 0"),
        (lambda: Windows(np.arange(8), 2).batch(0, 0), ValueError, r"\[batch\] 'count' must be at least 1, got 0"),
        (lambda: StridedWindows([1], 4), ValueError, r"\[StridedWindows\] 'tokens' must be at least 2 long, got 1"),
        (lambda: StridedWindows([1, 2], 0), ValueError, r"\[StridedWindows\] 'block_size' must be at least 1, got 0"),
    ],
)
def test_wrong_arguments(call, error, message):
    """Catches an IndexError deep in NumPy, or an endless batch, in place of a one-line error."""
    with pytest.raises(error, match="^" + message):
        call()


@patient
@given(LENGTHS, CONTEXTS, st.data())
def test_strided_windows_predict_every_token_but_the_first_once(n, window, data):
    """Catches a token counted twice or never, one with too little context, and wrong positions."""
    stride = data.draw(st.integers(1, window))
    tokens = np.arange(100, 100 + n)
    windows = StridedWindows(tokens, window, stride)
    inputs, targets, places = windows.batch(np.arange(windows.n_windows))
    assert inputs.shape == targets.shape == places.shape == (windows.n_windows, windows.width)
    assert inputs.dtype == targets.dtype == np.int32
    assert windows.width <= window
    counted = targets >= 0
    assert np.array_equal(targets[counted], tokens[places[counted]])
    assert np.array_equal(np.sort(places[counted]), np.arange(1, n))
    assert np.array_equal(inputs[counted], tokens[places[counted] - 1])
    before = np.broadcast_to(np.arange(1, windows.width + 1), targets.shape)[counted]
    wanted = np.where(places[counted] <= window, places[counted], window - stride + 1)
    assert (before >= wanted).all()
    # The inputs before a target are the tokens before it in the text.
    row, column = (int(index[-1]) for index in np.nonzero(counted))
    assert np.array_equal(inputs[row, : column + 1], tokens[places[row, column] - column - 1 : places[row, column]])


@patient
@given(LENGTHS, CONTEXTS)
def test_a_stride_of_a_whole_window(n, block_size):
    """Catches a token predicted twice or never at a window's edge, and padding that is counted."""
    tokens = np.arange(100, 100 + n)
    windows = StridedWindows(tokens, block_size)
    inputs, targets, _ = windows.batch(np.arange(windows.n_windows))
    assert inputs.shape == targets.shape == (-(-(n - 1) // block_size), min(block_size, n - 1))
    counts = targets != -1
    assert np.array_equal(targets[counts], tokens[1:])
    assert np.array_equal(inputs[counts], tokens[:-1])
    # Padding is at the end of the last row only, and its inputs are 0, an id that every vocabulary has.
    assert counts[:-1].all()
    assert counts[-1, 0]
    assert not inputs[~counts].any()


@pytest.mark.parametrize("stride", [0, -1, 5])
def test_a_stride_out_of_range_is_refused(stride):
    """Catches windows that never advance, and tokens left out between two windows."""
    with pytest.raises(ValueError, match=r"^\[StridedWindows\] 'stride' must be in 1..4, got"):
        StridedWindows(np.arange(9), 4, stride)
