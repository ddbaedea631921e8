"""Import and export of models: Hugging Face directories and GGUF files.

Both directions go through one GPT in memory that is filled or read tensor by tensor, so the peak memory is that of the
model and one tensor. An imported model is saved as a float32 model directory (`tinygpt.files.model_directory`).
"""

from __future__ import annotations

import math
from collections import Counter
from pathlib import Path
from typing import NamedTuple

from tinygpt.config import GPTConfig
from tinygpt.files import config as config_file
from tinygpt.files import gguf, hf, model_directory
from tinygpt.files.weights import Progress
from tinygpt.io import paths
from tinygpt.io.strict import StrPath, naming
from tinygpt.tokenizers import Tokenizer

DTYPES = {"hf": ("float32", "float16", "bfloat16"), "gguf": tuple(gguf.DTYPES)}


class Imported(NamedTuple):
    """Facts about an imported model.

    Attributes
    ----------
    family : str
        ``gpt2`` or ``llama``.
    config : GPTConfig
        Shape of the model.
    parameters : int
        Number of parameters.
    types : list of str
        Number types of the tensors in the file, the one with most values first.
    tokenizer : Tokenizer or None
        None if the source has no tokenizer.
    """

    family: str
    config: GPTConfig
    parameters: int
    types: list[str]
    tokenizer: Tokenizer | None

    def describe(self) -> str:
        """Describe the model in one line."""
        tokens = "no tokenizer"
        if self.tokenizer is not None:
            tokens = f"{self.tokenizer.vocab_size:,} tokens ({type(self.tokenizer).__name__})"
        return (
            f"{self.family}, {self.parameters:,} parameters, context {self.config.block_size:,}, {tokens}, "
            f"from {', '.join(self.types)}"
        )


def import_model(source: StrPath, out: StrPath, force: bool = False, progress: Progress | None = None) -> Imported:
    """Convert a Hugging Face directory or a GGUF file to a model directory.

    Parameters
    ----------
    source : path
        A Hugging Face directory of a GPT-2 or a Llama, with weights in one or several safetensors files, or a GGUF file
        of architecture gpt2 or llama.
    out : path
        Directory to write; must be empty or missing.
    force : bool
        Replace a model in `out`; other files stay.
    progress : callable, optional
        Called with the number of values done and the total. Every value counts twice: it is read, then written.

    Returns
    -------
    Imported

    Raises
    ------
    FileNotFoundError, ValueError
        `source` is missing, damaged or needs a feature that is not supported, or `out` is in use. The message is one
        line that names the file and the fault. Nothing has been written.
    ImportError
        `source` is a quantised GGUF file and the `gguf` package is not installed.
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
    """Return the progress callback for the first (0) or the second (1) of two passes over all values."""
    return None if progress is None else lambda done, n: progress(number * n + done, 2 * n)


def _open(origin: Path) -> tuple[hf.Source, Tokenizer | None]:
    """Open a source and load its tokenizer."""
    if not origin.exists():
        raise FileNotFoundError(f"{origin}: no such file or directory")
    if origin.is_dir():
        directory = hf.ModelDirectory(origin)
        return directory, _tokenizer(origin, directory)
    if origin.suffix == ".safetensors":
        raise ValueError(f"{origin}: holds weights alone, give the directory with its {config_file.NAME}")
    model = gguf.GGUFModel(origin)  # checks the number of tokens itself
    return model, model.tokenizer()


def _tokenizer(folder: Path, source: hf.Source) -> Tokenizer | None:
    """Read the tokenizer of a directory; a kind that cannot be read here is refused rather than left out."""
    tokenizer = model_directory.load_tokenizer(folder, source)
    for name in ("tokenizer.model", "spiece.model"):
        if tokenizer is None and (folder / name).exists():
            raise ValueError(
                f"{folder / name}: is a SentencePiece model, and only byte-level BPE is supported: "
                f"there must be a {model_directory.TOKENIZER} of it"
            )
    return tokenizer


def export_model(
    directory: StrPath,
    to: str,
    out: StrPath,
    dtype: str = "float32",
    force: bool = False,
    progress: Progress | None = None,
) -> list[str]:
    """Write a model in the format of another program.

    Parameters
    ----------
    directory : path
        Model directory to read, of the GPT-2 or the Llama family.
    to : str
        ``hf`` for a directory that transformers reads, ``gguf`` for a file that llama.cpp reads.
    out : path
        Directory or file to write.
    dtype : str
        Type of the weights, one of `DTYPES`: float32, float16 or bfloat16, and for gguf also q8_0.
    force : bool
        Replace an existing file, or the model in a directory, whose other files stay.
    progress : callable, optional
        Called with the number of values written and the total.

    Returns
    -------
    list of str
        Remarks on everything that was not written as requested.

    Raises
    ------
    FileNotFoundError, ValueError
        The model does not exist or cannot be expressed in the other format, or `out` is in use. Nothing has been
        written.
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
        gguf.tokenizer_metadata(tokenizer, config.vocab_size)  # fails before a folder is made
        target.parent.mkdir(parents=True, exist_ok=True)
        short = gguf.write(target, model, tokenizer, dtype, origin.resolve().name, progress)
    return [f"{len(short)} tensors are F16: their row length is not a multiple of {gguf.BLOCK}"] if short else []


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
