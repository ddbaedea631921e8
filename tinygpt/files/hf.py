"""Model directories in the Hugging Face layout: config.json and model.safetensors, or several files and their index.

Reading goes from cheap to dear, and each step trusts only what the one before has held against the file: the config,
the header of the tensors, their names and shapes against the config, then the memory for a model of that size, then the
values. So a few bytes of config.json cannot make it allocate more than a file of that size could fill.
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
    """Write config.json and model.safetensors and sync them; not atomic, the directory is for a temporary.

    Parameters
    ----------
    directory : path
        Must exist; neither file may.
    model : GPT
    start_id, end_ids
        As `config.to_bytes`.
    dtype : str
        Of the weights: float32, float16 or bfloat16.
    progress : callable, optional
        As of `weights.write`.

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
    """What goes into a file: views of the parameters where the file holds the same, in any strides."""
    held = dict(model.named_parameters())
    for _, weight in model.named_packed():
        raise ValueError(f"[save] 'model' has weights packed as {weight.kind}: load it with weights float32 to save it")
    for piece in pieces:
        if piece.parameter is None:
            yield piece, np.zeros(piece.shape, np.float32)
        else:
            yield piece, piece.to_file(held[piece.parameter].data[piece.rows])


def read(directory: StrPath, weights: str = "float32") -> GPT:
    """A model from its directory.

    Parameters
    ----------
    directory : path
        With a config.json of family gpt2, llama or tinygpt, and a model.safetensors in float32, float16 or bfloat16,
        or several files that a model.safetensors.index.json lists. Names may lack the prefix of a whole model; masks
        and rotary frequencies may be among the tensors.
    weights : str
        What the model keeps of them, see `build`.

    Returns
    -------
    GPT

    Raises
    ------
    FileNotFoundError
        The directory or one of its files is missing.
    ValueError
        A file is not what it must be. The message is one line with the file's name and what is wrong.
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
        What says how the tensors must be, for messages.
    """

    family: str
    config: GPTConfig
    file: Tensors
    pieces: list[names.Piece]
    asker: str = config_file.NAME

    def values(self) -> Iterator[tuple[names.Piece, np.ndarray]]:
        """Every tensor with its values, checked as it is given; only one is held at a time.

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
        """Raise ValueError for values that contradict what the source says elsewhere."""


class ModelDirectory(Source):
    """A model directory whose config and tensor names, shapes and types have been checked.

    Parameters
    ----------
    directory : path

    Attributes
    ----------
    family, config, file, pieces
        As `Source`.

    Raises
    ------
    FileNotFoundError, ValueError
        As `read`.
    """

    def __init__(self, directory: StrPath):
        folder = Path(directory)
        self.family, self.config = config_file.read(folder)
        self.file = _open_weights(folder)
        prefix = names.PREFIX[self.family]
        if not any(name.startswith(prefix) for name in self.file.entries):
            prefix = ""
        self._check(prefix)
        self.pieces = list(self._named(prefix))  # as many as the file has tensors

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
    """The model that a source describes, filled tensor by tensor.

    Parameters
    ----------
    source : Source
    progress : callable, optional
        Is called with the number of values read and that of all, after every tensor.
    weights : str
        ``float32``; or ``bfloat16`` or ``int8`` for a model that only runs: each tensor is packed as it is read.

    Returns
    -------
    GPT

    Raises
    ------
    ValueError
        As `Source.values`; or an unknown kind of weights.
    """
    check_kind("load", "weights", weights)
    model = GPT(source.config, seed=None)
    if weights != "float32":
        model.pack(weights, values=False)
    assign(model, source.values() if progress is None else _told(source, progress))
    return model


def _told(source: Source, progress: Progress) -> Iterator[tuple[names.Piece, np.ndarray]]:
    """The values of a source, with word of how far they are."""
    total, done = sum(math.prod(piece.shape) for piece in source.pieces), 0
    for piece, array in source.values():
        yield piece, array
        done += array.size
        progress(done, total)


def assign(model: GPT, values: Iterable[tuple[names.Piece, np.ndarray]]) -> None:
    """Copy what `Source.values` gives into a model of that source's config."""
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
