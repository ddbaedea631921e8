"""The work of a training step on one process or, under mpiexec, on the ranks of a job.

`Trainer` asks for the batches of a step, passes each through the model, and updates the weights:

    batches -> reduce -> grad_norm -> update

Alone does this on one process. DataParallel gives each rank an equal part of every batch and sums the gradients over
all ranks, so that every rank applies the same update to the same weights. The other classes differ from it in one
respect each: Sharded in who keeps the optimizer state, Deterministic in the order of additions, Local in how often the
ranks meet.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path

import numpy as np

from tinygpt import __version__
from tinygpt.data.windows import Tokens
from tinygpt.distributed.communicator import Communicator
from tinygpt.distributed.compression import Compressed
from tinygpt.distributed.outer import OuterSteps
from tinygpt.distributed.reduction import ReduceScatter, Reduction
from tinygpt.distributed.tree import FixedTree
from tinygpt.kernels import isa, registry, threads
from tinygpt.nn import Parameter
from tinygpt.runs.lock import RunLock
from tinygpt.tensor import Tensor
from tinygpt.train.report import Report
from tinygpt.train.settings import TrainSettings
from tinygpt.train.setup import Run

Batch = tuple[Tokens, Tokens, int]
MOMENTUM = "outer"  # name of the outer momentum among the optimizer's state, so that checkpoints hold it


class Alone:
    """A step on one process.

    Parameters
    ----------
    run : Run
    comm : Communicator

    Attributes
    ----------
    parts : int
        Number of batches that the mean gradient of a step is taken over, those of all ranks together.
    complete : callable or None
        Passed to `Tensor.backward`: told of every parameter whose gradient is complete.
    """

    def __init__(self, run: Run, comm: Communicator):
        self.run, self.comm = run, comm
        self.parts = run.settings.optimisation.grad_accum
        self.complete: Callable[[Tensor], None] | None = None

    def batches(self, step: int) -> Iterator[Batch]:
        """Yield this rank's part of every batch: inputs, targets, and the number of the first sequence in the step."""
        settings, windows = self.run.settings, self.run.windows
        batch, first = settings.optimisation.batch, step * settings.sequences_per_step
        mine = batch // self.comm.size
        for i in range(settings.optimisation.grad_accum):
            sequence = i * batch + self.comm.rank * mine
            x, y = windows.batch(first + sequence, mine)
            yield x, y, sequence

    def reduce(self, losses: Sequence[float]) -> float:
        """Return the loss of the whole step, given those of this rank's batches; gradients are complete afterwards."""
        total = 0.0  # not sum(), whose rounding differs between versions of Python
        for loss in losses:
            total += loss / self.parts  # a mean of means: all batches have as many targets
        return total

    def grad_norm(self) -> float:
        """Compute the Euclidean norm of the gradient of the whole step."""
        return self.run.optimizer.grad_norm()

    def update(self, scale: float) -> None:
        """Update the weights with the gradient times `scale`."""
        self.run.optimizer.step(scale)

    def any(self, flag: bool) -> bool:
        """Tell whether the flag is set on at least one rank."""
        return self.comm.any(flag)

    def loaded(self) -> None:
        """Prepare for training after weights and optimizer state were read from a checkpoint."""

    def saving(self) -> None:
        """Complete weights and optimizer state on rank 0, which is about to write a checkpoint."""

    def saved(self) -> None:
        """Release what `saving` completed."""


class DataParallel(Alone):
    """A step in which every rank works on an equal part of each batch.

    Dropout masks depend on the number of a sequence within the step, so they are those of one process.
    """

    kind: type[Reduction] = Reduction

    def __init__(self, run: Run, comm: Communicator):
        super().__init__(run, comm)
        self.parts *= comm.size
        self._arena = run.optimizer.arena
        extents = [slice(p.start, p.start + p.data.size) for p in run.optimizer.parameters]
        self.reduction = self.kind(comm, self._arena.grad, sorted(extents, key=lambda extent: extent.start))

    def batches(self, step: int) -> Iterator[Batch]:
        """Yield this rank's part of every batch; the last backward pass starts the reduction of the gradients."""
        self.reduction.begin()
        last = (self.run.settings.optimisation.grad_accum - 1) * self.run.settings.optimisation.batch
        several = len(self.reduction.buckets) > 1  # a single one is complete when backward ends
        for x, y, sequence in super().batches(step):
            self.complete = self._completed if several and sequence >= last else None
            yield x, y, sequence

    def _completed(self, leaf: Tensor) -> None:
        if isinstance(leaf, Parameter) and leaf.arena is self._arena:
            self.reduction.complete(leaf.start)

    def reduce(self, losses: Sequence[float]) -> float:
        """Sum loss and gradients over all ranks."""
        self.reduction.finish()
        return sum(self.comm.gather(super().reduce(losses)))


class CompressedParallel(DataParallel):
    """Data parallel steps whose gradients are sent as bfloat16.

    The residuals of the rounding are not part of a checkpoint. They are set to 0 when one is written, so that a resumed
    run computes what the run that was never stopped computes.
    """

    kind = Compressed
    reduction: Compressed

    def saved(self) -> None:
        """Forget the residuals."""
        self.reduction.forget()


class Sharded(DataParallel):
    """Data parallel steps in which every rank keeps the optimizer state of its own part of the weights.

    State of other parts is memory that nobody has touched, which the system does not provide.
    """

    kind = ReduceScatter
    reduction: ReduceScatter

    def grad_norm(self) -> float:
        """Combine the norms of the parts."""
        norms = self.comm.gather(self.run.optimizer.grad_norm(self.reduction.owned))
        return math.sqrt(sum(norm * norm for norm in norms))

    def update(self, scale: float) -> None:
        """Update this rank's part of the weights, and receive the other parts."""
        self.run.optimizer.step(scale, self.reduction.owned)
        self.reduction.gather(self._arena.data)

    def loaded(self) -> None:
        """Keep this rank's part of the state, in fresh memory."""
        state = self.run.optimizer.state
        for name, whole in state.items():
            state[name] = np.zeros(len(whole), np.float32)
            for part in self.reduction.owned:
                state[name][part] = whole[part]

    def saving(self) -> None:
        """Collect the state of all ranks on rank 0."""
        for array in self.run.optimizer.state.values():
            self.reduction.gather(array, to_first=True)

    def saved(self) -> None:
        """Release the state of other ranks."""
        if self.comm.first:
            self.loaded()


class Deterministic(Alone):
    """Steps whose gradients are computed one sequence at a time and added in an order fixed by their number.

    The same bits come out for any number of ranks that divides the batch, and for any split of the sequences of a step
    into `batch` and `grad_accum`.
    """

    def __init__(self, run: Run, comm: Communicator):
        super().__init__(run, comm)
        self.parts = run.settings.sequences_per_step
        self.tree = FixedTree(comm, run.optimizer.arena.grad, self.parts)

    def batches(self, step: int) -> Iterator[Batch]:
        """Yield this rank's sequences one by one, and add the gradient of each to the tree."""
        for sequence in range(self.tree.first, self.tree.stop):
            self.run.optimizer.zero_grad()
            x, y = self.run.windows.batch(step * self.parts + sequence, 1)
            yield x, y, sequence
            self.tree.add()

    def reduce(self, losses: Sequence[float]) -> float:
        """Add the losses of all sequences in order, and finish the tree."""
        self.tree.finish()
        return super().reduce([loss for of_rank in self.comm.gather(losses) for loss in of_rank])


class Local(Alone):
    """Steps that every rank takes alone on its part of the batch; after every H of them the weights are averaged.

    Loss and gradient norm are those of this rank. A rank keeps its own optimizer state; for a checkpoint, which must
    serve any number of ranks, the state is averaged too, and every rank continues with the average.
    """

    def __init__(self, run: Run, comm: Communicator):
        super().__init__(run, comm)
        given, optimizer = run.settings.distributed, run.optimizer
        optimizer.state[MOMENTUM] = np.zeros(len(optimizer.arena.data), np.float32)
        weights, momentum = optimizer.arena.data, optimizer.state[MOMENTUM]
        self.outer = OuterSteps(comm, weights, momentum, given.outer_lr, given.outer_momentum)
        self._together = True  # the ranks have the same weights

    def batches(self, step: int) -> Iterator[Batch]:
        """Yield this rank's part of every batch."""
        due = (step + 1) % self.run.settings.distributed.sync_every == 0
        self._together = due or step + 1 == self.run.total_steps
        return super().batches(step)

    def update(self, scale: float) -> None:
        """Update the weights of this rank, and average the weights of all ranks if it is time."""
        super().update(scale)
        if self._together:
            self.outer.step()

    def any(self, flag: bool) -> bool:
        """Tell whether the flag is set on at least one rank; False while the ranks train alone."""
        return self._together and super().any(flag)

    def loaded(self) -> None:
        """Start from the weights of the checkpoint."""
        self.outer.restart()

    def saving(self) -> None:
        """Average the optimizer state of all ranks."""
        for name, array in self.run.optimizer.state.items():
            if name != MOMENTUM:
                self.comm.all_reduce(array).wait()
                array /= np.float32(self.comm.size)


def team(run: Run, comm: Communicator) -> Alone:
    """Choose how the steps of a run are divided among the ranks of a job."""
    given = run.settings.distributed
    if given.deterministic_reduce:
        return Deterministic(run, comm)
    if given.sync_every > 1:
        return Local(run, comm)
    if comm.size == 1:
        return Alone(run, comm)
    if given.compress == "bf16":
        return CompressedParallel(run, comm)
    return Sharded(run, comm) if given.shard_optimizer else DataParallel(run, comm)


def check_job(settings: TrainSettings, comm: Communicator) -> None:
    """Raise ValueError if the batch cannot be divided among the ranks of a job."""
    batch = settings.optimisation.batch
    if batch % comm.size:
        raise ValueError(f"[train] 'batch' {batch} must be a multiple of the {comm.size} processes of mpiexec")


def check_same(run: Run, comm: Communicator) -> None:
    """Raise ValueError if a rank has another version, kernels, text or settings than rank 0."""
    settings = run.settings.table()
    for name in ("data", "out", "from", "metrics", "tensorboard", "threads"):  # may be other paths on another machine
        settings.pop(name, None)
    mine = {
        "version of tinygpt": __version__,
        "training text": run.fingerprint(),
        "tokenizer": run.tokenizer.vocab_size,
        "settings": settings,
    }
    if run.settings.distributed.deterministic_reduce:
        mine |= {"instruction set": isa.get(), "choice of kernels": registry.selection()}
    for rank, other in enumerate(comm.gather(mine)):
        for name, value in other.items():
            if comm.first and value != mine[name]:
                raise ValueError(f"[train] rank {rank} has another {name} than rank 0")


def lock(out: Path, comm: Communicator) -> AbstractContextManager[object]:
    """Lock the run directory on rank 0, which alone writes there."""
    return RunLock(out) if comm.first else nullcontext()


def threads_of_rank(comm: Communicator) -> int:
    """Divide the default number of threads by the ranks that share this machine's processors.

    Ranks that the launcher bound to processors of their own share with nobody.
    """
    mine = comm.host, threads.processors()
    sharing = sum(other == mine for other in comm.gather(mine))
    return max(1, threads.default_num_threads() // sharing)


def compute_threads(settings: TrainSettings, comm: Communicator, report: Report) -> AbstractContextManager[None]:
    """Divide the threads of a machine among its ranks, unless the settings or the environment fix their number."""
    own = comm.size == 1 or settings.machine.threads != "auto" or not threads.is_automatic()
    n = threads.get_num_threads() if own else threads_of_rank(comm)
    if comm.size > 1:
        hosts = len(set(comm.gather(comm.host)))
        where = f"{hosts} machine{'s' * (hosts > 1)}"
        report.fact("job", f"{comm.size} ranks on {where}, {n} thread{'s' * (n > 1)} each, {comm.library}")
    return nullcontext() if own else threads.fixed(n)
