"""Evaluation of a model on a text: loss, perplexity and bits per byte in total, per file and per token.

Every token except the first is predicted exactly once, from the tokens before it in its window. By default windows do
not overlap, so that the first predictions of each window have little context. With a stride smaller than the window
they overlap: every prediction has more context, and the work grows by window / stride.
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

BATCH_TOKENS = 8192  # tokens in one batch
LOGIT_BYTES = 64 * 2**20  # limit of the memory for logits
LONGEST_WINDOW = 2048  # tokens; limit of the default window, because attention costs grow with its square

Losses = npt.NDArray[np.float32]
Places = npt.NDArray[np.int64]
Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class Score:
    """Result of an evaluation.

    Attributes
    ----------
    loss : float
        Mean loss of the predicted tokens, in nats.
    tokens : int
        Number of predicted tokens.
    bytes_per_token : float
        Mean length of a token of the text, in bytes of UTF-8.
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
    """Documents encoded as one sequence of tokens, in the same form as in training.

    Attributes
    ----------
    tokens : int32 array, shape (N,)
        All documents, with a separator between two of them. If the tokenizer has a BOS token, each document begins
        with it.
    names : list of str
        Names of the documents.
    sizes : list of int
        Sizes of the documents, in bytes of UTF-8.
    eot_id : int
        Id of the separator.
    lead : int
        Number of tokens before the text of the first document: 1 if there is a BOS token, else 0.
    """

    tokens: npt.NDArray[np.int32]
    names: list[str]
    sizes: list[int]
    eot_id: int
    lead: int = 0

    @classmethod
    def encode(cls, documents: Sequence[Document], tokenizer: Tokenizer) -> TokenText:
        """Encode documents.

        Raises
        ------
        TypeError, ValueError
            See `Tokenizer.encode`.
        """
        tokens, _ = encode_documents(documents, tokenizer)
        lead = int(tokenizer.bos_id is not None)
        if tokenizer.bos_id is not None:
            starts = [0]
            if tokenizer.bos_id != tokenizer.eot_id:  # otherwise the separator already begins the next one
                starts += (np.flatnonzero(tokens == tokenizer.eot_id) + 1).tolist()
            tokens = np.insert(tokens, starts, tokenizer.bos_id)
        names, sizes = [one.path for one in documents], [len(one.text.encode()) for one in documents]
        return cls(tokens.astype(np.int32, copy=False), names, sizes, tokenizer.eot_id, lead)

    @property
    def n_bytes(self) -> int:
        """Size of all documents, in bytes of UTF-8."""
        return sum(self.sizes)

    @cached_property
    def spans(self) -> list[slice]:
        """The tokens of each document, with the separator after it and the token that predicts its first one.

        The latter is the BOS token; without one it is the separator of the document before, as in training.
        """
        ends = np.flatnonzero(self.tokens == self.eot_id) + 1
        ends = ends[ends > self.lead]  # a BOS token does not end a document, even if it is the separator
        stops = [*ends.tolist(), len(self.tokens)][: len(self.names)]
        starts = [0, *stops[:-1]]
        begun = [bool(self.lead) and self.tokens[start] == self.tokens[0] for start in starts]
        return [slice(max(0, start - (not own)), stop) for start, stop, own in zip(starts, stops, begun, strict=True)]


def usual_window(model: GPT) -> int:
    """Return the default window of an evaluation: the context of the model, at most LONGEST_WINDOW."""
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
    """Compute the loss of a model on a text, predicting each token from the ones before it.

    Parameters
    ----------
    model : GPT
    tokens : int array, shape (N,)
        The text; at least two tokens.
    n_bytes : int
        Length of the text, in bytes of UTF-8.
    max_tokens : int, optional
        Evaluate about this many tokens, in windows spread evenly over the text; every call uses the same ones. None:
        all tokens.
    progress : callable, optional
        Called with (windows done, windows in total).
    window : int, optional
        Longest context of a prediction, in tokens. None: the context of the model.
    stride : int, optional
        Tokens from the start of one window to the next. None: a whole window.
    lead : int
        Number of tokens at the beginning that are not part of the text, such as a BOS token.

    Returns
    -------
    Score

    Raises
    ------
    ValueError
        There are fewer than two tokens, or a window or stride is out of range.
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
    """Compute the loss of a model on each document separately; no prediction sees tokens of another document.

    Parameters
    ----------
    model : GPT
    text : TokenText
    max_tokens, progress, window, stride
        See `evaluate`. With `max_tokens`, windows are spread evenly over all documents.

    Returns
    -------
    total : Score
        Score of all these predictions together. It differs from the score of `evaluate`, whose windows cross from one
        document into the next.
    files : list of (name, Score)
        Score of each document with a predicted token, the largest bits per byte first.
    """
    parts = [text.tokens[span] for span in text.spans]
    windows = [model_windows(model, part, window, stride) if len(part) > 1 else None for part in parts]
    offsets = np.cumsum([0, *(0 if one is None else one.n_windows for one in windows)])
    numbers = _spread(int(offsets[-1]), window_size(model, window, stride)[1], max_tokens)
    found: list[tuple[str, Losses, float]] = []
    done = 0
    for i, (one, offset) in enumerate(zip(windows, offsets[:-1], strict=True)):
        mine = numbers[(numbers >= offset) & (numbers < offsets[i + 1])] - offset
        if one is None or not mine.size:
            continue
        losses, _ = _losses(model, one, mine)
        own = len(parts[i]) - (i > 0 or text.lead > 0)  # without the token before the text
        found.append((text.names[i], losses, text.sizes[i] / own))
        done += mine.size
        if progress is not None:
            progress(done, len(numbers))
    total = np.concatenate([losses for _, losses, _ in found])
    each = text.n_bytes / max(1, len(text.tokens) - text.lead)
    files = [(name, _score(losses, bytes_per_token)) for name, losses, bytes_per_token in found]
    return _score(total, each), sorted(files, key=lambda file: (-file[1].bits_per_byte, file[0]))


def score_tokens(
    model: GPT,
    tokens: np.ndarray,
    window: int | None = None,
    stride: int | None = None,
    progress: Progress | None = None,
) -> Losses:
    """Compute the loss of each token.

    Parameters
    ----------
    model, tokens, window, stride, progress
        See `evaluate`.

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
    """Cut a text into the windows of an evaluation.

    Raises
    ------
    ValueError
        Window or stride is out of range, or there are fewer than two tokens.
    """
    length, step = window_size(model, window, stride)
    return StridedWindows(tokens, length, step)


def window_size(model: GPT, window: int | None = None, stride: int | None = None) -> tuple[int, int]:
    """Return window and stride; None means the context of the model, and a whole window.

    Raises
    ------
    ValueError
        Window or stride is out of range.
    """
    context = model.config.block_size
    length = context if window is None else window
    if not 1 <= length <= context:
        raise ValueError(f"[evaluate] 'window' must be in 1..{context}, the context of the model, got {window}")
    if stride is not None and not 1 <= stride <= length:
        raise ValueError(f"[evaluate] 'stride' must be in 1..{length}, the window, got {stride}")
    return length, length if stride is None else stride


def row_losses(logits: np.ndarray, targets: np.ndarray) -> Losses:
    """Return the loss of each row of logits (R, V), in nats; targets (R,) must not be negative."""
    return kernels.cross_entropy(np.ascontiguousarray(logits), np.ascontiguousarray(targets, np.int32))


def chunks(n: int, vocab_size: int) -> list[slice]:
    """Split the rows 0..n-1 into slices whose logits take at most LOGIT_BYTES."""
    step = max(1, LOGIT_BYTES // (4 * vocab_size))
    return [slice(start, min(start + step, n)) for start in range(0, n, step)]


def head_logits(model: GPT, hidden: np.ndarray) -> np.ndarray:
    """Compute the logits (R, V) of rows (R, C) of the final norm's output."""
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
    """Compute the losses of all tokens, or of about `max_tokens`, and the indices of these tokens; both (M,)."""
    windows = model_windows(model, tokens, window, stride)
    return _losses(model, windows, _spread(windows.n_windows, windows.stride, max_tokens), progress)


def _spread(n_windows: int, stride: int, max_tokens: int | None) -> Places:
    """Choose windows: all of them, or an evenly spread part that predicts about `max_tokens` tokens."""
    if max_tokens is None or n_windows * stride <= max_tokens:
        return np.arange(n_windows)
    return np.linspace(0, n_windows - 1, max(1, max_tokens // stride)).astype(np.int64)


def _losses(
    model: GPT, windows: StridedWindows, numbers: Places, progress: Progress | None = None
) -> tuple[Losses, Places]:
    """Compute the losses of the targets in some windows, and the indices of these targets among the tokens."""
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
