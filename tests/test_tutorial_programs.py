"""Programs that the tutorials show: the GPT of plain Python numbers, and the engine of sixty lines."""

import sys
from pathlib import Path

import numpy as np
import pytest

from tinygpt.reference import one_file


@pytest.fixture
def tutorials(monkeypatch):
    monkeypatch.syspath_prepend(str(Path(__file__).parents[1] / "docs" / "tutorials"))
    yield
    for name in ("scalar_gpt", "sixty_lines"):
        sys.modules.pop(name, None)


@pytest.mark.usefixtures("tutorials")
def test_plain_numbers_give_the_loss_and_gradients_of_the_arrays():
    """Catches a formula of the scalar GPT, or a derivative of one of its numbers, that differs from one_file.py."""
    import scalar_gpt

    random = np.random.default_rng(0)
    w = {name: x + 0.3 * random.normal(size=x.shape) for name, x in one_file.new_weights(random, 7, 5, 2, 4).items()}
    text = random.integers(0, 7, 6)
    loss, gradients = one_file.loss_and_gradients(w, text[None, :-1], text[None, 1:], 2)
    numbers = {name: scalar_gpt.numbers(value) for name, value in w.items()}
    scalar = scalar_gpt.loss(numbers, text[:-1].tolist(), text[1:].tolist(), 2)
    scalar.backward()
    assert scalar.value == pytest.approx(loss, rel=1e-12)
    for name, wanted in gradients.items():
        flat = [n.grad for row in numbers[name] for n in (row if isinstance(row, list) else [row])]
        np.testing.assert_allclose(np.reshape(flat, wanted.shape), wanted, rtol=1e-8, atol=1e-12, err_msg=name)


@pytest.mark.usefixtures("tutorials")
def test_sixty_lines_give_the_slopes_of_finite_differences():
    """Catches an operation of the small engine whose gradient is wrong, lost at a second use, or not unbroadcast."""
    from sixty_lines import Tensor

    random = np.random.default_rng(1)
    values = [random.normal(size=shape) for shape in ((3, 4), (4, 2), (2,), (3, 1))]

    def loss(arrays):
        x, w, b, s = (Tensor(array) for array in arrays)
        h = (x @ w + b).tanh()
        return (h * h * s + h).sum(), (x, w, b, s)

    last, tensors = loss(values)
    last.backward()
    for k, tensor in enumerate(tensors):
        for place in np.ndindex(tensor.data.shape):
            ends = []
            for move in (1e-6, -1e-6):
                moved = [array.copy() for array in values]
                moved[k][place] += move
                ends.append(float(loss(moved)[0].data))
            assert tensor.grad[place] == pytest.approx((ends[0] - ends[1]) / 2e-6, rel=1e-5, abs=1e-8)
