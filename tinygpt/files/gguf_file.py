"""Tensors and metadata in a GGUF file, checked before they are read.

    magic "GGUF", version, number of tensors, number of fields
    fields      name, type, value: numbers, strings, lists of either
    tensors     name, sizes (the fastest first), type, offset
    data        each tensor at a multiple of the alignment

Memory stays in proportion to the file: every length is checked against the bytes that are left in it, tensors must be
inside the file and must not share bytes, and the size of the metadata is limited. Rejected: the reader of the `gguf`
package, which trusts every length, makes a NumPy array for each element of a list, and raises arbitrary errors for a
damaged file. Its arithmetic, which converts blocks to floats (`dequantize`), is used.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any, BinaryIO, NamedTuple

import numpy as np

from tinygpt.files.weights import Shape, Tensors
from tinygpt.io.strict import StrPath, naming, require_file, shown


class Kind(NamedTuple):
    """Storage of a type of tensor.

    Attributes
    ----------
    name : str
    block : int
        Number of values in a block.
    n_bytes : int
        Bytes of a block.
    """

    name: str
    block: int
    n_bytes: int


# Number in the file -> type. Numbers and sizes are those of llama.cpp's ggml.h and ggml-common.h.
KINDS = {
    0: Kind("F32", 1, 4),
    1: Kind("F16", 1, 2),
    2: Kind("Q4_0", 32, 18),
    3: Kind("Q4_1", 32, 20),
    8: Kind("Q8_0", 32, 34),
    12: Kind("Q4_K", 256, 144),
    14: Kind("Q6_K", 256, 210),
    28: Kind("F64", 1, 8),
    30: Kind("BF16", 1, 2),
}
# Types that NumPy can read.
PLAIN = {"F32": "<f4", "F16": "<f2", "BF16": "<u2", "F64": "<f8"}
# Types that are not supported, for a message that names them.
_OTHERS = {
    **{6: "Q5_0", 7: "Q5_1", 9: "Q8_1", 10: "Q2_K", 11: "Q3_K", 13: "Q5_K", 15: "Q8_K", 16: "IQ2_XXS", 17: "IQ2_XS"},
    **{18: "IQ3_XXS", 19: "IQ1_S", 20: "IQ4_NL", 21: "IQ3_S", 22: "IQ2_S", 23: "IQ4_XS", 24: "I8", 25: "I16"},
    **{26: "I32", 27: "I64", 29: "IQ1_M", 34: "TQ1_0", 35: "TQ2_0", 39: "MXFP4"},
}
# Types of a field -> code of `struct`; 8 is a string, 9 a list.
_NUMBERS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
_STRING, _LIST = 8, 9
# A field takes at least its name's length, a type and a byte; a tensor a length, four bytes twice, and an offset.
_LEAST_FIELD, _LEAST_TENSOR = 13, 24
# Bytes; the largest vocabularies take about 20 MB.
MAX_METADATA = 256 * 2**20
MAX_AXES = 4
DEFAULT_ALIGNMENT = 32
# Values that are converted at once, because the arithmetic takes about ten times the memory of its input.
CHUNK = 2**18


class _Place(NamedTuple):
    """Type, offset from the beginning of the file, and number of bytes of a tensor."""

    kind: Kind
    offset: int
    n_bytes: int


class GGUFFile(Tensors):
    """A GGUF file whose fields have been read and whose tensors have been checked to be inside it.

    Parameters
    ----------
    path : path

    Attributes
    ----------
    path, entries
        See `Tensors`; shapes have the slowest axis first, as everywhere in the package.
    fields : dict of str to value
        The metadata: bool, int, float, str, or a list of one of these. A float32 is read as the shortest decimal that
        rounds to it.

    Raises
    ------
    FileNotFoundError
        There is no such file.
    ValueError
        Not a regular file, or not a valid GGUF file; or a tensor has a type that is not supported.
    ImportError
        The file has tensors in blocks, and the `gguf` package is not installed.
    OSError
        The file cannot be opened or read.
    """

    types = tuple(kind.name for kind in KINDS.values())

    def __init__(self, path: StrPath):
        self.path = Path(path)
        require_file(self.path)
        size = self.path.stat().st_size
        with naming(self.path), open(self.path, "rb") as stream:
            parser = _Parser(stream, size)
            n_tensors = parser.preamble()
            self.fields = parser.fields()
            tensors = list(parser.tensors(n_tensors))
            self._places = _placed(tensors, _data_start(self.fields, parser.place), size)
        self.entries = {name: (kind.name, shape) for name, kind, shape, _ in tensors}
        if any(kind.name not in PLAIN for _, kind, _, _ in tensors):
            need_gguf()

    def read(self, name: str) -> np.ndarray:
        """Read the values of one tensor; see `Tensors.read`."""
        place, shape = self._places[name], self.entries[name][1]
        values = np.empty(math.prod(shape), np.float32)
        make = _maker(place.kind)
        with open(self.path, "rb") as stream:
            stream.seek(place.offset)
            for start in range(0, len(values), CHUNK):
                part = values[start : start + CHUNK]
                data = stream.read(len(part) // place.kind.block * place.kind.n_bytes)
                if len(data) * place.kind.block != len(part) * place.kind.n_bytes:
                    raise self._error(f"tensor {shown(name)} ends early: the file has become shorter")
                with np.errstate(over="ignore"):  # a float64 too large for float32 becomes infinite, which is refused
                    part[...] = make(data)
        self._check_finite(name, values)
        return values.reshape(shape)


def need_gguf() -> ModuleType:
    """Import the `gguf` package.

    Raises
    ------
    ImportError
        The package is not installed; the message names the extra.
    """
    try:
        import gguf
    except ImportError:
        raise ImportError("GGUF files in blocks (Q8_0 and the like) need gguf: pip install 'tinygpt[gguf]'") from None
    return gguf


def _maker(kind: Kind) -> Callable[[bytes], np.ndarray]:
    """Return a function that converts whole blocks of a type to float32 values."""
    if kind.name == "BF16":  # the upper half of a float32
        return lambda data: (np.frombuffer(data, "<u2").astype(np.uint32) << 16).view(np.float32)
    if kind.name in PLAIN:
        return lambda data: np.frombuffer(data, PLAIN[kind.name])
    gguf = need_gguf()
    number = gguf.GGMLQuantizationType[kind.name]

    def make(data: bytes) -> np.ndarray:
        # Pass one row, so that the package converts all values at once. A scale of NaN is found by a later check.
        with np.errstate(all="ignore"):
            return gguf.quants.dequantize(np.frombuffer(data, np.uint8).reshape(1, -1), number)[0]

    return make


class _Parser:
    """Parser of everything before the data; it never reads beyond the end of the file."""

    def __init__(self, stream: BinaryIO, size: int):
        self.stream, self.size = stream, size
        self.place = 0

    def preamble(self) -> int:
        """Read magic, version and counts, and return the number of tensors."""
        if (magic := self.take(4, "the magic")) != b"GGUF":
            raise ValueError(f"must begin with 'GGUF', got {shown(magic.decode('latin-1'))}: it is no GGUF file")
        version = self.number("I", "the version")
        if version & 0xFFFF == 0:
            raise ValueError("is for machines with the highest byte first, and cannot be read here")
        if version not in (2, 3):
            raise ValueError(f"must be of version 2 or 3, got {version}")
        n_tensors = self.number("Q", "the number of tensors")
        self.n_fields = self.number("Q", "the number of fields")
        self.check_count(n_tensors, _LEAST_TENSOR, "the number of tensors")
        self.check_count(self.n_fields, _LEAST_FIELD, "the number of fields")
        return n_tensors

    def fields(self) -> dict[str, Any]:
        """Read all fields: name to value."""
        found: dict[str, Any] = {}
        for i in range(self.n_fields):
            name = self.string(f"the name of field {i}")
            if name in found:
                raise ValueError(f"field {shown(name)} is given twice")
            found[name] = self.value(self.number("I", f"the type of field {shown(name)}"), f"field {shown(name)}")
        return found

    def tensors(self, count: int) -> Iterator[tuple[str, Kind, Shape, int]]:
        """Yield name, type, shape and offset of each tensor."""
        seen: set[str] = set()
        for i in range(count):
            name = self.string(f"the name of tensor {i}")
            what = f"tensor {shown(name)}"
            if name in seen:
                raise ValueError(f"{what} is given twice")
            seen.add(name)
            axes = self.number("I", f"the number of axes of {what}")
            if not 1 <= axes <= MAX_AXES:
                raise ValueError(f"{what} must have 1 to {MAX_AXES} axes, got {axes}")
            shape = tuple(self.number("Q", f"the shape of {what}") for _ in range(axes))[::-1]
            number = self.number("I", f"the type of {what}")
            if number not in KINDS:
                names = " or ".join(kind.name for kind in KINDS.values())
                raise ValueError(f"{what} has type {_OTHERS.get(number, number)}, it must be {names}")
            kind = KINDS[number]
            if 0 in shape or shape[-1] % kind.block:
                raise ValueError(f"{what} has shape {shape}, {kind.name} needs rows of a multiple of {kind.block}")
            yield name, kind, shape, self.number("Q", f"the offset of {what}")

    def value(self, kind: int, what: str) -> Any:
        """Read a value of a type of fields."""
        if kind == _STRING:
            return self.string(what)
        if kind == _LIST:
            inner = self.number("I", f"the type in the list {what}")
            count = self.number("Q", f"the length of the list {what}")
            if inner == _STRING:
                self.check_count(count, 8, f"the length of the list {what}")
                return [self.string(what) for _ in range(count)]
            code = self.code(inner, f"the type in the list {what}")
            self.check_count(count, struct.calcsize(code), f"the length of the list {what}")
            return _plain(self.take(count * struct.calcsize(code), what), code, what)
        return _plain(self.take(struct.calcsize(self.code(kind, what)), what), _NUMBERS[kind], what)[0]

    def code(self, kind: int, what: str) -> str:
        """Return the code of `struct` for a type of number."""
        if kind not in _NUMBERS:
            raise ValueError(f"{what} must be a type of number, string or list, got {kind}")
        return "<" + _NUMBERS[kind]

    def string(self, what: str) -> str:
        """Read a string: its length, then UTF-8."""
        length = self.number("Q", f"the length of {what}")
        self.check_count(length, 1, f"the length of {what}")
        try:
            return self.take(length, what).decode("utf-8")
        except UnicodeDecodeError as error:
            raise ValueError(f"{what} must be UTF-8, got byte 0x{error.object[error.start]:02X}") from None

    def number(self, code: str, what: str) -> int:
        """Read an unsigned number."""
        return int.from_bytes(self.take(struct.calcsize("<" + code), what), "little")

    def check_count(self, count: int, n_bytes: int, what: str) -> None:
        """Raise ValueError for a count of things that the rest of the file cannot contain."""
        left = self.size - self.place
        if count * n_bytes > left:
            raise ValueError(f"{what} must be at most {left // n_bytes}, as {left} bytes are left, got {count}")

    def take(self, count: int, what: str) -> bytes:
        """Read the next bytes."""
        data = b"" if self.place + count > self.size else self.stream.read(count)
        if len(data) < count:
            raise ValueError(f"ends early, at byte {self.size}, in {what}")
        self.place += count
        if self.place > MAX_METADATA:
            raise ValueError(f"must have at most {MAX_METADATA} bytes of metadata")
        return data


def _plain(data: bytes, code: str, what: str) -> list[Any]:
    """Convert bytes to Python numbers."""
    array = np.frombuffer(data, f"<{'u1' if code[-1] == '?' else code[-1]}")
    if code[-1] == "?":
        if (array > 1).any():
            raise ValueError(f"{what} must be true or false, got byte {array[array > 1][0]}")
        return array.astype(bool).tolist()
    if code[-1] == "f":  # 1e-5 and not 9.999999747378752e-06, which is what its nearest float32 is
        return [float(str(value)) for value in array]
    return array.tolist()


def _data_start(fields: dict[str, Any], end: int) -> int:
    """Return the offset of the data: the next multiple of the alignment."""
    alignment = fields.get("general.alignment", DEFAULT_ALIGNMENT)
    if not isinstance(alignment, int) or not 1 <= alignment <= 2**20 or alignment & (alignment - 1):
        raise ValueError(f"'general.alignment' must be a power of two up to 2^20, got {shown(alignment)}")
    return -(-end // alignment) * alignment


def _placed(tensors: list[tuple[str, Kind, Shape, int]], start: int, size: int) -> dict[str, _Place]:
    """Check that every tensor is inside the file and shares no bytes with another; return their places."""
    places = {}
    for name, kind, shape, offset in tensors:
        n_bytes = math.prod(shape) // kind.block * kind.n_bytes
        if start + offset + n_bytes > size:
            raise ValueError(f"tensor {shown(name)} must end in the file, at most at {size}, "
                             f"got {start + offset + n_bytes}")  # fmt: skip
        places[name] = _Place(kind, start + offset, n_bytes)
    # With shared bytes, a small file could ask for a large model.
    end, before = 0, ""
    for name, place in sorted(places.items(), key=lambda item: item[1].offset):
        if place.offset < end:
            raise ValueError(f"tensors {shown(before)} and {shown(name)} must not share bytes")
        end, before = place.offset + place.n_bytes, name
    return places
