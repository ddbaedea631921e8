"""Faults of a disk, injected below the package: calls that fail, and power cuts that drop what was not synced.

`Failing` makes one write, sync, rename, link, removal or new directory fail, as a full or broken disk does. `PowerCuts`
notes what every sync has made permanent, so that a test can build the directory that a power cut would leave.
"""

import builtins
import contextlib
import errno
import io
import os
import random
import stat
from pathlib import Path

from tiny_run import Listening, state, without_clock

from tinygpt.runs import checkpoint, layout
from tinygpt.runs.metrics import read_metrics
from tinygpt.train.loop import TrainingFailed, train
from tinygpt.train.settings import TrainSettings

CALLS = ("fsync", "rename", "replace", "link", "mkdir", "ftruncate", "pwrite")


class Failing:
    """Context in which the n-th call that changes the disk fails.

    Parameters
    ----------
    root : Path
        Calls for files elsewhere are not counted.
    at : int or None
        Number of the call, from 0; None only counts.
    code : int
        errno of the failure: ENOSPC or EIO.
    stays : bool
        Whether all later calls fail too, as on a disk that stays full; only in the context.

    Attributes
    ----------
    calls : list of str
        Names of the calls so far.
    """

    def __init__(self, root, at=None, code=errno.ENOSPC, stays=False):
        self.root, self.at, self.code, self.stays = str(root), at, code, stays
        self.calls = []
        self._stack = contextlib.ExitStack()

    def count(self, name, *files):
        """Count a call; raise OSError if it is to fail."""
        self.calls.append(name)
        number = len(self.calls) - 1
        if self.at is not None and (number == self.at or (self.stays and number > self.at)):
            raise OSError(self.code, os.strerror(self.code), *files)

    def _concerns(self, file):
        path = os.readlink(f"/proc/self/fd/{file}") if isinstance(file, int) else os.path.abspath(os.fspath(file))
        return path == self.root or path.startswith(self.root + os.sep)

    def _counted(self, name):
        function = getattr(os, name)

        def call(file, *args, **kwargs):
            if self._concerns(file):
                self.count(name, *([] if isinstance(file, int) else [os.fspath(file)]))
            return None if name == "fsync" else function(file, *args, **kwargs)  # a real sync would only take time

        return call

    def _open(self, file, mode="r", buffering=-1, encoding=None, *args, **kwargs):
        other = isinstance(file, int) or os.path.isdir(file)  # the latter: a trial of `tempfile`
        if other or not set(mode) & set("wxa+") or not self._concerns(file):
            return self._real(file, mode, buffering, encoding, *args, **kwargs)
        raw = _Raw(self, file, mode.replace("b", "").replace("t", ""))
        buffered = io.BufferedRandom(raw) if "+" in mode else io.BufferedWriter(raw)
        return buffered if "b" in mode else io.TextIOWrapper(buffered, encoding)

    def __enter__(self):
        self._real = io.open
        for owner, name, new in (
            *((os, name, self._counted(name)) for name in CALLS),
            (io, "open", self._open),
            (builtins, "open", self._open),
        ):
            self._stack.callback(setattr, owner, name, getattr(owner, name))
            setattr(owner, name, new)
        return self

    def __exit__(self, *error):
        self._stack.close()


class _Raw(io.FileIO):
    """A file whose writes are counted; one that fails has written half of its bytes."""

    def __init__(self, faults, file, mode):
        super().__init__(file, mode)
        self.faults = faults

    def write(self, data):
        try:
            self.faults.count("write")
        except OSError:
            super().write(bytes(data)[: len(data) // 2])
            raise
        return super().write(data)


class PowerCuts(Failing):
    """Context that calls a function at every moment at which a power cut would leave another directory.

    Parameters
    ----------
    root : Path
        Existing directory; its content at the beginning is permanent.
    moment : function
        Called with this object before every call that changes the disk, and after every sync.
    """

    def __init__(self, root, moment):
        super().__init__(root)
        self.moment = moment
        self.content, self.names, self.held = {}, {}, {}
        for folder, _, files in os.walk(root):
            for path in [folder, *(os.path.join(folder, name) for name in files)]:
                handle = os.open(path, os.O_RDONLY)
                self._keep(handle)
                os.close(handle)

    def _keep(self, handle):
        """Note what a sync of an open file or directory makes permanent."""
        status = os.fstat(handle)
        if status.st_ino not in self.held:
            self.held[status.st_ino] = os.dup(handle)  # an open file keeps its number
        if stat.S_ISDIR(status.st_mode):
            self.names[status.st_ino] = {entry.name: entry.inode() for entry in os.scandir(handle)}
        else:
            with open(f"/proc/self/fd/{handle}", "rb") as file:
                self.content[status.st_ino] = file.read()

    def _counted(self, name):
        call = super()._counted(name)

        def seen(file, *args, **kwargs):
            if self._concerns(file):
                self.moment(self)
            done = call(file, *args, **kwargs)
            if name == "fsync" and self._concerns(file):
                self._keep(file)
                self.moment(self)
            return done

        return seen

    def cut(self, target, chance=None):
        """Build the directory that a power cut leaves.

        Parameters
        ----------
        target : Path
            New directory.
        chance : random.Random, optional
            Of every name that was not synced, decides whether it is permanent all the same, as file systems are free
            to do; so is the length of a file, whose bytes are then zero. None: nothing is but what was synced.
        """
        self._build(Path(self.root), os.stat(self.root).st_ino, Path(target), chance)

    def _build(self, now, inode, target, chance):
        target.mkdir()
        names = dict(self.names.get(inode, {}))
        found = {entry.name: entry for entry in os.scandir(now)} if now is not None and now.is_dir() else {}
        for name in sorted(names.keys() | found.keys()) if chance else ():
            new = found[name].inode() if name in found else None
            if new != names.get(name) and chance.random() < 0.5:
                names.pop(name, None)
                if new is not None:
                    names[name] = new
        here = {entry.inode(): entry for entry in found.values()}
        for number in {*self.names.get(inode, {}).values()} - {*names.values()}:
            if number in here:  # renamed: a file system may keep the old name or the new one, but never neither
                names[here[number].name] = number
        for name, number in names.items():
            entry = here.get(number)
            if number in self.names or (entry is not None and entry.is_dir()):
                self._build(None if entry is None else Path(entry.path), number, target / name, chance)
                continue
            data = self.content.get(number, b"")
            if chance and entry is not None and chance.random() < 0.5:
                data = data.ljust(entry.stat().st_size, b"\0")
            (target / name).write_bytes(data)

    def __exit__(self, *error):
        super().__exit__(*error)
        for handle in self.held.values():
            os.close(handle)


def seeded(number):
    """Return a generator for `PowerCuts.cut`."""
    return random.Random(number)


def reference(settings):
    """Train without a fault; returns what the run must leave, and the number of calls that change the disk."""
    root = Path(settings.output.out).parents[1]
    root.mkdir(parents=True, exist_ok=True)
    with Failing(root) as calls:
        train(settings)
    return finished(Path(settings.output.out)), len(calls.calls)


def finished(out):
    """Read everything of a finished run that must be the same, apart from times."""
    last = layout.latest_checkpoint(out)
    folders = [path for path in (out, last, out / "adapter", last / "adapter") if path.is_dir()]
    states = {str(path.relative_to(out)): state(path) for path in folders}
    return states, without_clock(read_metrics(out / layout.METRICS))


def further(data, base, out):
    """Return the settings of a short run that trains adapters of a model."""
    pace = {"steps": 4, "eval_every": 2, "checkpoint_every": 2, "samples": 0, "threads": 1, "keep": 1, "seq": 16}
    return TrainSettings(data=[str(data)], out=str(out), from_=str(base), lora_rank=2, dropout=0.1, lr=3e-2, **pace)


def resumed(settings, out, least):
    """Resume a run, or start it if there is none; the steps that it begins with must be at least `least`."""
    begun = layout.is_run(out)
    report = Listening()
    train(settings.replace(out=str(out), resume=begun), report)
    steps = [int(note.split()[3]) for note in report.notes if note.startswith("resuming at step")]
    assert max(steps, default=0) >= least, (steps, least, report.notes)
    left = [path for path in out.rglob("*") if path.name.startswith(".") or path.name == layout.LOCK]
    assert not left, left
    return finished(out)


def after_fault(settings, whole, at, code, stays=False):
    """Train with a call that fails, then resume: nothing may be lost, and the error must name a file.

    Parameters
    ----------
    settings : TrainSettings
    whole : tuple
        What `reference` returned first.
    at, code, stays
        As of `Failing`.
    """
    out = Path(settings.output.out)
    out.parent.parent.mkdir(parents=True, exist_ok=True)
    saved = [0]
    with Failing(out.parents[1], at, code, stays) as calls, noting(saved):
        try:
            train(settings)
        except (TrainingFailed, OSError) as error:
            message = str(error)
            assert os.strerror(code) in message, (at, message)
            assert str(out.parent.parent) in message, (at, message)
        else:
            raise AssertionError(f"call {at}, {calls.calls[at]}, failed unnoticed")
    assert resumed(settings, out, saved[-1]) == whole, (at, calls.calls[at])


@contextlib.contextmanager
def noting(saved):
    """Context in which every checkpoint that was written appends its step to a list."""
    save = checkpoint.save_checkpoint

    def noted(directory, *args):
        save(directory, *args)
        saved.append(int(directory.name.removeprefix("step-")))

    checkpoint.save_checkpoint = noted
    try:
        yield
    finally:
        checkpoint.save_checkpoint = save


def cuts(settings, folder, every, chance=None):
    """Train, and build the directory that a power cut would leave at every n-th moment.

    Parameters
    ----------
    settings : TrainSettings
        `out` two levels below a new directory.
    folder : Path
        Directory to build in; created.
    every : int
    chance : random.Random, optional
        As of `PowerCuts.cut`.

    Returns
    -------
    list of (Path, int)
        Directories, and the step of the newest checkpoint whose save had returned.
    """
    root = Path(settings.output.out).parents[1]
    root.mkdir(parents=True, exist_ok=True)
    folder.mkdir()
    found, saved, count = [], [0], [0]

    def moment(power):
        count[0] += 1
        if count[0] % every == 0:
            found.append((folder / str(count[0]), saved[-1]))
            power.cut(found[-1][0], chance)

    with PowerCuts(root, moment), noting(saved):
        train(settings)
    return found


def after_power_cut(settings, folder, whole, least):
    """Resume in the directory that a power cut has left: nothing that was saved may be lost."""
    out = folder / Path(settings.output.out).relative_to(Path(settings.output.out).parents[1])
    assert resumed(settings, out, least) == whole, folder
