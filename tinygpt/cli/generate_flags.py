"""Flags of `tinygpt generate`, and checks of their values."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Annotated

from cyclopts import Parameter

from tinygpt.cli.options import Sampling

ESCAPES = {"n": "\n", "t": "\t", "r": "\r", "\\": "\\"}
# Groups of flags that name the text to continue; only one group can be used.
SOURCES = (("prompt",), ("prompt_file",), ("prompts",), ("prefix", "prefix_file", "suffix", "suffix_file"))


@dataclass(kw_only=True)
class GenerateOptions(Sampling):
    """Flags of `tinygpt generate`, one field each."""

    model: str = "runs/tiny"
    """Model directory."""
    weights: str = "float32"
    """Type of the weights in memory: float32, or bfloat16 or int8, which are rounded, smaller and faster."""
    prompt: Annotated[str | None, Parameter(allow_leading_hyphen=True)] = None
    """Text to continue; - reads standard input. Default: start a new document."""
    prompt_file: str | None = None
    """File with the text to continue."""
    prompts: str | None = None
    """File with many texts to continue, one per line; in a .jsonl file, lines such as {"prompt": "def "}."""
    prefix: Annotated[str | None, Parameter(allow_leading_hyphen=True)] = None
    """Text before a gap that the model fills; needs a model trained with --fim-rate."""
    prefix_file: str | None = None
    """File with the text before the gap."""
    suffix: Annotated[str | None, Parameter(allow_leading_hyphen=True)] = None
    """Text after the gap."""
    suffix_file: str | None = None
    """File with the text after the gap."""
    whole: bool = False
    """Print prefix, filled gap and suffix instead of the filled gap alone."""
    length: int = 200
    """Maximum number of tokens to sample per text; a text ends earlier if the model ends the document."""
    stop: list[str] | None = None
    r"""Strings that end a text; they are not printed. \n, \t, \r, \xHH, \uHHHH and \\ are escapes."""
    num_samples: int = 1
    """Number of texts per prompt, sampled in one batch and printed one after the other."""
    logprobs: int | None = None
    """Print a table instead: each token with its log-probability and the N most likely alternatives."""
    json: bool = False
    """Print one JSON object per text and line: prompt, text, seed and, with --logprobs, tokens."""
    quiet: bool = False
    """Print the text alone, without remarks, seed and speed."""

    def validate(self) -> None:
        """Raise ValueError, naming the flag, for a value out of range."""
        for name in ("length", "logprobs"):
            value = getattr(self, name)
            if value is not None and value < 0:
                raise ValueError(f"--{name} must be 0 or more, got {value}")
        self.validate_sampling()
        if self.num_samples < 1:
            raise ValueError(f"--num-samples must be at least 1, got {self.num_samples}")
        given = [names for names in SOURCES if any(getattr(self, name) is not None for name in names)]
        exclusive = [given[:2]] if len(given) > 1 else [((side,), (f"{side}_file",)) for side in ("prefix", "suffix")]
        for first, second in exclusive:
            a, b = (next((n for n in names if getattr(self, n) is not None), None) for names in (first, second))
            if a and b:
                raise ValueError(f"{_flag(a)} and {_flag(b)} cannot both be given")
        if self.whole and not self.fills_a_gap:
            raise ValueError("--whole needs --prefix or --suffix")
        if self.whole and self.logprobs is not None and not self.json:
            raise ValueError("--whole and --logprobs cannot both be given without --json")
        self.stops()

    @property
    def fills_a_gap(self) -> bool:
        """True if a text before or after a gap is given."""
        return any(getattr(self, name) is not None for name in SOURCES[-1])

    def stops(self) -> list[str]:
        """Return the stop strings with their escapes replaced."""
        strings = [unescaped(text) for text in self.stop or []]
        if self.stop == [] or "" in strings:
            raise ValueError("--stop must not be empty")
        return strings


def unescaped(text: str) -> str:
    r"""Replace the escapes \n, \t, \r, \xHH, \uHHHH and \\ in a text.

    Raises
    ------
    ValueError
        A backslash begins none of these escapes, or a code is a lone surrogate.
    """

    def replaced(found: re.Match[str]) -> str:
        code = found[1] or found[2]
        if code is None and found[3] not in ESCAPES:
            raise ValueError(f"--stop {text}: {found[0]} is not an escape; write \\\\ for a backslash")
        return chr(int(code, 16)) if code else ESCAPES[found[3]]

    made = re.sub(r"\\(?:x([0-9a-fA-F]{2})|u([0-9a-fA-F]{4})|(.?))", replaced, text, flags=re.DOTALL)
    try:
        made.encode()
    except UnicodeError:
        raise ValueError(f"--stop {text.encode(errors='backslashreplace').decode()}: not UTF-8") from None
    return made


def _flag(name: str) -> str:
    """Return the flag of a field."""
    return "--" + name.replace("_", "-")
