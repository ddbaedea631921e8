"""The work of a training step on one process or, under mpiexec, on the ranks of a job.

`Trainer` asks for the batches of a step, passes each through the model, and updates the weights:

    batches -> reduce -> grad_norm -> update

Alone does this on one process. DataParallel gives each rank an equal part of every batch and sums the gradients over
all ranks, so that every rank applies the same update to the same weights.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path

from tinygpt import __version__
from tinygpt.data.windows import Tokens
from tinygpt.distributed.communicator import Communicator
from tinygpt.distributed.reduction import Reduction
from tinygpt.kernels import threads
from tinygpt.nn import Parameter
from tinygpt.runs.lock import RunLock
from tinygpt.tensor import Tensor
from tinygpt.train.report import Report
from tinygpt.train.settings import TrainSettings
from tinygpt.train.setup import Run

Batch = tuple[Tokens, Tokens, int]


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
        """Yield the batches of a step: inputs, targets, and the number of the first sequence within the step."""
        settings, windows = self.run.settings, self.run.windows
        batch, first = settings.optimisation.batch, step * settings.sequences_per_step
        for i in range(settings.optimisation.grad_accum):
            x, y = windows.batch(first + i * batch, batch)
            yield x, y, i * batch

    def reduce(self, loss: float) -> float:
        """Return the loss of the whole step, given this rank's part of it; gradients are complete afterwards."""
        return loss

    def grad_norm(self) -> float:
        """Compute the Euclidean norm of the gradient of the whole step."""
        return self.run.optimizer.grad_norm()

    def update(self, scale: float) -> None:
        """Update the weights with the gradient times `scale`."""
        self.run.optimizer.step(scale)

    def any(self, flag: bool) -> bool:
        """Whether the flag is set on at least one rank."""
        return self.comm.any(flag)


class DataParallel(Alone):
    """A step in which every rank works on an equal part of each batch.

    Dropout masks depend on the number of a sequence within the step, so they are those of one process.
    """

    def __init__(self, run: Run, comm: Communicator):
        super().__init__(run, comm)
        self.parts *= comm.size
        self._arena = run.optimizer.arena
        extents = [slice(p.start, p.start + p.data.size) for p in run.optimizer.parameters]
        self.reduction = Reduction(comm, self._arena.grad, sorted(extents, key=lambda extent: extent.start))

    def batches(self, step: int) -> Iterator[Batch]:
        """Yield this rank's part of every batch; the last backward pass starts the reduction of the gradients."""
        settings, windows = self.run.settings, self.run.windows
        batch, accum = settings.optimisation.batch, settings.optimisation.grad_accum
        mine, first = batch // self.comm.size, step * settings.sequences_per_step
        self.reduction.begin()
        for i in range(accum):
            sequence = i * batch + self.comm.rank * mine
            x, y = windows.batch(first + sequence, mine)
            self.complete = self._completed if i == accum - 1 else None
            yield x, y, sequence

    def _completed(self, leaf: Tensor) -> None:
        if isinstance(leaf, Parameter) and leaf.arena is self._arena:
            self.reduction.complete(leaf.start)

    def reduce(self, loss: float) -> float:
        """Sum loss and gradients over all ranks."""
        self.reduction.finish()
        return sum(self.comm.gather(loss))


def team(run: Run, comm: Communicator) -> Alone:
    """Choose how the steps of a run are divided among the ranks of a job."""
    return Alone(run, comm) if comm.size == 1 else DataParallel(run, comm)


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
