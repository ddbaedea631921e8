"""Model directories in the Hugging Face layout: config.json and model.safetensors, or several files and their index.

Reading checks before it allocates: first the config, then the header of the tensors, then their names and shapes
against the config. Only then is memory for a model of that size taken and filled, so a few bytes of config.json cannot
make the reader allocate more than the file of weights contains.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Collection, Iterable, Iterator
from pathlib import Path

import numpy as np

from tinygpt.config import GPTConfig
from tinygpt.files import config as config_file
from tinygpt.files import names, weights
from tinygpt.files.weights import Progress, ShardedFiles, TensorFile, Tensors
from tinygpt.io import atomic
from tinygpt.io.strict import StrPath, shown
from tinygpt.model import GPT
from tinygpt.packed import check_kind

WEIGHTS = "model.safetensors"
_PICKLE = "pytorch_model.bin"
SHARDS = "model.safetensors.index.json"


def write(
    directory: StrPath,
    model: GPT,
    start_id: int | None = None,
    end_ids: Collection[int] = (),
    dtype: str = "float32",
    progress: Progress | None = None,
) -> None:
    """Write config.json and model.safetensors and sync them; not atomic, so the directory must be a temporary one.

    Parameters
    ----------
    directory : path
        An existing directory without these files.
    model : GPT
    start_id, end_ids
        Ids of special tokens; see `config.to_bytes`.
    dtype : str
        Type of the weights in the file: float32, float16 or bfloat16.
    progress : callable, optional
        See `weights.write`.

    Raises
    ------
    ValueError
        A weight is NaN or infinite, or too large for `dtype`.
    OSError
        A file cannot be written.
    """
    folder = Path(directory)
    kind = config_file.family(model.config)
    pieces = names.pieces(kind, model.config, names.PREFIX[kind])
    tensors = ((piece.name, values) for piece, values in parts(model, pieces))
    # transformers asks for "pt"
    weights.write(folder / WEIGHTS, tensors, {"format": "pt"}, dtype, progress, checksum=True)
    atomic.write_bytes(folder / config_file.NAME, config_file.to_bytes(model.config, start_id, end_ids, dtype))


def parts(model: GPT, pieces: Iterable[names.Piece]) -> Iterator[tuple[names.Piece, np.ndarray]]:
    """Yield every tensor of a file with its values: a view of a parameter, with any strides, or zeros."""
    held = dict(model.named_parameters())
    for _, weight in model.named_packed():
        raise ValueError(f"[save] 'model' has weights packed as {weight.kind}: load it with weights float32 to save it")
    for piece in pieces:
        if piece.parameter is None:
            yield piece, np.zeros(piece.shape, np.float32)
        else:
            yield piece, piece.to_file(held[piece.parameter].data[piece.rows])


def read(directory: StrPath, weights: str = "float32") -> GPT:
    """Read a model from its directory.

    Parameters
    ----------
    directory : path
        It has a config.json of family gpt2, llama or tinygpt, and a model.safetensors in float32, float16, bfloat16 or
        float64, or several files that a model.safetensors.index.json lists. Names may lack the prefix of a whole model;
        masks and rotary frequencies may be among the tensors.
    weights : str
        Type of the weights in memory; see `build`.

    Returns
    -------
    GPT

    Raises
    ------
    FileNotFoundError
        The directory or one of its files is missing.
    ValueError
        A file is damaged or does not describe a supported model. The message is one line with the file and the fault.
    """
    return build(ModelDirectory(directory), weights=weights)


class Source(ABC):
    """A model in a file whose config and tensor names, shapes and types have been checked.

    Attributes
    ----------
    family : str
        One of `config.FAMILIES`.
    config : GPTConfig
    file : Tensors
    pieces : list of names.Piece
        Every tensor that will be read.
    asker : str
        The file or field that asks for the tensors, for messages.
    """

    family: str
    config: GPTConfig
    file: Tensors
    pieces: list[names.Piece]
    asker: str = config_file.NAME

    def values(self) -> Iterator[tuple[names.Piece, np.ndarray]]:
        """Yield every tensor with its values after a check; only one is in memory at a time.

        Raises
        ------
        ValueError
            A value is NaN or infinite, a bias is not zero in a model without biases, or a head that should be the
            embedding is not.
        """
        for piece in self.pieces:
            array = self.file.read(piece.name)
            if piece.parameter is None and array.any():
                raise ValueError(
                    f"{self.file.path}: tensor {shown(piece.name)} must be zero, "
                    f"{self.asker} says that the model has no biases"
                )
            self._check_value(piece, array)
            yield piece, array

    @abstractmethod
    def _check_value(self, piece: names.Piece, array: np.ndarray) -> None:
        """Raise ValueError for values that contradict another part of the source."""


class ModelDirectory(Source):
    """A model directory whose config and tensor names, shapes and types have been checked.

    Parameters
    ----------
    directory : path

    Attributes
    ----------
    family, config, file, pieces
        See `Source`.

    Raises
    ------
    FileNotFoundError, ValueError
        See `read`.
    """

    def __init__(self, directory: StrPath):
        folder = Path(directory)
        self.family, self.config = config_file.read(folder)
        self.file = _open_weights(folder)
        prefix = names.PREFIX[self.family]
        if not any(name.startswith(prefix) for name in self.file.entries):
            prefix = ""
        self._check(prefix)
        self.pieces = list(self._named(prefix))  # one for each tensor of the file

    def _named(self, prefix: str) -> Iterator[names.Piece]:
        """Yield every tensor that the config asks for; a tied matrix may be under the name of the head alone."""
        tied = self.config.tie_embeddings and self.family != "tinygpt" and names.HEAD in self.file.entries
        for piece in names.pieces(self.family, self.config, prefix):
            only_head = tied and piece.parameter == "wte.weight" and piece.name not in self.file.entries
            yield piece._replace(name=names.HEAD) if only_head else piece

    def _check(self, prefix: str) -> None:
        config, kind = self.config, self.family
        pieces = self._named(prefix)
        embedding = next(names.pieces(kind, config, prefix)).name
        wanted: Iterator[tuple[str, names.Shape]] = ((piece.name, piece.shape) for piece in pieces)
        both = names.HEAD in self.file.entries and embedding in self.file.entries
        self._repeats_embedding = config.tie_embeddings and kind != "tinygpt" and both
        if self._repeats_embedding:
            wanted = _and_head(wanted, config)
        self.file.expect(wanted, names.buffers(kind, config, prefix), config_file.NAME)

    def _check_value(self, piece: names.Piece, array: np.ndarray) -> None:
        if piece.parameter != "wte.weight" or not self._repeats_embedding:
            return
        if not np.array_equal(self.file.read(names.HEAD), array):
            raise ValueError(
                f"{self.file.path}: tensor {shown(names.HEAD)} must equal {shown(piece.name)}, "
                f"{config_file.NAME} says that they are tied"
            )


def build(source: Source, progress: Progress | None = None, weights: str = "float32") -> GPT:
    """Build the model of a source, tensor by tensor.

    Parameters
    ----------
    source : Source
    progress : callable, optional
        Called after every tensor with the number of values read and the total.
    weights : str
        Type of the weights in memory: ``float32``; or ``bfloat16`` or ``int8`` for a model that will not be trained,
        where each tensor is packed as it is read.

    Returns
    -------
    GPT

    Raises
    ------
    ValueError
        See `Source.values`; or `weights` has another value.
    """
    check_kind("load", "weights", weights)
    model = GPT(source.config, seed=None)
    if weights != "float32":
        model.pack(weights, values=False)
    assign(model, source.values() if progress is None else _told(source, progress))
    return model


def _told(source: Source, progress: Progress) -> Iterator[tuple[names.Piece, np.ndarray]]:
    """Yield the values of a source, and report progress."""
    total, done = sum(math.prod(piece.shape) for piece in source.pieces), 0
    for piece, array in source.values():
        yield piece, array
        done += array.size
        progress(done, total)


def assign(model: GPT, values: Iterable[tuple[names.Piece, np.ndarray]]) -> None:
    """Copy the values of a source into a model of its config."""
    held, packed = dict(model.named_parameters()), dict(model.named_packed())
    for piece, array in values:
        if piece.parameter in packed:
            packed[piece.parameter].pack(piece.from_file(array), piece.rows)
        elif piece.parameter is not None:
            held[piece.parameter].data[piece.rows] = piece.from_file(array)


def _and_head(wanted: Iterator[tuple[str, names.Shape]], config: GPTConfig) -> Iterator[tuple[str, names.Shape]]:
    yield from wanted
    yield names.HEAD, (config.vocab_size, config.n_embd)


def _open_weights(folder: Path) -> Tensors:
    file = folder / WEIGHTS
    if not file.exists():
        if (folder / SHARDS).exists():
            return ShardedFiles(folder / SHARDS)
        if (folder / _PICKLE).exists():
            raise FileNotFoundError(
                f"{file}: no such file; {_PICKLE} is a pickle, which may run any code and is not read: "
                "open it with transformers and write it again with save_pretrained(dir, safe_serialization=True)"
            )
    return TensorFile(file)
