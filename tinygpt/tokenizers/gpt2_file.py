"""The two files of GPT-2's tokenizer: token to id as JSON, and one merge per line of text.

They are called encoder.json and vocab.bpe, or vocab.json and merges.txt in a Hugging Face directory. Neither says how
a text is split: that is known of GPT-2 alone.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from tinygpt.io.strict import StrPath, decoded, naming, read_bytes, read_object, shown
from tinygpt.tokenizers import added, config_file, json_file
from tinygpt.tokenizers.added import AddedToken
from tinygpt.tokenizers.base import SEPARATOR
from tinygpt.tokenizers.bpe_file import assembled, read_merges
from tinygpt.tokenizers.bpe_parts import Names, Parts, to_letters
from tinygpt.tokenizers.config_file import Beside

VOCAB, MERGES = "vocab.json", "merges.txt"
KINDS = (None, "GPT2Tokenizer", "GPT2TokenizerFast")


def in_folder(folder: Path) -> bool:
    """Tell whether a directory has both files under their Hugging Face names."""
    return (folder / VOCAB).exists() and (folder / MERGES).exists()


def read_folder(folder: Path) -> Parts:
    """Read both files of a directory, with the files beside them.

    Raises
    ------
    FileNotFoundError, ValueError
        See `BPETokenizer.from_gpt2`; or another class of tokenizer is named, whose way to split a text is not known.
    """
    beside = config_file.read(folder)
    if beside.kind not in KINDS:
        raise ValueError(
            f"{folder / config_file.NAME}: 'tokenizer_class' must be 'GPT2Tokenizer' for {VOCAB} and {MERGES}, "
            f"got {shown(beside.kind)}: save it with transformers as {json_file.NAME}"
        )
    if beside.ends:
        raise ValueError(f"{folder / config_file.NAME}: 'add_eos_token' must be false, got true")
    given = beside.roles
    known = {role: getattr(given, role) or SEPARATOR for role in ("bos_token", "eos_token", "unk_token")}
    parts = read(folder / VOCAB, folder / MERGES, replace(beside, roles=given.with_names(known)))
    return replace(parts, first=parts.roles.bos_token) if beside.begins else parts


def read(encoder_json: StrPath, vocab_bpe: StrPath, beside: Beside = Beside()) -> Parts:  # noqa: B008
    """Read the parts in GPT-2's two files; see `BPETokenizer.from_gpt2`."""
    vocab_file, merges_file = Path(encoder_json), Path(vocab_bpe)
    written = read_object(vocab_file, json_file.MAX_BYTES)
    lines = _lines(merges_file)
    first = 1
    if lines and lines[0].startswith("#version"):
        lines, first = lines[1:], 2
    names = Names(f"{vocab_file}: the vocabulary", f"{merges_file}: line", first, f"{vocab_file}: the vocabulary")
    merges = read_merges(lines, names.merges, str(merges_file), first)
    with naming(vocab_file):
        if SEPARATOR not in written and beside.roles.eos_token in (None, SEPARATOR):
            raise ValueError(f"the vocabulary must have the separator '{SEPARATOR}'")
        separator = [AddedToken(SEPARATOR, written[SEPARATOR])] if SEPARATOR in written else []
        tokens = added.gather(separator, beside.tokens, written)
        plain = Names("the vocabulary", names.merges, first, "the vocabulary")
        parts = assembled(written, merges, tokens, "gpt2", beside, False, plain)
    parts = replace(parts, names=names)
    parts.check()
    made = {left + right for left, right in merges}
    for token in parts.vocab:
        if len(token) > 1 and token not in made:  # a list that was cut off at the end of a line
            raise ValueError(f"{merges_file}: no line makes {shown(to_letters(token))}, a token of {vocab_file.name}")
    return parts


def _lines(file: Path) -> list[str]:
    """Read the lines of a text file, without empty ones at its end; only a line feed ends a line."""
    data = read_bytes(file, json_file.MAX_BYTES)
    with naming(file):
        return decoded(data).replace("\r\n", "\n").rstrip("\n").split("\n")
