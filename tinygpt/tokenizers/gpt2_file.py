"""The two files that GPT-2 came with: tokens with their ids as JSON, and a merge in each line of a text."""

from __future__ import annotations

from pathlib import Path

from tinygpt.io.strict import StrPath, naming, read_object, require_file, shown
from tinygpt.tokenizers import json_file
from tinygpt.tokenizers.base import SEPARATOR
from tinygpt.tokenizers.bpe_file import read_merges, read_tokens, without
from tinygpt.tokenizers.bpe_parts import Names, Parts, to_letters


def read(encoder_json: StrPath, vocab_bpe: StrPath) -> Parts:
    """The parts in GPT-2's two files; see `BPETokenizer.from_gpt2`."""
    vocab_file, merges_file = Path(encoder_json), Path(vocab_bpe)
    written = read_object(vocab_file, json_file.MAX_BYTES)
    lines = _lines(merges_file)
    first = 1
    if lines and lines[0].startswith("#version"):
        lines, first = lines[1:], 2
    with naming(vocab_file):
        vocab = read_tokens(without(written, [SEPARATOR]), "the vocabulary")
        if SEPARATOR not in written:
            raise ValueError(f"the vocabulary must have the separator '{SEPARATOR}'")
    names = Names(f"{vocab_file}: the vocabulary", f"{merges_file}: line", first, f"{vocab_file}: the vocabulary")
    merges = read_merges(lines, names.merges, str(merges_file), first)
    parts = Parts(vocab, merges, {SEPARATOR: written[SEPARATOR]}, "gpt2", names=names)
    parts.check()
    made = {left + right for left, right in merges}
    for token in vocab:
        if len(token) > 1 and token not in made:  # a list that was cut off at the end of a line
            raise ValueError(f"{merges_file}: no line makes {shown(to_letters(token))}, a token of {vocab_file.name}")
    return parts


def _lines(file: Path) -> list[str]:
    """The lines of a text file without empty ones at its end; other characters than a line feed do not end one."""
    require_file(file)
    with naming(file):
        with open(file, "rb") as stream:
            data = stream.read(json_file.MAX_BYTES + 1)
        if len(data) > json_file.MAX_BYTES:
            raise ValueError(f"must be at most {json_file.MAX_BYTES} bytes long, got {file.stat().st_size}")
        try:
            return data.decode("utf-8").replace("\r\n", "\n").rstrip("\n").split("\n")
        except UnicodeDecodeError as error:
            raise ValueError(f"must be UTF-8, got byte 0x{data[error.start]:02X} at {error.start}") from None
