"""How well a model predicts a text: loss, perplexity, bits per byte, for all of it, each file, each token.

Every token but the first is predicted once, from the tokens that stand before it in its window. Windows lie side by
side, or overlap: then a prediction never has little to go by, and the work grows by window / stride.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt

from tinygpt import kernels, ops
from tinygpt.data.corpus import encode_documents
from tinygpt.data.discover import Document
from tinygpt.data.windows import StridedWindows
from tinygpt.kernels.adaptive import Adaptive
from tinygpt.model import GPT
from tinygpt.tensor import Tensor, no_grad
from tinygpt.tokenizers.base import Tokenizer

BATCH_TOKENS = 8192  # that go through the model at a time
LOGIT_BYTES = 64 * 2**20  # of logits that exist at a time
LONGEST_WINDOW = 2048  # unless more is asked for

Losses = npt.NDArray[np.float32]
Places = npt.NDArray[np.int64]
Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class Score:
    """The result of an evaluation.

    Attributes
    ----------
    loss : float
        Mean over the predicted tokens, in nats.
    tokens : int
        Predicted tokens.
    bytes_per_token : float
        Of the text that was evaluated.
    """

    loss: float
    tokens: int
    bytes_per_token: float

    @property
    def perplexity(self) -> float:
        """exp(loss): the number of equally likely tokens that would be as hard to predict."""
        return math.exp(min(self.loss, 700))

    @property
    def bits_per_byte(self) -> float:
        """Loss per byte of text, in bits: comparable between tokenizers."""
        return self.loss / math.log(2) / self.bytes_per_token


@dataclass(frozen=True, eq=False)
class TokenText:
    """Documents as a model reads them, one after the other.

    Attributes
    ----------
    tokens : int32 array, shape (N,)
        As training lays them: the separator between two documents. Where a tokenizer has a token that documents must
        begin with, it stands before each.
    names : list of str
        Of the documents.
    sizes : list of int
        Of the documents, in bytes of UTF-8.
    eot_id : int
        The separator.
    lead : int
        Tokens before the text that stand for nothing of it: 1 or 0.
    """

    tokens: npt.NDArray[np.int32]
    names: list[str]
    sizes: list[int]
    eot_id: int
    lead: int = 0

    @classmethod
    def encode(cls, documents: Sequence[Document], tokenizer: Tokenizer) -> TokenText:
        """Turn documents into tokens.

        Raises
        ------
        TypeError, ValueError
            As `Tokenizer.encode`.
        """
        tokens, _ = encode_documents(documents, tokenizer)
        lead = int(tokenizer.bos_id is not None)
        if tokenizer.bos_id is not None:
            starts = [0]
            if tokenizer.bos_id != tokenizer.eot_id:  # else the separator is the beginning of the next already
                starts += (np.flatnonzero(tokens == tokenizer.eot_id) + 1).tolist()
            tokens = np.insert(tokens, starts, tokenizer.bos_id)
        names, sizes = [one.path for one in documents], [len(one.text.encode()) for one in documents]
        return cls(tokens.astype(np.int32, copy=False), names, sizes, tokenizer.eot_id, lead)

    @property
    def n_bytes(self) -> int:
        """Of all documents."""
        return sum(self.sizes)

    @cached_property
    def document(self) -> npt.NDArray[np.int64]:
        """Which document each token belongs to, shape (N,): a separator to the one that it ends."""
        ends = self.tokens[:-1] == self.eot_id
        ends[: self.lead] = False  # what begins a text ends nothing, though it may be the same token
        return np.concatenate([[0], np.cumsum(ends)])


def usual_window(model: GPT) -> int:
    """The window of an evaluation that asks for none: the context, or LONGEST_WINDOW where that is less."""
    return min(model.config.block_size, LONGEST_WINDOW)


def evaluate(
    model: GPT,
    tokens: np.ndarray,
    n_bytes: int,
    max_tokens: int | None = None,
    progress: Progress | None = None,
    window: int | None = None,
    stride: int | None = None,
    lead: int = 0,
) -> Score:
    """Let a model predict every token of a text from those before it.

    Parameters
    ----------
    model : GPT
    tokens : int array, shape (N,)
        At least two.
    n_bytes : int
        Length of the text in UTF-8.
    max_tokens : int, optional
        Evaluate about so many, in windows spread evenly over the text: always the same ones.
    progress : callable, optional
        Is told (windows done, windows in all).
    window : int, optional
        How many tokens a prediction may look back over; by default the context of the model.
    stride : int, optional
        From one window to the next; by default a whole window.
    lead : int
        Tokens at the beginning that stand for no text.

    Returns
    -------
    Score

    Raises
    ------
    ValueError
        Less than two tokens, or a window or stride out of range.
    """
    losses, _ = _some_losses(model, tokens, window, stride, max_tokens, progress)
    return _score(losses, n_bytes / max(1, len(tokens) - lead))


def evaluate_files(
    model: GPT,
    text: TokenText,
    max_tokens: int | None = None,
    progress: Progress | None = None,
    window: int | None = None,
    stride: int | None = None,
) -> tuple[Score, list[tuple[str, Score]]]:
    """`evaluate`, and the same predictions by document.

    Parameters
    ----------
    model : GPT
    text : TokenText
    max_tokens, progress, window, stride
        As in `evaluate`.

    Returns
    -------
    total : Score
        What `evaluate` returns.
    files : list of (name, Score)
        The largest bits per byte first. Those of which no token was predicted are left out.
    """
    losses, places = _some_losses(model, text.tokens, window, stride, max_tokens, progress)
    of = text.document
    lengths = np.bincount(of, minlength=len(text.names))
    lengths[0] -= text.lead
    owners = of[places]
    order = np.argsort(owners, kind="stable")
    counts = np.bincount(owners, minlength=len(text.names))
    pieces = np.split(losses[order], np.cumsum(counts)[:-1])
    files = [
        (name, _score(piece, size / max(1, int(length))))
        for name, size, length, piece in zip(text.names, text.sizes, lengths, pieces, strict=True)
        if piece.size
    ]
    total = _score(losses, text.n_bytes / max(1, len(text.tokens) - text.lead))
    return total, sorted(files, key=lambda file: (-file[1].bits_per_byte, file[0]))


def score_tokens(
    model: GPT,
    tokens: np.ndarray,
    window: int | None = None,
    stride: int | None = None,
    progress: Progress | None = None,
) -> Losses:
    """How much each token surprises a model.

    Parameters
    ----------
    model, tokens, window, stride, progress
        As in `evaluate`.

    Returns
    -------
    array, shape (N - 1,), float32
        Loss of tokens[1:], in nats.
    """
    losses, places = _some_losses(model, tokens, window, stride, None, progress)
    found = np.empty(len(tokens) - 1, np.float32)
    found[places - 1] = losses
    return found


def model_windows(
    model: GPT, tokens: np.ndarray, window: int | None = None, stride: int | None = None
) -> StridedWindows:
    """The windows that a text is predicted in.

    Raises
    ------
    ValueError
        As `evaluate`.
    """
    context = model.config.block_size
    length = context if window is None else window
    if not 1 <= length <= context:
        raise ValueError(f"[evaluate] 'window' must be in 1..{context}, the context of the model, got {window}")
    if stride is not None and not 1 <= stride <= length:
        raise ValueError(f"[evaluate] 'stride' must be in 1..{length}, the window, got {stride}")
    return StridedWindows(tokens, length, stride)


def row_losses(logits: np.ndarray, targets: np.ndarray) -> Losses:
    """Loss of each row of logits (R, V), in nats; targets (R,) are not negative."""
    return kernels.cross_entropy(np.ascontiguousarray(logits), np.ascontiguousarray(targets, np.int32))


def chunks(n: int, vocab_size: int) -> list[slice]:
    """0 ... n - 1 in pieces whose logits fit LOGIT_BYTES."""
    step = max(1, LOGIT_BYTES // (4 * vocab_size))
    return [slice(start, min(start + step, n)) for start in range(0, n, step)]


def head_logits(model: GPT, hidden: np.ndarray) -> np.ndarray:
    """Logits (R, V) of rows (R, C) of what the head sees."""
    with no_grad():
        return ops.linear(Tensor(np.ascontiguousarray(hidden)), model.head.weight).data


def _some_losses(
    model: GPT,
    tokens: np.ndarray,
    window: int | None,
    stride: int | None,
    max_tokens: int | None,
    progress: Progress | None,
) -> tuple[Losses, Places]:
    """Losses of all tokens, or of about `max_tokens`, and where they stand; both of shape (M,)."""
    windows = model_windows(model, tokens, window, stride)
    numbers = np.arange(windows.n_windows)
    if max_tokens is not None and windows.n_windows * windows.stride > max_tokens:
        count = max(1, max_tokens // windows.stride)
        numbers = np.linspace(0, windows.n_windows - 1, count).astype(np.int64)
    losses, places, batch = [], [], max(1, BATCH_TOKENS // windows.width)
    with Adaptive() as threads:
        for start in range(0, len(numbers), batch):
            inputs, targets, at = windows.batch(numbers[start : start + batch])
            counted = targets >= 0
            with no_grad(), threads.step():
                hidden = model.hidden(inputs).data[counted]
            wanted = targets[counted]
            for part in chunks(len(hidden), model.config.vocab_size):
                losses.append(row_losses(head_logits(model, hidden[part]), wanted[part]))
            places.append(at[counted])
            if progress is not None:
                progress(min(start + batch, len(numbers)), len(numbers))
    return np.concatenate(losses), np.concatenate(places)


def _score(losses: Losses, bytes_per_token: float) -> Score:
    return Score(float(losses.mean(dtype=np.float64)), len(losses), bytes_per_token)
