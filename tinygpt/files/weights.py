"""Tensors in a safetensors file, read without trusting it.

The safetensors library reads and writes the format, and refuses a file whose header is not well formed or does not
cover the data from end to end. What it cannot know is checked here: which tensors there must be, in which shapes and
types, and that every value is finite. One NaN makes every logit NaN, and the file is the last place where its origin
can be named.

A tensor is read when it is asked for, as a copy of its own. Rejected: `safetensors.numpy.load_file`, which reads all of
them before the first is checked and holds every weight twice.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterable, Mapping
from pathlib import Path

import ml_dtypes  # noqa: F401  (importing it teaches NumPy the name bfloat16, which the library asks for)
import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from tinygpt.files.strict import StrPath, one_line, require_file, shown

# Types that weights may have; NumPy makes float32 of each without a rounding.
WEIGHTS = ("F32", "F16", "BF16")

Shape = tuple[int, ...]


class TensorFile:
    """A safetensors file with a checked header; values are read when they are asked for.

    Parameters
    ----------
    path : path

    Attributes
    ----------
    path : Path
    entries : dict of str to (str, tuple of int)
        Type and shape of every tensor, as the header has them.
    metadata : dict of str to str

    Raises
    ------
    FileNotFoundError
        There is no such file.
    ValueError
        Not a regular file, or the library refuses it.
    OSError
        It cannot be opened.
    """

    def __init__(self, path: StrPath):
        self.path = Path(path)
        require_file(self.path)
        with open(self.path, "rb"):
            pass  # The library would call a file that may not be opened missing.
        try:
            self._file = safe_open(self.path, framework="numpy")
        except SafetensorError as error:
            reason = str(error).removeprefix("Error while deserializing header: ")
            raise self._error(f"is damaged or no safetensors file: {one_line(reason)}") from None
        self.metadata: dict[str, str] = self._file.metadata() or {}
        self.entries: dict[str, tuple[str, Shape]] = {}
        for name in self._file.offset_keys():
            header = self._file.get_slice(name)
            self.entries[name] = header.get_dtype(), tuple(header.get_shape())

    def read(self, name: str) -> np.ndarray:
        """The values of one tensor.

        Parameters
        ----------
        name : str
            One of `entries`, of a type in `WEIGHTS`.

        Returns
        -------
        float32 array
            Of the shape in the file, a copy.

        Raises
        ------
        ValueError
            A value is NaN or infinite.
        """
        values = self._file.get_tensor(name).astype(np.float32, copy=False)
        if not np.isfinite(values).all():
            raise self._error(f"tensor {shown(name)} holds values that are NaN or infinite")
        return values

    def expect(self, wanted: Iterable[tuple[str, Shape]], ignored: Iterable[str] = (), asker: str = "") -> None:
        """Hold the header against the tensors that must be there.

        Parameters
        ----------
        wanted : iterable of (name, shape)
            May be much longer than the file: it is left at the third name that is missing.
        ignored : iterable of str
            Names that may be there as well. Is not read before all of `wanted` has been found.
        asker : str
            What asks for the shapes, for the message.

        Raises
        ------
        ValueError
            A tensor is missing, has another shape or a type that is no weight's, or is not wanted.
        """
        missing, found = [], set()
        for name, shape in wanted:
            if name not in self.entries:
                missing.append(name)
                if len(missing) == 3:
                    break
                continue
            found.add(name)
            dtype, held = self.entries[name]
            if held != shape:  # of any number of axes, so the message must be cut
                raise self._error(f"tensor {shown(name)} has shape {one_line(str(held))}, {asker} asks for {shape}")
            if dtype not in WEIGHTS:
                raise self._error(f"tensor {shown(name)} has dtype {dtype}, it must be {' or '.join(WEIGHTS)}")
        if missing:
            raise self._error(f"has no tensor {', '.join(map(shown, missing))}, which {asker} asks for")
        unknown = self.entries.keys() - found
        if unknown:
            unknown -= set(ignored)
        if unknown:
            first = ", ".join(map(shown, sorted(unknown)[:3]))
            more = f" and {len(unknown) - 3} more" if len(unknown) > 3 else ""
            raise self._error(f"holds tensor {first}{more}, which {asker} has no place for")

    def _error(self, message: str) -> ValueError:
        return ValueError(f"{self.path}: {message}")


def write(path: StrPath, tensors: Iterable[tuple[str, np.ndarray]], metadata: Mapping[str, str]) -> None:
    """Write a safetensors file and sync it; not atomic, the path is for a temporary.

    Parameters
    ----------
    path : path
        Must not exist.
    tensors : iterable of (name, float32 array)
        Any strides; those that are not contiguous are copied, and all copies are held until the file is written.
    metadata : mapping of str to str

    Raises
    ------
    ValueError
        A value is NaN or infinite: such a file could not be read back. Nothing is written.
    OSError
        The file cannot be written.
    """
    # The library writes the memory of an array from its first value on, whatever the strides.
    held = {name: np.asarray(array, np.float32, order="C") for name, array in tensors}
    for name, array in held.items():
        if not np.isfinite(array).all():
            raise ValueError(f"[save] {name!r} must be finite, got NaN or infinity")
    file = Path(path)
    file.touch(exist_ok=False)
    mode = stat.S_IMODE(file.stat().st_mode)
    try:
        save_file(held, file, dict(metadata))
    except SafetensorError as error:
        raise OSError(f"{file}: cannot be written: {one_line(str(error))}") from None
    file.chmod(mode)  # the library's own file is for its owner alone, this is what any new file has
    with open(file, "rb+") as stream:
        os.fsync(stream.fileno())
