"""Models in GGUF files, the format of llama.cpp: loaded into a GPT, and written.

Reading checks before it allocates, as for a model directory (tinygpt/files/hf.py). Writing needs memory for the model
and one tensor. Tensors with one axis and the table of positions stay float32, because llama.cpp requires it. A row of
Q8_0 consists of whole blocks of 32, so a tensor with other rows is written as F16.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np

from tinygpt.config import GPTConfig
from tinygpt.files import config as config_file
from tinygpt.files import gguf_config, hf, names, weights
from tinygpt.files.gguf_file import GGUFFile, need_gguf
from tinygpt.io import atomic
from tinygpt.io.strict import StrPath, naming
from tinygpt.model import GPT
from tinygpt.tokenizers import BPETokenizer, Tokenizer

MAGIC = b"GGUF"
EMBEDDING, HEAD, POSITIONS, FREQUENCIES = (
    "token_embd.weight",
    "output.weight",
    "position_embd.weight",
    "rope_freqs.weight",
)
# Value of the argument `dtype` -> type of tensor, number of the file type in ``general.file_type``.
DTYPES = {"float32": ("F32", 0), "float16": ("F16", 1), "bfloat16": ("BF16", 32), "q8_0": ("Q8_0", 7)}
BLOCK = 32  # values of Q8_0 that share a scale
_LARGEST = 127  # largest value of Q8_0: the scale of a block is its largest value divided by this


class GGUFModel(hf.Source):
    """A GGUF file whose metadata and tensor names, shapes and types have been checked.

    Parameters
    ----------
    path : path

    Attributes
    ----------
    family, config, file, pieces
        See `hf.Source`.

    Raises
    ------
    FileNotFoundError, ValueError, ImportError, OSError
        See `GGUFFile`; also for metadata that do not describe a supported model, and tensors that contradict them.
    """

    asker = "its metadata"
    file: GGUFFile

    def __init__(self, path: StrPath):
        self.file = GGUFFile(path)
        entries = self.file.entries
        with naming(path):
            rows = entries[EMBEDDING][1][0] if EMBEDDING in entries else None
            self.family, self.config = gguf_config.from_metadata(self.file.fields, rows, HEAD not in entries)
            if FREQUENCIES in entries:
                raise ValueError(f"tensor '{FREQUENCIES}' scales the rotary embedding, which the model here does not")
        pieces = names.gguf_pieces(self.family, self.config)
        self.file.expect(((piece.name, piece.shape) for piece in pieces), (), self.asker)
        self.pieces = list(names.gguf_pieces(self.family, self.config))  # one for each tensor of the file

    def tokenizer(self) -> BPETokenizer | None:
        """Read the tokenizer in the metadata; None if they name none.

        Raises
        ------
        ValueError
            It is not byte-level BPE with a known pattern.
        """
        if self.file.fields.get("tokenizer.ggml.model", "none") in ("none", "no_vocab"):
            return None
        from tinygpt.tokenizers import gguf_metadata

        with naming(self.file.path):
            return gguf_metadata.from_metadata(self.file.fields)

    def _check_value(self, piece: names.Piece, array: np.ndarray) -> None:
        """Accept all values, because a GGUF file states nothing twice."""


def write(
    path: StrPath,
    model: GPT,
    tokenizer: Tokenizer | None,
    dtype: str = "float32",
    name: str = "",
    progress: weights.Progress | None = None,
) -> list[str]:
    """Write a GGUF file atomically.

    Parameters
    ----------
    path : path
        File to write, in an existing folder; an existing file is replaced.
    model : GPT
        A model of family gpt2 or llama.
    tokenizer : BPETokenizer
        GGUF has no form for other tokenizers.
    dtype : str
        Type of the weights: float32, float16, bfloat16 or q8_0.
    name : str
        Name of the model, for people.
    progress : callable, optional
        See `weights.write`.

    Returns
    -------
    list of str
        Names of the tensors that are F16 because their rows are not whole blocks of Q8_0.

    Raises
    ------
    ValueError
        The model or the tokenizer has no form in GGUF, or a weight is not finite or too large for `dtype`. Nothing is
        written.
    ImportError
        The `gguf` package is not installed.
    OSError
        The file cannot be written; an existing one is then unchanged.
    """
    check_family(model.config)
    metadata = {**gguf_config.to_metadata(model.config), **tokenizer_metadata(tokenizer, model.config.vocab_size)}
    gguf = need_gguf()
    word, _ = DTYPES[dtype]
    pieces = list(names.gguf_pieces(config_file.family(model.config), model.config))
    kinds = {piece.name: _kind(piece, word) for piece in pieces}
    for piece, values in hf.parts(model, pieces):
        _check_range(piece.name, values, kinds[piece.name])
    with atomic.replacing(path) as temporary:
        writer = gguf.GGUFWriter(None, config_file.family(model.config))
        _add_general(writer, name, dtype)
        for key, value in metadata.items():
            _add(writer, key, value)
        try:
            _write_tensors(writer, temporary, model, pieces, kinds, progress)
        finally:
            writer.close()
    return [piece.name for piece in pieces if len(piece.shape) > 1 and word == "Q8_0" and kinds[piece.name] == "F16"]


def check_family(config: GPTConfig) -> None:
    """Raise ValueError for a model of neither family; the message lists the options that differ from each."""
    if config_file.family(config) != "tinygpt":
        return
    raise ValueError(f"the model is neither a GPT-2 ({_apart(config, 'gpt2')}) nor a Llama ({_apart(config, 'llama')})")


def _apart(config: GPTConfig, kind: str) -> str:
    """List the options in which a config differs from the given family."""
    options = {
        "gpt2": {"position": "learned", "norm": "layernorm", "activation": "gelu"},
        "llama": {"position": "rope", "norm": "rmsnorm", "activation": "swiglu"},
    }[kind]
    found = [f"{name} is {getattr(config, name)}" for name, value in options.items() if getattr(config, name) != value]
    if kind == "gpt2" and config.kv_heads != config.n_head:
        found.append(f"n_kv_head is {config.kv_heads}, not {config.n_head}")
    if kind == "llama" and config.bias:
        found.append("bias is true")
    return ", ".join(found)


def tokenizer_metadata(tokenizer: Tokenizer | None, n_rows: int) -> dict[str, Any]:
    """Make the fields of a tokenizer, with a token for every row of the embedding.

    Parameters
    ----------
    tokenizer : Tokenizer or None
    n_rows : int

    Returns
    -------
    dict of str to bool, int, str or list

    Raises
    ------
    ValueError
        GGUF has no form for this tokenizer.
    """
    if tokenizer is None:
        raise ValueError("a GGUF file needs a tokenizer, and there is no tokenizer.json")
    from tinygpt.tokenizers import gguf_metadata

    try:
        return gguf_metadata.to_metadata(tokenizer, n_rows)  # llama.cpp takes the number of rows from the tokens
    except ValueError as error:
        raise ValueError(str(error).removeprefix("[to_metadata] ")) from None


def _kind(piece: names.Piece, word: str) -> str:
    """Return the type that a tensor is written as."""
    if len(piece.shape) == 1 or piece.name == POSITIONS:
        return "F32"
    return "F16" if word == "Q8_0" and piece.shape[-1] % BLOCK else word


def _stored(shape: names.Shape, kind: str) -> tuple[tuple[int, ...], int]:
    """Return the shape in bytes and the number of bytes, which the writer of the `gguf` package asks for."""
    block, n_bytes = (BLOCK, BLOCK + 2) if kind == "Q8_0" else (1, 4 if kind == "F32" else 2)
    stored = (*shape[:-1], shape[-1] // block * n_bytes)
    return stored, math.prod(stored)


def _check_range(name: str, values: np.ndarray, kind: str) -> None:
    if kind == "Q8_0":
        weights.check_range(name, values, "float32", "export")
        bounds = np.array([values.min(), values.max()], np.float32) / _LARGEST
        weights.check_range(name, bounds, "float16", "export")
    else:
        weights.check_range(name, values, {"F32": "float32", "F16": "float16", "BF16": "bfloat16"}[kind], "export")


def _write_tensors(
    writer: Any,
    file: Path,
    model: GPT,
    pieces: list[names.Piece],
    kinds: dict[str, str],
    progress: weights.Progress | None,
) -> None:
    """Write the header and the tensors, converting the values of one tensor at a time."""
    gguf = need_gguf()
    for piece in pieces:
        shape, n_bytes = _stored(piece.shape, kinds[piece.name])
        number = gguf.GGMLQuantizationType[kinds[piece.name]]
        writer.add_tensor_info(piece.name, shape, np.dtype(np.uint8), n_bytes, number)
    writer.write_header_to_file(file)
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    total, done = sum(math.prod(piece.shape) for piece in pieces), 0
    for piece, values in hf.parts(model, pieces):
        number = gguf.GGMLQuantizationType[kinds[piece.name]]
        writer.write_tensor_data(gguf.quants.quantize(np.ascontiguousarray(values), number))
        if progress is not None:
            done += values.size
            progress(done, total)


def _add_general(writer: Any, name: str, dtype: str) -> None:
    """Add the fields of every file."""
    word, number = DTYPES[dtype]
    writer.add_type("model")
    writer.add_name(name)
    writer.add_file_type(number)
    if word == "Q8_0":
        writer.add_quantization_version(need_gguf().GGML_QUANT_VERSION)


def _add(writer: Any, key: str, value: Any) -> None:
    """Add a field; llama.cpp reads counts and ids as unsigned, types of tokens as signed integers."""
    if isinstance(value, bool):
        writer.add_bool(key, value)
    elif isinstance(value, int):
        writer.add_uint32(key, value)
    elif isinstance(value, float):
        writer.add_float32(key, value)
    elif isinstance(value, str):
        writer.add_string(key, value)
    else:
        writer.add_array(key, value)
