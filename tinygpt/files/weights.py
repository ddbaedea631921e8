"""Tensors in safetensors files, checked before they are read.

The safetensors library reads the format, and refuses a file whose header is not well formed or does not cover the data
from end to end. What it cannot know is checked here: which tensors there must be, in which shapes and types, and that
every value is finite. One NaN makes every logit NaN, and the file is the last place where its origin can be named.

A tensor is read when it is asked for, as a copy of its own, and converted when it is written. Rejected:
`safetensors.numpy.load_file`, which reads all of them before the first is checked, and `save_file`, which makes a copy
of all of them before the first is written; each holds every weight twice.
"""

from __future__ import annotations

import hashlib
import json
import os
import sys
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import BinaryIO

import ml_dtypes  # importing it also teaches NumPy the name bfloat16, which the library asks for
import numpy as np
from safetensors import SafetensorError, safe_open

from tinygpt.io.atomic import naming_file
from tinygpt.io.strict import Object, StrPath, naming, one_line, read_object, require_file, shown

# Types that weights may have. All but F64 become float32 without rounding.
WEIGHTS = ("F32", "F16", "BF16", "F64")
# Words of the command line -> name in a file, type of an array.
DTYPES: dict[str, tuple[str, np.dtype]] = {
    "float32": ("F32", np.dtype(np.float32)),
    "float16": ("F16", np.dtype(np.float16)),
    "bfloat16": ("BF16", np.dtype(ml_dtypes.bfloat16)),
}
CHECKSUM = "sha256"  # key in the metadata; the SHA-256 of header and data, with UNKNOWN in its own place
UNKNOWN = "0" * 64

Shape = tuple[int, ...]
Progress = Callable[[int, int], object]  # values done, values in all


class Tensors(ABC):
    """Named tensors whose types and shapes are known before the first value is read.

    Attributes
    ----------
    path : Path
        Path of the file, for errors.
    entries : dict of str to (str, tuple of int)
        Type and shape of every tensor.
    types : tuple of str
        Types that `read` converts to float32.
    """

    path: Path
    entries: dict[str, tuple[str, Shape]]
    types: tuple[str, ...] = WEIGHTS

    @abstractmethod
    def read(self, name: str) -> np.ndarray:
        """Read the values of one tensor.

        Parameters
        ----------
        name : str
            One of `entries`, of a type in `types`.

        Returns
        -------
        float32 array
            A copy, in the shape of the file.

        Raises
        ------
        ValueError
            A value is NaN or infinite.
        """

    def expect(self, wanted: Iterable[tuple[str, Shape]], ignored: Iterable[str] = (), asker: str = "") -> None:
        """Check the header against the tensors that must be there.

        Parameters
        ----------
        wanted : iterable of (name, shape)
            Names and shapes of the tensors. It may be much longer than the file, because reading it stops at the third
            name that is missing.
        ignored : iterable of str
            Names that may be there too. They are read only after all of `wanted` have been found.
        asker : str
            The file or field that asks for the tensors, for the message.

        Raises
        ------
        ValueError
            A tensor is missing, is not wanted, or has another shape or a type that is not supported for weights.
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
            if dtype not in self.types:
                raise self._error(f"tensor {shown(name)} has dtype {dtype}, it must be {' or '.join(self.types)}")
        if missing:
            raise self._error(f"has no tensor {', '.join(map(shown, missing))}, which {asker} asks for")
        unknown = self.entries.keys() - found
        if unknown:
            unknown -= set(ignored)
        if unknown:
            first = ", ".join(map(shown, sorted(unknown)[:3]))
            more = f" and {len(unknown) - 3} more" if len(unknown) > 3 else ""
            raise self._error(f"holds tensor {first}{more}, which {asker} has no place for")

    def _check_finite(self, name: str, values: np.ndarray) -> None:
        if not np.isfinite(values).all():
            raise self._error(f"tensor {shown(name)} holds values that are NaN or infinite")

    def _error(self, message: str) -> ValueError:
        return ValueError(f"{self.path}: {message}")


class TensorFile(Tensors):
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
        """Read the values of one tensor; see `Tensors.read`."""
        with np.errstate(over="ignore"):  # a float64 too large for float32 becomes infinite, which is refused below
            values = self._file.get_tensor(name).astype(np.float32, copy=False)
        self._check_finite(name, values)
        return values


class ShardedFiles(Tensors):
    """Several safetensors files, with an index of the tensors in each.

    Parameters
    ----------
    path : path
        The ``model.safetensors.index.json``; the files lie beside it.

    Attributes
    ----------
    path, entries
        See `Tensors`; the tensors of all files together.

    Raises
    ------
    FileNotFoundError
        The index or a file that it lists is missing.
    ValueError
        The index is no index, names a file elsewhere, or disagrees with what the files hold.
    OSError
        A file cannot be opened.
    """

    def __init__(self, path: StrPath):
        self.path = Path(path)
        content = read_object(self.path)
        with naming(self.path):
            places = _weight_map(content)
        files = {file: TensorFile(self.path.parent / file) for file in sorted(set(places.values()))}
        self._places: dict[str, TensorFile] = {}
        for file, shard in files.items():
            for name in shard.entries:
                if places.get(name) != file:
                    where = shown(places[name]) if name in places else "no file"
                    raise self._error(f"tensor {shown(name)} lies in {shown(file)}, 'weight_map' says in {where}")
                self._places[name] = shard
        for name, file in places.items():
            if name not in self._places:
                raise self._error(f"tensor {shown(name)} is not in {shown(file)}, where 'weight_map' says that it lies")
        self.entries = {name: self._places[name].entries[name] for name in places}

    def read(self, name: str) -> np.ndarray:
        """Read the values of one tensor; see `Tensors.read`."""
        return self._places[name].read(name)


def _weight_map(content: Object) -> dict[str, str]:
    """Read the file of every tensor; each file must be in the folder of the index."""
    found = content.get("weight_map")
    if not isinstance(found, dict) or not found:
        raise ValueError(f"'weight_map' must be an object of tensors and files, got {shown(found)}")
    places = {}
    for name, file in found.items():
        if not isinstance(file, str) or not file.endswith(".safetensors") or set(file) & set("/\\\0"):
            raise ValueError(f"'weight_map' must give a .safetensors file beside it, got {shown(file)}")
        places[name] = file
    return places


def write(
    path: StrPath,
    tensors: Iterable[tuple[str, np.ndarray]],
    metadata: Mapping[str, str],
    dtype: str = "float32",
    progress: Progress | None = None,
    checksum: bool = False,
) -> None:
    """Write a safetensors file and sync it; not atomic, so the path must be a temporary one.

    Parameters
    ----------
    path : path
        Must not exist.
    tensors : iterable of (name, float32 array)
        Any strides; what must be copied or converted is, one tensor after the other.
        They lie in the file by name, as the library has them.
    metadata : mapping of str to str
    dtype : str
        One of `DTYPES`; float16 and bfloat16 round to nearest, ties to even.
    progress : callable, optional
        Is called with the number of values written and that of all, after every tensor.
    checksum : bool
        Add a checksum of the file to its metadata, for `check_sum`.

    Raises
    ------
    ValueError
        A value is NaN or infinite, or would be in `dtype`: such a file could not be read back. Nothing is written.
    OSError
        The file cannot be written.
    """
    word, kind = DTYPES[dtype]
    held = {name: np.asarray(array, np.float32) for name, array in sorted(tensors, key=lambda pair: pair[0])}
    metadata = {**metadata, **({CHECKSUM: UNKNOWN} if checksum else {})}
    header: dict[str, object] = {"__metadata__": metadata} if metadata else {}
    end = 0
    for name, array in held.items():
        check_range(name, array, dtype)
        start, end = end, end + array.size * kind.itemsize
        header[name] = {"dtype": word, "shape": list(array.shape), "data_offsets": [start, end]}
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)  # so that the data begins where any type may
    file, values = Path(path), end // kind.itemsize
    with naming_file(file), open(file, "xb") as stream:
        stream.write(len(text).to_bytes(8, "little") + text)
        parts = _converted(held.values(), kind, values, progress)
        if checksum:
            _write_summed(stream, text, parts)
        else:
            stream.writelines(parts)
        stream.flush()
        os.fsync(stream.fileno())


def _write_summed(stream: BinaryIO, text: bytes, parts: Iterable[memoryview]) -> None:
    """Write the parts of a file after its header, then their checksum into the header."""
    digest = hashlib.sha256(text)
    for part in parts:
        stream.write(part)
        digest.update(part)
    stream.seek(8 + text.index(UNKNOWN.encode()))
    stream.write(digest.hexdigest().encode())


def _converted(
    arrays: Iterable[np.ndarray], kind: np.dtype, values: int, progress: Progress | None
) -> Iterator[memoryview]:
    """Convert arrays to the bytes of a file, one after the other; reports progress after each is written."""
    done = 0
    for array in arrays:
        yield _little(array, kind).reshape(-1).view(np.uint8).data
        done += array.size
        if progress is not None:
            progress(done, values)


def check_sum(path: Path) -> None:
    """Raise ValueError if a safetensors file does not match the checksum in its own metadata.

    A file that another program has written has no such checksum, and passes; so does one that is missing.

    Parameters
    ----------
    path : Path
    """
    if not path.is_file():
        return
    stated = TensorFile(path).metadata.get(CHECKSUM)
    if stated is None:
        return
    with open(path, "rb") as file:
        text = file.read(int.from_bytes(file.read(8), "little"))
        digest = hashlib.sha256(text.replace(stated.encode(), UNKNOWN.encode(), 1))
        while part := file.read(2**20):
            digest.update(part)
    if digest.hexdigest() != stated:
        raise ValueError(f"{path}: is damaged: its content does not match its checksum")


def check_range(name: str, array: np.ndarray, dtype: str, op: str = "save") -> None:
    """Raise ValueError for a tensor with values that are not finite, in float32 or as `dtype`."""
    # min and max propagate NaN and, unlike np.isfinite, allocate nothing.
    low, high = (float(array.min()), float(array.max())) if array.size else (0.0, 0.0)
    if not (np.isfinite(low) and np.isfinite(high)):
        raise ValueError(f"[{op}] {name!r} must be finite, got NaN or infinity")
    with np.errstate(over="ignore"):
        extremes = np.array([low, high], np.float32).astype(DTYPES[dtype][1])
    if not np.isfinite(extremes.astype(np.float32)).all():
        raise ValueError(f"[{op}] {name!r} must fit {dtype}, got values up to {max(-low, high):.3g}")


def _little(array: np.ndarray, kind: np.dtype) -> np.ndarray:
    """Convert values to the layout of a file: contiguous, the lowest byte first."""
    made = np.asarray(array, kind, order="C")
    return made if sys.byteorder == "little" else made.byteswap()
