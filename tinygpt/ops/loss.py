"""Cross-entropy loss, alone and fused with the head that produces the logits."""

from __future__ import annotations

import numpy as np

from tinygpt import memory
from tinygpt.kernels.registry import active
from tinygpt.kernels.spec import WORK
from tinygpt.kernels.threads import for_work
from tinygpt.ops import calls
from tinygpt.ops.linear import product_backward, refuse_gradients
from tinygpt.ops.product import packed_product, product
from tinygpt.ops.shapes import expect, rows
from tinygpt.packed import PackedWeight
from tinygpt.tensor import Tensor, is_recording, traced

KEEP_BYTES = 64 * 2**20  # larger logits are not kept for backward, but computed again in chunks of rows


def checked_targets(op: str, targets: np.ndarray, R: int, V: int) -> tuple[np.ndarray, int]:
    """Return targets as int32 (R,), and the number of those that are not negative."""
    targets = np.asarray(targets)
    if targets.size and targets.dtype.kind not in "iu":
        raise TypeError(f"[{op}] 'targets' must be integers, got {targets.dtype}")
    if targets.size != R:
        raise ValueError(f"[{op}] 'targets' must have {R} elements, got shape {targets.shape}")
    if R and int(targets.max()) >= V:
        raise IndexError(f"[{op}] 'targets' must be below {V}, got {int(targets.max())}")
    flat = targets.reshape(-1)
    if targets.dtype.kind == "i":
        flat = np.maximum(flat, -1)  # before the cast, so that very negative values do not wrap around
    flat = np.ascontiguousarray(flat, np.int32)
    return flat, int(np.count_nonzero(flat >= 0))


def _mean(losses: np.ndarray, count: int) -> np.ndarray:
    """Average the losses of `count` rows, summed in float64; 0 if there are none."""
    return np.asarray(losses.sum(dtype=np.float64) / max(1, count), np.float32)


@traced
def cross_entropy(logits: Tensor, targets: np.ndarray) -> Tensor:
    """Average -log softmax(logits)[target] over the rows whose target is not negative.

    Parameters
    ----------
    logits : Tensor, shape (..., V)
    targets : int array, shape (...)
        Negative targets are ignored; if all are negative, the loss is 0.

    Returns
    -------
    Tensor, shape ()
        Loss in nats.

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
        calls.cross_entropy_backward(L, targets=flat, lse=lse, dlogits=dlogits, scale=scale)
        logits.receive(dlogits.reshape(logits.shape))

    return Tensor.from_op(_mean(losses, count), (logits,), backward)


@traced
def head_loss(x: Tensor, weight: Tensor | PackedWeight, targets: np.ndarray, keep_bytes: int = KEEP_BYTES) -> Tensor:
    """Compute cross_entropy(x W^T, targets) without returning the logits.

    Parameters
    ----------
    x : Tensor, shape (..., C)
    weight : Tensor or PackedWeight, shape (V, C)
        With a packed weight the loss has no gradient.
    targets : int array, shape (...)
    keep_bytes : int
        Logits of at most this size are kept, and backward overwrites them with their gradient. Larger logits are
        computed in chunks of rows, in forward and again in backward, so that only one chunk is in memory.

    Returns
    -------
    Tensor, shape ()
    """
    X = rows("head_loss", "x", x)
    if len(weight.shape) != 2 or weight.shape[1] != X.shape[1]:  # compare before calling: small models need it
        expect("head_loss", "weight", weight, (None, X.shape[1]))
    if isinstance(weight, PackedWeight):
        refuse_gradients("head_loss", x)
    R, V = X.shape[0], weight.shape[0]
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
        calls.cross_entropy_backward(logits, targets=flat, lse=lse, dlogits=logits, scale=scale)
        product_backward(x, weight, logits)

    return Tensor.from_op(mean, (x, weight), backward)


def _logits_and_losses(
    X: np.ndarray, weight: Tensor | PackedWeight, targets: np.ndarray, logits: np.ndarray, losses, lse
) -> None:
    """Compute logits (R, V), losses (R,) and log-sum-exp lse (R,) into the given arrays."""
    if isinstance(weight, PackedWeight):
        packed_product(X, weight, out=logits)
    else:
        product(X, weight.data, trans_b=True, out=logits)
    active.cross_entropy(logits, targets, losses, lse, for_work(WORK["cross_entropy"] * logits.size))


def _chunked_loss(x: Tensor, weight: Tensor | PackedWeight, targets: np.ndarray, count: int, chunk: int) -> Tensor:
    """Compute `head_loss` on `chunk` rows at a time; backward computes their logits again."""
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
            calls.cross_entropy_backward(dlogits, targets=targets[part], lse=lse[part], dlogits=dlogits, scale=scale)
            product_backward(piece, weight, dlogits)
            if piece.grad is not None:
                dx[part] = piece.grad
        x.receive(dx.reshape(x.shape))

    return Tensor.from_op(_mean(losses, count), (x, weight), backward)
