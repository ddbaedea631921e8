"""Gradients as bfloat16 on the wire, half the bytes, with error feedback.

bfloat16 has 8 significant bits. What rounding takes from one step's gradient is added to the next step's before that
is rounded, so that over many steps nothing is lost but time (Seide et al. 2014, 1-bit SGD; Karimireddy et al. 2019).

A sum over ranks must not be rounded at every addition. So each rank sends part j of its rounded gradient to rank j
(all-to-all), which adds the parts in float32, rounds the sum once, and sends it to everyone (all-gather). Both
roundings have error feedback. Each rank sends 2 (W - 1) / W of the gradient, as a ring all-reduce does, but in half the
bytes.
"""

from __future__ import annotations

from collections.abc import Sequence

import ml_dtypes
import numpy as np

from tinygpt.distributed.communicator import Communicator, Pending
from tinygpt.distributed.reduction import BUCKET_FLOATS, Reduction, parts


def rounded(values: np.ndarray, residual: np.ndarray) -> np.ndarray:
    """Round values plus residual to bfloat16, and keep in `residual` what the rounding took.

    Parameters
    ----------
    values : float32 array, shape (n,)
    residual : float32 array, shape (n,)
        Changed in place.

    Returns
    -------
    bfloat16 array, shape (n,)
        Infinite and NaN values stay so; their residual becomes 0.
    """
    residual += values
    out = residual.astype(ml_dtypes.bfloat16)
    with np.errstate(invalid="ignore"):
        residual -= out.astype(np.float32)
    if not np.isfinite(residual.sum(dtype=np.float64)):
        residual[~np.isfinite(residual)] = 0
    return out


class Compressed(Reduction):
    """Sum of a gradient over all ranks, sent as bfloat16 with error feedback.

    Parameters
    ----------
    comm, grad, extents, most
        As in `Reduction`.
    """

    def __init__(self, comm: Communicator, grad: np.ndarray, extents: Sequence[slice], most: int = BUCKET_FLOATS):
        self._sent: dict[int, tuple[np.ndarray, np.ndarray]] = {}
        super().__init__(comm, grad, extents, most)
        self._counts = [parts(bucket.stop - bucket.start, comm.size) for bucket in self.buckets]
        self._residual = np.zeros(len(grad), np.float32)  # of what this rank sends
        self._residual_of_sum = [np.zeros(counts[comm.rank], np.float32) for counts in self._counts]

    def forget(self) -> None:
        """Set all residuals to 0, as they are after a resume, because a checkpoint does not hold them."""
        self._residual.fill(0)
        for residual in self._residual_of_sum:
            residual.fill(0)

    def _start(self, bucket: int) -> Pending:
        """Send the rounded parts of a bucket to the ranks that add them."""
        place, counts = self.buckets[bucket], self._counts[bucket]
        own = counts[self.comm.rank]
        sent = rounded(self.grad[place], self._residual[place]).view(np.uint16)
        received = np.empty(own * self.comm.size, np.uint16)
        self._sent[bucket] = sent, received
        return self.comm.all_to_all(sent, counts, received, [own] * self.comm.size)

    def _finish_bucket(self, bucket: int) -> None:
        """Add the parts that arrived in order of rank, round the sum and send it to everyone."""
        _, received = self._sent.pop(bucket)
        place, counts, rank = self.buckets[bucket], self._counts[bucket], self.comm.rank
        arrived = received.view(ml_dtypes.bfloat16).reshape(self.comm.size, counts[rank])
        total = arrived[0].astype(np.float32)
        for other in arrived[1:]:
            total += other.astype(np.float32)
        whole = np.empty(place.stop - place.start, np.uint16)
        start = sum(counts[:rank])
        whole[start : start + counts[rank]] = rounded(total, self._residual_of_sum[bucket]).view(np.uint16)
        self.comm.all_gather(whole, counts).wait()
        self.grad[place] = whole.view(ml_dtypes.bfloat16)
