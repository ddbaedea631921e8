"""Tensors in a safetensors file, read without trusting it and written one at a time.

    8 bytes     length N of the header, little-endian
    N bytes     JSON: {"name": {"dtype": "F32", "shape": [2, 3], "data_offsets": [0, 24]}, ..., "__metadata__": {...}}
    the rest    the values, little-endian, rows first; offsets count from here

(https://github.com/huggingface/safetensors, section Format.) The tensors must fill the rest from end to end: a gap
could hide something, and an overlap means that the file was made by hand.

Design
- The format is small enough to be read here, and NumPy has no bfloat16, which the library would need for it. bfloat16
  is the upper half of a float32, so two shifts make it one.
- A file is mapped, not read: values go from the page cache straight to where they are wanted. Rejected: reading it
  whole, which holds every weight twice.
- Every tensor must be finite. One NaN makes every logit NaN, and the file is the last place where its origin can be
  named.
"""

from __future__ import annotations

import json
import math
import mmap
import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from tinygpt.files.strict import is_count, naming, parse_object, require_file, shown

# What the safetensors library allows too.
MAX_HEADER = 100_000_000
# NumPy's own limit is 32 or 64; weights have 1 to 4. A short shape also keeps its product cheap to check.
MAX_AXES = 8
METADATA = "__metadata__"
# Bytes per value, of every type that is at least a byte: also of tensors that are passed over, to check their place.
SIZES = {
    **dict.fromkeys(("BOOL", "U8", "I8", "F8_E5M2", "F8_E4M3", "F8_E8M0", "F8_E4M3FNUZ", "F8_E5M2FNUZ"), 1),
    **dict.fromkeys(("U16", "I16", "F16", "BF16"), 2),
    **dict.fromkeys(("U32", "I32", "F32"), 4),
    **dict.fromkeys(("U64", "I64", "F64", "C64"), 8),
}
# Types that weights may have, and what NumPy reads them as.
WEIGHTS = {"F32": "<f4", "F16": "<f2", "BF16": "<u2"}

Shape = tuple[int, ...]


@dataclass(frozen=True)
class Entry:
    """One tensor as the header describes it; its values are bytes start ... stop - 1 of the data."""

    dtype: str
    shape: Shape
    start: int
    stop: int


class TensorFile:
    """A safetensors file with a checked header; values are read when they are asked for.

    Parameters
    ----------
    path : path

    Attributes
    ----------
    path : Path
    entries : dict of str to Entry
    metadata : dict of str to str

    Raises
    ------
    FileNotFoundError
        There is no such file.
    ValueError
        The header is not what the format says, or does not fit the length of the file.
    """

    def __init__(self, path: str | os.PathLike[str]):
        self.path = Path(path)
        require_file(self.path)
        with naming(self.path), open(self.path, "rb") as file:
            size = os.fstat(file.fileno()).st_size
            header, data_start = _read_header(file, size)
            self.metadata = _check_metadata(header.pop(METADATA, {}))
            self.entries = {name: _check_entry(name, found) for name, found in header.items()}
            _check_places(self.entries, size - data_start)
            self._map = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        self._data_start = data_start

    def read(self, name: str) -> np.ndarray:
        """The values of one tensor.

        Parameters
        ----------
        name : str
            One of `entries`, of a type in `WEIGHTS`.

        Returns
        -------
        float32 array
            Of the shape in the file. Read-only where the file holds float32: then it is a view of the file.

        Raises
        ------
        ValueError
            A value is NaN or infinite.
        """
        entry = self.entries[name]
        count, start = math.prod(entry.shape), self._data_start + entry.start
        values = np.frombuffer(self._map, WEIGHTS[entry.dtype], count, start).reshape(entry.shape)
        if entry.dtype == "BF16":
            values = (values.astype(np.uint32) << np.uint32(16)).view(np.float32)
        values = values.astype(np.float32, copy=False)
        if not np.isfinite(values).all():
            raise ValueError(f"{self.path}: tensor {shown(name)} holds values that are NaN or infinite")
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
            entry = self.entries.get(name)
            if entry is None:
                missing.append(name)
                if len(missing) == 3:
                    break
                continue
            found.add(name)
            if entry.shape != shape:
                raise self._error(f"tensor {shown(name)} has shape {entry.shape}, {asker} asks for {shape}")
            if entry.dtype not in WEIGHTS:
                raise self._error(f"tensor {shown(name)} has dtype {entry.dtype}, it must be {' or '.join(WEIGHTS)}")
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


def _read_header(file: Any, size: int) -> tuple[dict[str, Any], int]:
    """The header, and where the data begins."""
    if size < 8:
        raise ValueError(f"is {size} bytes long, too short for a safetensors file")
    length = int.from_bytes(file.read(8), "little")
    if length > MAX_HEADER:
        raise ValueError(f"must have a header of at most {MAX_HEADER} bytes, got {length}")
    if 8 + length > size:
        raise ValueError(f"is truncated: its header ends at byte {8 + length}, the file at {size}")
    try:
        return parse_object(file.read(length)), 8 + length
    except ValueError as error:
        raise ValueError(f"header {error}") from None


def _check_metadata(found: Any) -> dict[str, str]:
    if not isinstance(found, dict) or not all(isinstance(value, str) for value in found.values()):
        raise ValueError(f"'{METADATA}' must be an object of strings")
    return found


def _check_entry(name: str, found: Any) -> Entry:
    """One record of the header; the length of its values must be that of its shape."""
    if not isinstance(found, dict) or found.keys() != {"dtype", "shape", "data_offsets"}:
        raise ValueError(f"tensor {shown(name)} must have exactly the fields dtype, shape and data_offsets")
    dtype, shape, offsets = found["dtype"], found["shape"], found["data_offsets"]
    if not isinstance(dtype, str) or dtype not in SIZES:
        raise ValueError(f"tensor {shown(name)} has dtype {shown(dtype)}, which is not known here")
    if not isinstance(shape, list) or len(shape) > MAX_AXES or not all(is_count(n) and n < 2**63 for n in shape):
        raise ValueError(f"tensor {shown(name)} must have a shape of at most {MAX_AXES} counts, got {shown(shape)}")
    if not isinstance(offsets, list) or len(offsets) != 2 or not all(is_count(n) and n < 2**63 for n in offsets):
        raise ValueError(f"tensor {shown(name)} must have two data_offsets from 0, got {shown(offsets)}")
    size = math.prod(shape) * SIZES[dtype]
    if offsets[1] - offsets[0] != size:
        raise ValueError(
            f"tensor {shown(name)} of shape {tuple(shape)} and dtype {dtype} has {size} bytes, "
            f"its data_offsets {offsets[0]} to {offsets[1]} say {offsets[1] - offsets[0]}"
        )
    return Entry(dtype, tuple(shape), *offsets)


def _check_places(entries: Mapping[str, Entry], size: int) -> None:
    """Every byte of the data must belong to exactly one tensor."""
    end = 0
    for name, entry in sorted(entries.items(), key=lambda item: (item[1].start, item[1].stop)):
        if entry.stop > size:
            raise ValueError(f"is truncated: tensor {shown(name)} ends at byte {entry.stop} of {size} bytes of data")
        if entry.start != end:
            what = "overlaps the one before it" if entry.start < end else f"leaves a gap of {entry.start - end} bytes"
            raise ValueError(f"tensor {shown(name)} {what}")
        end = entry.stop
    if end != size:
        raise ValueError(f"has {size - end} trailing bytes that belong to no tensor")


def write(path: str | os.PathLike[str], tensors: Iterable[tuple[str, np.ndarray]], metadata: Mapping[str, str]) -> None:
    """Write a safetensors file and sync it; not atomic, the path is for a temporary.

    Parameters
    ----------
    path : path
        Must not exist.
    tensors : iterable of (name, float32 array)
        Any strides; one at a time is made contiguous.
    metadata : mapping of str to str

    Raises
    ------
    ValueError
        A value is NaN or infinite: such a file could not be read back.
    OSError
        The file cannot be written.
    """
    held = list(tensors)
    header: dict[str, Any] = {METADATA: dict(metadata)}
    header.update(_entries(held))
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)  # the data begins at a multiple of 8, as the library writes it
    with open(path, "xb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for name, array in held:
            values = np.ascontiguousarray(array, "<f4")
            if not np.isfinite(values).all():
                raise ValueError(f"[save] {name!r} must be finite, got NaN or infinity")
            file.write(values.data)
        file.flush()
        os.fsync(file.fileno())


def _entries(tensors: Iterable[tuple[str, np.ndarray]]) -> Iterator[tuple[str, dict[str, Any]]]:
    end = 0
    for name, array in tensors:
        start, end = end, end + 4 * array.size
        yield name, {"dtype": "F32", "shape": list(array.shape), "data_offsets": [start, end]}
