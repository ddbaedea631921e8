"""Sum the gradients of single sequences in a fixed order: the same bits for any number of ranks.

A step has N sequences, numbered from 0; their gradients are the leaves of a binary tree. A node [s, s + 2^k), with s a
multiple of 2^k, is the sum of its two halves, left plus right. Where N is no power of two, the largest nodes that cover
0 .. N-1 are added from left to right. The order of all additions therefore depends on N alone.

A rank has consecutive leaves. It adds what lies in its own range, like a binary counter: two nodes of the same size
become one as soon as both are there. What remains are at most 2 log2(N) nodes. Each rank then receives from all others
its share of the elements of every remaining node, finishes the tree for these elements, and sends them to everyone.

Memory: one array of the size of the gradient for each node that waits, at most log2(N) + 1 while a rank works.
"""

from __future__ import annotations

import numpy as np

from tinygpt.distributed.communicator import Communicator
from tinygpt.distributed.reduction import BUCKET_FLOATS, parts

Node = tuple[int, int]  # first leaf, number of leaves


def add_node(nodes: list[tuple[Node, np.ndarray]], node: Node, value: np.ndarray, own: bool = False) -> None:
    """Append a node, and merge neighbours into their parent as long as both halves are there.

    Parameters
    ----------
    nodes : list of (node, array)
        Nodes without a parent so far, from left to right.
    node : tuple
        The next node to the right.
    value : array
        Sum of its leaves.
    own : bool
        The array may be kept and written to; otherwise it is copied where needed.
    """
    (start, size), total = node, value
    while nodes and nodes[-1][0] == (start - size, size) and (start - size) % (2 * size) == 0:
        (start, _), left = nodes.pop()
        left += total
        total, own, size = left, True, 2 * size
    nodes.append(((start, size), total if own else total.copy()))


def remaining(first: int, stop: int) -> list[Node]:
    """Return the nodes that remain when the leaves `first` to `stop` - 1 were added one by one."""
    found: list[Node] = []
    while first < stop:
        size = first & -first or 1 << (stop - first).bit_length()
        while first + size > stop:
            size //= 2
        found.append((first, size))
        first += size
    return found


class FixedTree:
    """Sum of the gradients of all sequences of a step over all ranks.

    Parameters
    ----------
    comm : Communicator
    grad : float32 array, shape (n,)
        Receives the gradient of one sequence after the other, and the sum at the end.
    leaves : int
        Number of sequences in a step; a multiple of the world size.
    """

    def __init__(self, comm: Communicator, grad: np.ndarray, leaves: int):
        self.comm, self.grad, self.leaves = comm, grad, leaves
        share = leaves // comm.size
        self.first, self.stop = comm.rank * share, (comm.rank + 1) * share
        self._of_rank = [remaining(rank * share, (rank + 1) * share) for rank in range(comm.size)]
        self._nodes: list[tuple[Node, np.ndarray]] = []
        self._next = self.first

    def add(self) -> None:
        """Add the gradient of the next sequence of this rank."""
        add_node(self._nodes, (self._next, 1), self.grad)
        self._next += 1

    def finish(self) -> None:
        """Finish the tree over all ranks and write the sum to the gradient, on every rank."""
        nodes, self._nodes, self._next = self._nodes, [], self.first
        if self.comm.size == 1:
            self.grad[...] = _root(nodes)
            return
        for start in range(0, len(self.grad), BUCKET_FLOATS):
            piece = slice(start, min(start + BUCKET_FLOATS, len(self.grad)))
            self._finish_piece([array[piece] for _, array in nodes], self.grad[piece])

    def _finish_piece(self, mine: list[np.ndarray], out: np.ndarray) -> None:
        """Finish the tree for one piece of the gradient."""
        comm, counts = self.comm, parts(len(out), self.comm.size)
        ends = np.cumsum(counts)
        sent = np.concatenate([array[end - n : end] for end, n in zip(ends, counts, strict=True) for array in mine])
        own = counts[comm.rank]
        received = np.empty(own * sum(map(len, self._of_rank)), np.float32)
        comm.all_to_all(
            sent, [n * len(mine) for n in counts], received, [own * len(nodes) for nodes in self._of_rank]
        ).wait()
        nodes: list[tuple[Node, np.ndarray]] = []
        everyone = [node for of_rank in self._of_rank for node in of_rank]
        for node, value in zip(everyone, received.reshape(len(everyone), own), strict=True):
            add_node(nodes, node, value, own=True)
        end = int(ends[comm.rank])
        out[end - own : end] = _root(nodes)
        comm.all_gather(out, counts).wait()


def _root(nodes: list[tuple[Node, np.ndarray]]) -> np.ndarray:
    """Add the nodes that have no parent from left to right."""
    total = nodes[0][1]
    for _, value in nodes[1:]:
        total += value
    return total
