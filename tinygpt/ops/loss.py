"""Cross-entropy, by itself and together with the head that produces the logits."""

from __future__ import annotations

import numpy as np

from tinygpt import memory
from tinygpt.kernels.registry import active
from tinygpt.kernels.spec import WORK
from tinygpt.kernels.threads import for_work
from tinygpt.ops.linear import packed_product, product_backward, refuse_gradients
from tinygpt.ops.product import product
from tinygpt.ops.shapes import expect, rows
from tinygpt.packed import PackedWeight
from tinygpt.tensor import Tensor, is_recording, traced

# Up to so many bytes the logits are kept for backward; above, they are computed again in chunks of rows.
KEEP_BYTES = 64 * 2**20


def checked_targets(op: str, targets: np.ndarray, R: int, V: int) -> tuple[np.ndarray, int]:
    """Targets as (R,) int32, and how many of them count."""
    targets = np.asarray(targets)
    if targets.size and targets.dtype.kind not in "iu":
        raise TypeError(f"[{op}] 'targets' must be integers, got {targets.dtype}")
    if targets.size != R:
        raise ValueError(f"[{op}] 'targets' must have {R} elements, got shape {targets.shape}")
    if R and int(targets.max()) >= V:
        raise IndexError(f"[{op}] 'targets' must be below {V}, got {int(targets.max())}")
    flat = targets.reshape(-1)
    if targets.dtype.kind == "i":
        flat = np.maximum(flat, -1)  # what is far below zero must not wrap around in 32 bits
    flat = np.ascontiguousarray(flat, np.int32)
    return flat, int(np.count_nonzero(flat >= 0))


def _mean(losses: np.ndarray, count: int) -> np.ndarray:
    """The mean over the rows that count, summed in float64; 0 if there are none."""
    return np.asarray(losses.sum(dtype=np.float64) / max(1, count), np.float32)


@traced
def cross_entropy(logits: Tensor, targets: np.ndarray) -> Tensor:
    """Mean of -log softmax(logits)[target] over the rows whose target is not negative.

    Parameters
    ----------
    logits : Tensor, shape (..., V)
    targets : int array, shape (...)
        Negative ones are ignored; if all are, the loss is 0.

    Returns
    -------
    Tensor, shape ()
        In nats.

    Raises
    ------
    IndexError
        A target is V or more.

    Notes
    -----
    dlogits = (softmax - one hot) / count.
    """
    L = rows("cross_entropy", "logits", logits)
    R, V = L.shape
    flat, count = checked_targets("cross_entropy", targets, R, V)
    losses, lse = np.empty(R, np.float32), np.empty(R, np.float32)
    active.cross_entropy(L, flat, losses, lse, for_work(WORK["cross_entropy"] * L.size))

    def backward(dy: np.ndarray) -> None:
        dlogits = memory.empty((R, V))
        scale = float(dy) / max(1, count)
        _logit_gradients(L, flat, lse, dlogits, scale)
        logits.receive(dlogits.reshape(logits.shape))

    return Tensor.from_op(_mean(losses, count), (logits,), backward)


@traced
def head_loss(x: Tensor, weight: Tensor | PackedWeight, targets: np.ndarray, keep_bytes: int = KEEP_BYTES) -> Tensor:
    """cross_entropy(x W^T, targets) without handing out the logits.

    Parameters
    ----------
    x : Tensor, shape (..., C)
    weight : Tensor or PackedWeight, shape (V, C)
        A packed one has no gradient and passes none on.
    targets : int array, shape (...)
    keep_bytes : int
        Logits of up to so many bytes are kept, and backward turns them into their gradient in place. Larger ones are
        made and used in chunks of rows, once in forward and once more in backward, so that they never exist together.

    Returns
    -------
    Tensor, shape ()
    """
    X, V = rows("head_loss", "x", x), weight.shape[0]
    expect("head_loss", "weight", weight, (None, X.shape[1]))
    if isinstance(weight, PackedWeight):
        refuse_gradients("head_loss", x)
    R = X.shape[0]
    flat, count = checked_targets("head_loss", targets, R, V)
    if keep_bytes < 4 * R * V:
        chunk = max(1, keep_bytes // (4 * V))
        return _chunked_loss(x, weight, flat, count, chunk)
    logits, losses, lse = memory.empty((R, V)), np.empty(R, np.float32), np.empty(R, np.float32)
    _logits_and_losses(X, weight, flat, logits, losses, lse)
    mean = _mean(losses, count)
    if isinstance(weight, PackedWeight) or not is_recording():
        return Tensor(mean)

    def backward(dy: np.ndarray) -> None:
        scale = float(dy) / max(1, count)
        _logit_gradients(logits, flat, lse, logits, scale)
        product_backward(x, weight, logits)

    return Tensor.from_op(mean, (x, weight), backward)


def _logits_and_losses(
    X: np.ndarray, weight: Tensor | PackedWeight, targets: np.ndarray, logits: np.ndarray, losses, lse
) -> None:
    """Fill logits (R, V), losses (R,) and lse (R,)."""
    if isinstance(weight, PackedWeight):
        packed_product(X, weight, out=logits)
    else:
        product(X, weight.data, trans_b=True, out=logits)
    active.cross_entropy(logits, targets, losses, lse, for_work(WORK["cross_entropy"] * logits.size))


def _logit_gradients(
    logits: np.ndarray, targets: np.ndarray, lse: np.ndarray, dlogits: np.ndarray, scale: float
) -> None:
    """Fill dlogits (R, V) with scale (softmax - one hot); it may be the array of the logits."""
    n_threads = for_work(WORK["cross_entropy_backward"] * logits.size)
    active.cross_entropy_backward(logits, targets, lse, dlogits, scale, n_threads)


def _chunked_loss(x: Tensor, weight: Tensor | PackedWeight, targets: np.ndarray, count: int, chunk: int) -> Tensor:
    """`head_loss` with logits for `chunk` rows at a time, computed again in backward."""
    X = rows("head_loss", "x", x)
    R, V = len(X), weight.shape[0]
    losses, lse = np.empty(R, np.float32), np.empty(R, np.float32)
    buffer = memory.empty((min(chunk, R), V))
    for r in range(0, R, chunk):
        part = slice(r, min(r + chunk, R))
        _logits_and_losses(X[part], weight, targets[part], buffer[: part.stop - r], losses[part], lse[part])
    del buffer
    if isinstance(weight, PackedWeight):
        return Tensor(_mean(losses, count))

    def backward(dy: np.ndarray) -> None:
        dx = memory.empty(X.shape)
        logits = memory.empty((min(chunk, R), V))
        for r in range(0, R, chunk):
            part = slice(r, min(r + chunk, R))
            piece = Tensor(X[part], requires_grad=x.requires_grad)
            dlogits = logits[: part.stop - r]
            _logits_and_losses(X[part], weight, targets[part], dlogits, losses[part], lse[part])
            scale = float(dy) / max(1, count)
            _logit_gradients(dlogits, targets[part], lse[part], dlogits, scale)
            product_backward(piece, weight, dlogits)
            if piece.grad is not None:
                dx[part] = piece.grad
        x.receive(dx.reshape(x.shape))

    return Tensor.from_op(_mean(losses, count), (x, weight), backward)
