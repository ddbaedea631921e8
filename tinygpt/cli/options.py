"""Options that several commands share."""

# No `from __future__ import annotations` here: annotations would become strings, whose names would be searched in the
# modules of the commands that inherit these fields.
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Parameter, Token

if TYPE_CHECKING:
    from tinygpt.sampling import Sampler


def thread_count(_: Any, tokens: Sequence[Token]) -> int | None:
    """Convert the value of ``--threads``: a number, or None for ``auto``."""
    text = tokens[0].value
    if text == "auto":
        return None
    try:
        return int(text)
    except ValueError:
        raise ValueError(f"must be a number or auto, got '{text}'") from None


@dataclass(kw_only=True)
class Compute:
    """Kernels and threads of a command that computes."""

    kernels: Annotated[str | None, Parameter(group="Computing")] = None
    """Rung of the kernels, for all ops or by op, as in blocked or blocked,softmax=naive. Default: the fastest."""
    threads: Annotated[int | None, Parameter(group="Computing", converter=thread_count)] = None
    """Number of threads, or auto (default): all available cores, fewer while other programs are busy."""

    def apply(self) -> None:
        """Switch to the kernels and threads that the flags name."""
        from tinygpt.kernels import registry

        registry.use_text(self.kernels or "")
        use_threads(self.threads, getattr(self, "quiet", False))


@dataclass(kw_only=True)
class Sampling(Compute):
    """Sampling of the next token."""

    temp: Annotated[float, Parameter(alias="--temperature", group="Sampling")] = 0.8
    """Temperature: higher is more varied; 0 always takes the most likely token."""
    topk: Annotated[int | None, Parameter(alias="--top-k", group="Sampling")] = None
    """Sample among the K most likely tokens; 0 means all. Default: all."""
    topp: Annotated[float | None, Parameter(alias="--top-p", group="Sampling")] = None
    """Sample among the fewest most likely tokens whose probabilities sum to P. Default: all."""
    min_p: Annotated[float | None, Parameter(group="Sampling")] = None
    """Sample among tokens at least P times as probable as the most likely one. Default: all."""
    repetition_penalty: Annotated[float, Parameter(group="Sampling")] = 1.0
    """Divide positive logits of tokens in the context by this and multiply negative ones; 1 means off."""
    presence_penalty: Annotated[float, Parameter(group="Sampling")] = 0.0
    """Subtract this from the logit of every token in the context; 0 means off."""
    frequency_penalty: Annotated[float, Parameter(group="Sampling")] = 0.0
    """Subtract this from a token's logit for each time that it is in the context; 0 means off."""
    seed: Annotated[int | None, Parameter(group="Sampling")] = None
    """Random seed; the same seed gives the same text. Default: drawn at random and printed."""

    def validate_sampling(self) -> None:
        """Raise ValueError for a value out of range."""
        from tinygpt.sampling import SamplingSettings

        SamplingSettings(**self._settings())
        if self.seed is not None and self.seed < 0:
            raise ValueError(f"--seed must be 0 or more, got {self.seed}")

    def sampler(self, seed: int, rows: int | Sequence[int] = 1) -> "Sampler":
        """Make the sampler of a batch; `rows` is the number of rows, or a list of their numbers."""
        from tinygpt.sampling import Sampler

        return Sampler(seed=seed, batch=rows, **self._settings())

    def _settings(self) -> dict[str, Any]:
        """Return the arguments of `SamplingSettings`."""
        return {
            "temperature": self.temp,
            "top_k": self.topk,
            "top_p": self.topp,
            "min_p": self.min_p,
            "repetition_penalty": self.repetition_penalty,
            "presence_penalty": self.presence_penalty,
            "frequency_penalty": self.frequency_penalty,
        }


def use_threads(n: int | None, quiet: bool = False) -> None:
    """Set the number of threads, None meaning auto, with a remark if the machine has fewer cores."""
    from tinygpt.kernels import threads

    threads.set_num_threads(threads.AUTO if n is None else n)
    if n is None:
        return
    cores = min(threads.limits().values())
    if n > cores and not quiet:
        note(f"--threads {n} is more than the {cores} available cores, so threads will share cores")


def note(text: str) -> None:
    """Print a remark to standard error."""
    print(f"{'note':<10}{text}", file=sys.stderr)


def load_model(directory: str, weights: str = "float32"):
    """Load the model and the tokenizer of a directory.

    Parameters
    ----------
    directory : str
    weights : str
        The value of --weights.

    Raises
    ------
    ValueError
        The directory does not exist or has no tokenizer, or `weights` is unknown.
    """
    from tinygpt.files import model_directory
    from tinygpt.packed import KINDS

    if weights not in KINDS:
        raise ValueError(f"--weights must be {', '.join(KINDS[:-1])} or {KINDS[-1]}, got {weights}")
    require_model(directory)
    model, tokenizer = model_directory.load(directory, weights)
    if tokenizer is None:
        raise ValueError(f"{directory}: there is no tokenizer.json, so text cannot be turned into tokens")
    return model, tokenizer


def require_model(path: str) -> None:
    """Raise ValueError, which says what to do, if `path` does not exist."""
    if not Path(path).exists():
        raise ValueError(f"{path}: no such directory; train a model with 'tinygpt train' or name another with --model")


def text_of(options: Any, name: str) -> str:
    """Return the text of flag --NAME, or of the file of --NAME-file; --prompt - reads standard input."""
    text, file = getattr(options, name), getattr(options, f"{name}_file")
    source = file or ("standard input" if name == "prompt" and text == "-" else f"--{name}")
    try:
        if file is not None:
            return Path(file).read_text(encoding="utf-8")
        text = sys.stdin.read() if source == "standard input" else text or ""
        text.encode()  # Python passes bytes that are not UTF-8 as lone surrogates, which fail here
        return text
    except UnicodeError as error:
        raise ValueError(f"{source}: not UTF-8: {getattr(error, 'reason', error)}") from None


def some_prompt(options: Any) -> str:
    """Return the text of --prompt or --prompt-file; ValueError if it is missing or empty."""
    if options.prompt is not None and options.prompt_file is not None:
        raise ValueError("--prompt and --prompt-file cannot both be given")
    prompt = text_of(options, "prompt")
    if not prompt:
        file = options.prompt_file
        raise ValueError("--prompt must not be empty" if file is None else f"--prompt-file {file}: is empty")
    return prompt
