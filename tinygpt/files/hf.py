"""Model directories in the Hugging Face layout: config.json and model.safetensors.

Reading goes from cheap to dear, and each step trusts only what the one before has held against the file: the config,
the header of the tensors, their names and shapes against the config, then the memory for a model of that size, then the
values. So a few bytes of config.json cannot make it allocate more than a file of that size could fill.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np

from tinygpt.config import GPTConfig
from tinygpt.files import atomic, names, weights
from tinygpt.files import config as config_file
from tinygpt.files.strict import StrPath, shown
from tinygpt.files.weights import TensorFile
from tinygpt.model import GPT

WEIGHTS = "model.safetensors"
_PICKLE = "pytorch_model.bin"
_SHARDS = "model.safetensors.index.json"


def write(directory: StrPath, model: GPT, eot_id: int | None = None) -> None:
    """Write config.json and model.safetensors and sync them; not atomic, the directory is for a temporary.

    Parameters
    ----------
    directory : path
        Must exist; neither file may.
    model : GPT
    eot_id : int, optional
        The tokenizer's separator.

    Raises
    ------
    ValueError
        A weight is NaN or infinite.
    OSError
        A file cannot be written.
    """
    folder = Path(directory)
    weights.write(folder / WEIGHTS, _tensors(model), {"format": "pt"})  # transformers asks for this word
    atomic.write_bytes(folder / config_file.NAME, config_file.to_bytes(model.config, eot_id))


def _tensors(model: GPT) -> Iterator[tuple[str, np.ndarray]]:
    """What goes into the file: views of the parameters, under the family's names."""
    held = dict(model.named_parameters())
    kind = config_file.family(model.config)
    for piece in names.pieces(kind, model.config, names.PREFIX[kind]):
        if piece.parameter is None:
            yield piece.name, np.zeros(piece.shape, np.float32)
            continue
        values = held[piece.parameter].data[piece.rows]
        yield piece.name, values.T if piece.transposed else values


def read(directory: StrPath) -> GPT:
    """A model from its directory.

    Parameters
    ----------
    directory : path
        With a config.json of family gpt2, llama or tinygpt, and a model.safetensors in float32, float16 or bfloat16.
        Names may lack the prefix of a whole model; masks and rotary frequencies may be among the tensors.

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
    source = ModelDirectory(directory)
    model = GPT(source.config, seed=None)
    assign(model, source.values())
    return model


class ModelDirectory:
    """A model directory whose config and tensor names, shapes and types have been checked.

    Parameters
    ----------
    directory : path

    Attributes
    ----------
    config : GPTConfig
    file : TensorFile
    pieces : list of names.Piece
        Every tensor that will be read.

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
        self.pieces = list(names.pieces(self.family, self.config, prefix))  # as many as the file has tensors

    def _check(self, prefix: str) -> None:
        config, kind = self.config, self.family
        pieces = names.pieces(kind, config, prefix)
        wanted: Iterator[tuple[str, names.Shape]] = ((piece.name, piece.shape) for piece in pieces)
        self._repeats_embedding = config.tie_embeddings and kind != "tinygpt" and names.HEAD in self.file.entries
        if self._repeats_embedding:
            wanted = _and_head(wanted, config)
        self.file.expect(wanted, names.buffers(kind, config, prefix), config_file.NAME)

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
                    f"{config_file.NAME} says that the model has no biases"
                )
            if piece.parameter == "wte.weight" and self._repeats_embedding:
                self._check_head(piece.name, array)
            yield piece, array

    def _check_head(self, name: str, embedding: np.ndarray) -> None:
        if not np.array_equal(self.file.read(names.HEAD), embedding):
            raise ValueError(
                f"{self.file.path}: tensor {shown(names.HEAD)} must equal {shown(name)}, "
                f"{config_file.NAME} says that they are tied"
            )


def assign(model: GPT, values: Iterable[tuple[names.Piece, np.ndarray]]) -> None:
    """Copy what `ModelDirectory.values` gives into a model of that directory's config."""
    held = dict(model.named_parameters())
    for piece, array in values:
        if piece.parameter is not None:
            held[piece.parameter].data[piece.rows] = array.T if piece.transposed else array


def _and_head(wanted: Iterator[tuple[str, names.Shape]], config: GPTConfig) -> Iterator[tuple[str, names.Shape]]:
    yield from wanted
    yield names.HEAD, (config.vocab_size, config.n_embd)


def _open_weights(folder: Path) -> TensorFile:
    file = folder / WEIGHTS
    if not file.exists():
        if (folder / _PICKLE).exists():
            raise FileNotFoundError(
                f"{file}: no such file; {_PICKLE} is a pickle, which may run any code and is not read: "
                "open it with transformers and write it again with save_pretrained(dir, safe_serialization=True)"
            )
        if (folder / _SHARDS).exists():
            raise FileNotFoundError(
                f"{file}: no such file; {_SHARDS} lists several, and only one can be read: "
                "write it again with transformers and save_pretrained(dir, max_shard_size='1000GB')"
            )
    return TensorFile(file)
