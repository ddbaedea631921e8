"""Models in from elsewhere, and out: Hugging Face directories and GGUF files.

Both ways go through one GPT in memory, filled or read tensor by tensor, so the most that is held is the model and one
tensor. What comes in is written as a model directory like any other (tinygpt/files/model_directory.py), in float32.
"""

from __future__ import annotations

import math
from collections import Counter
from pathlib import Path
from typing import NamedTuple

from tinygpt import tokenizers
from tinygpt.config import GPTConfig
from tinygpt.files import config as config_file
from tinygpt.files import gguf, hf, model_directory
from tinygpt.files.weights import Progress
from tinygpt.io import paths
from tinygpt.io.strict import StrPath, naming
from tinygpt.tokenizers import BPETokenizer, Tokenizer

DTYPES = {"hf": ("float32", "float16", "bfloat16"), "gguf": tuple(gguf.DTYPES)}


class Imported(NamedTuple):
    """What has been imported.

    Attributes
    ----------
    family : str
    config : GPTConfig
    parameters : int
    types : list of str
        Those of the tensors in the file, most values first.
    tokenizer : Tokenizer or None
    """

    family: str
    config: GPTConfig
    parameters: int
    types: list[str]
    tokenizer: Tokenizer | None

    def describe(self) -> str:
        """One line."""
        tokens = "no tokenizer"
        if self.tokenizer is not None:
            tokens = f"{self.tokenizer.vocab_size:,} tokens ({type(self.tokenizer).__name__})"
        return (
            f"{self.family}, {self.parameters:,} parameters, context {self.config.block_size:,}, {tokens}, "
            f"from {', '.join(self.types)}"
        )


def import_model(source: StrPath, out: StrPath, force: bool = False, progress: Progress | None = None) -> Imported:
    """Make a model directory of a model from elsewhere.

    Parameters
    ----------
    source : path
        A Hugging Face directory of a GPT-2 or a Llama, its weights in one safetensors file or several, or a GGUF file
        of architecture gpt2 or llama.
    out : path
        Where to. Must be empty or missing.
    force : bool
        A model in `out` is replaced; other files stay.
    progress : callable, optional
        Is called with the number of steps done and that of all: each value is read, and then written.

    Returns
    -------
    Imported

    Raises
    ------
    FileNotFoundError, ValueError
        `source` is missing, damaged or asks for something that is not computed here; or `out` is in use. The message
        is one line with the file's name and what is wrong. Nothing has been written.
    ImportError
        `source` is a GGUF file in blocks and the `gguf` package is not installed.
    OSError
        A file cannot be read or written.
    """
    origin, folder = Path(source), Path(out)
    _check_directory(folder, force, origin)
    opened, tokenizer = _open(origin)
    model = hf.build(opened, _half(progress, 0))
    model_directory.save(folder, model, tokenizer, progress=_half(progress, 1))
    sizes: Counter[str] = Counter()
    for piece in opened.pieces:
        sizes[opened.file.entries[piece.name][0]] += math.prod(piece.shape)
    types = [kind for kind, _ in sizes.most_common()]
    return Imported(opened.family, opened.config, model.num_parameters(), types, tokenizer)


def _half(progress: Progress | None, number: int) -> Progress | None:
    """What the first or the second of two passes over all values is to call."""
    return None if progress is None else lambda done, n: progress(number * n + done, 2 * n)


def _open(origin: Path) -> tuple[hf.Source, Tokenizer | None]:
    """A source and its tokenizer."""
    if not origin.exists():
        raise FileNotFoundError(f"{origin}: no such file or directory")
    if origin.is_dir():
        directory = hf.ModelDirectory(origin)
        file, tokenizer = _tokenizer(origin, directory.family)
        model_directory.check_vocabulary(f"{file}:", directory.config, tokenizer)
        return directory, tokenizer
    if origin.suffix == ".safetensors":
        raise ValueError(f"{origin}: holds weights alone, give the directory with its {config_file.NAME}")
    model = gguf.GGUFModel(origin)  # which has counted the tokens
    return model, model.tokenizer()


def _tokenizer(folder: Path, family: str) -> tuple[Path, Tokenizer | None]:
    """The tokenizer of a directory and its file: tokenizer.json, or the first of the two that GPT-2 came with."""
    file, vocab, merges = (folder / name for name in (model_directory.TOKENIZER, "vocab.json", "merges.txt"))
    if file.exists():
        return file, tokenizers.load(file)
    if vocab.exists() and merges.exists():
        if family != "gpt2":  # these files do not say how a text is split, and only of GPT-2 is it known
            raise ValueError(
                f"{folder}: there must be a {model_directory.TOKENIZER}, vocab.json is read for a gpt2 alone"
            )
        return vocab, BPETokenizer.from_gpt2(vocab, merges)
    for name in ("tokenizer.model", "spiece.model"):
        if (folder / name).exists():
            raise ValueError(f"{folder / name}: is a SentencePiece model, and only byte-level BPE can be read: "
                             f"there must be a {model_directory.TOKENIZER} of it")  # fmt: skip
    return file, None


def export_model(
    directory: StrPath,
    to: str,
    out: StrPath,
    dtype: str = "float32",
    force: bool = False,
    progress: Progress | None = None,
) -> list[str]:
    """Write a model for other programs.

    Parameters
    ----------
    directory : path
        Model directory, of the GPT-2 or the Llama family.
    to : str
        ``hf`` for a directory that transformers reads, ``gguf`` for a file that llama.cpp reads.
    out : path
        The directory or the file.
    dtype : str
        One of `DTYPES`: float32, float16 or bfloat16, and for gguf q8_0.
    force : bool
        What is at `out` is replaced: a file, or the model in a directory, whose other files stay.
    progress : callable, optional
        Is called with the number of values written and that of all.

    Returns
    -------
    list of str
        Remarks on what was written otherwise than asked.

    Raises
    ------
    FileNotFoundError, ValueError
        There is no such model, it has no form in the other format, or `out` is in use. Nothing has been written.
    ImportError
        The `gguf` package is not installed.
    OSError
        A file cannot be written.
    """
    if dtype not in DTYPES[to]:
        raise ValueError(f"[transfer] 'dtype' must be {' or '.join(DTYPES[to])} with 'to' {to}, got {dtype}")
    origin, target = Path(directory), Path(out)
    _, config = config_file.read(origin)
    with naming(origin):
        gguf.check_family(config)
    if to == "hf":
        _check_directory(target, force, origin)
    else:
        _check_file(target, force, origin)
    model, tokenizer = model_directory.load(origin)
    with naming(origin):
        if to == "hf":
            model_directory.save(target, model, tokenizer, dtype, progress)
            return [] if tokenizer else ["there is no tokenizer.json, so none was written"]
        gguf.tokenizer_metadata(tokenizer, config.vocab_size)  # before a folder is made
        target.parent.mkdir(parents=True, exist_ok=True)
        short = gguf.write(target, model, tokenizer, dtype, origin.resolve().name, progress)
    return [f"{len(short)} tensors are F16: their rows are no multiple of {gguf.BLOCK}"] if short else []


def _check_directory(out: Path, force: bool, origin: Path) -> None:
    """Raise ValueError, before any work is done, unless a model may and can be written to a directory.

    Parameters
    ----------
    out : Path
        Model directory.
    force : bool
        Whether a model in it may be replaced.
    origin : Path
        What is read; it is never written over.
    """
    paths.check_directory(out, "[transfer] 'out'")
    if not out.exists() or not any(out.iterdir()):
        return
    if origin.resolve().is_relative_to(out.resolve()):
        raise ValueError(f"[transfer] 'out' {out}: contains {origin}; choose another directory")
    if (out / model_directory.RUN).exists():
        raise ValueError(f"[transfer] 'out' {out}: is the directory of a training run; choose another directory")
    if not (out / config_file.NAME).exists():
        raise ValueError(
            f"[transfer] 'out' {out}: the directory is not empty and is not a model directory; choose another directory"
        )
    if not force:
        raise ValueError(f"[transfer] 'out' {out}: has a model already; 'force' replaces it")


def _check_file(out: Path, force: bool, origin: Path) -> None:
    """Raise ValueError, before any work is done, unless a model may and can be written to a file."""
    paths.check_file(out, "[transfer] 'out'")
    if out.exists() and out.resolve().parent == origin.resolve():
        raise ValueError(f"[transfer] 'out' {out}: is a file of {origin}; choose another file")
    if out.exists() and not force:
        raise ValueError(f"[transfer] 'out' {out}: exists already; 'force' replaces it")
