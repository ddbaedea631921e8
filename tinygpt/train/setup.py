"""From settings to everything a run needs: corpus, tokenizer, model, optimizer, schedule."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass

from tinygpt import optim
from tinygpt.data.corpus import Corpus, split
from tinygpt.data.discover import discover
from tinygpt.data.rules import EXTENSIONS, parse_extensions
from tinygpt.data.windows import Windows
from tinygpt.kernels import isa, registry, threads
from tinygpt.kernels.peak import peak_flops
from tinygpt.model import GPT
from tinygpt.tokenizers import BPETokenizer, CharTokenizer
from tinygpt.tokenizers.base import Tokenizer
from tinygpt.train.report import Report
from tinygpt.train.settings import TrainSettings


@dataclass
class Run:
    """What the training loop works on."""

    settings: TrainSettings
    corpus: Corpus
    tokenizer: Tokenizer
    model: GPT
    optimizer: optim.Optimizer
    schedule: optim.Schedule
    windows: Windows
    total_steps: int
    peak: float  # FLOP/s that this machine can do

    @property
    def sequences_per_step(self) -> int:
        """Sequences that go into one optimizer step."""
        return self.settings.batch * self.settings.grad_accum

    def fingerprint(self) -> str:
        """A hash of the training tokens: a run that goes on must find the same ones."""
        return hashlib.sha256(self.corpus.train.tobytes()).hexdigest()[:16]


def prepare(settings: TrainSettings, report: Report, tokenizer: Tokenizer | None = None) -> Run:
    """Read the sources, train the tokenizer, build the model.

    Parameters
    ----------
    settings : TrainSettings
        Valid ones.
    report : Report
        Is told what was found.
    tokenizer : Tokenizer, optional
        That of a run that goes on; otherwise one is trained on the training part.

    Returns
    -------
    Run

    Raises
    ------
    ValueError, FileNotFoundError
        Nothing to read, or too little.
    """
    extensions = parse_extensions(settings.ext) if settings.ext else EXTENSIONS
    documents, summary = discover(settings.data, extensions)
    report.fact("source", summary.describe())
    parts = split(documents, settings.seed, settings.held_out)
    if tokenizer is None:
        tokenizer = _tokenizer(settings, (document.text for document in parts.train), report)
    corpus = Corpus.encode(parts, tokenizer, settings.seq)
    held = f"{_count(corpus.held_out_files, 'file')}, " if len(documents) > 1 else ""
    report.fact(
        "tokens",
        f"{len(corpus.train):,} to learn from, vocabulary {tokenizer.vocab_size}   "
        f"held out: {held}{len(corpus.held_out):,} tokens",
    )
    model = GPT(settings.model_config(tokenizer.vocab_size), settings.seed)
    model.recompute = settings.recompute
    report.fact(
        "model",
        f"{_count(settings.layers, 'layer')}, {settings.embed} wide, {_count(settings.heads, 'head')}, "
        f"context {settings.seq}: "
        f"{model.num_parameters():,} parameters",
    )
    windows = Windows(corpus.train, settings.seq, settings.seed)
    peak = _machine(report)
    total = settings.steps
    if settings.epochs is not None:
        total = max(1, round(settings.epochs * windows.n_windows / (settings.batch * settings.grad_accum)))
    optimizer = _optimizer(settings, model)
    return Run(settings, corpus, tokenizer, model, optimizer, _schedule(settings, total), windows, total, peak)


def _tokenizer(settings: TrainSettings, texts: Iterable[str], report: Report) -> Tokenizer:
    """A tokenizer of the kind that is asked for, trained on `texts`."""
    if settings.tokenizer_type == "char":
        return CharTokenizer.train(texts, settings.max_chars)
    return BPETokenizer.train(texts, settings.vocab_size, settings.pattern, progress=report.merging)


def _machine(report: Report) -> float:
    n = threads.get_num_threads()
    peak = peak_flops(n)
    report.fact(
        "machine",
        f"{_count(n, 'thread')}, {isa.get()}, kernels {_kernels()}, float32 peak {peak / 1e9:.0f} GFLOP/s",
    )
    return peak


def _count(n: int, what: str) -> str:
    return f"{n} {what}{'s' * (n != 1)}"


def _kernels() -> str:
    """The rung that serves, with the ops that have another one, as in ``blocked, softmax=naive``."""
    now = registry.selection()
    others = {
        rung: [f"{op}={own}" for op, own in now.items() if own != registry.resolve(op, rung)]
        for rung in dict.fromkeys(now.values())
    }
    rung = min(others, key=lambda name: len(others[name]))
    return ", ".join([rung, *others[rung]])


def _optimizer(settings: TrainSettings, model: GPT) -> optim.Optimizer:
    parameters = model.parameters()
    if settings.optimizer == "sgd":
        return optim.SGD(parameters, settings.peak_lr, settings.momentum)
    if settings.optimizer == "adam":
        return optim.Adam(parameters, settings.peak_lr, settings.betas)
    return optim.AdamW(parameters, settings.peak_lr, settings.betas, weight_decay=settings.weight_decay)


def _schedule(settings: TrainSettings, total: int) -> optim.Schedule:
    final = settings.peak_lr / 10 if settings.min_lr is None else settings.min_lr
    warmup = min(settings.warmup, total // 10)
    if settings.schedule == "constant":
        return optim.constant(settings.peak_lr)
    shape = optim.cosine if settings.schedule == "cosine" else optim.linear
    return shape(settings.peak_lr, total, warmup, final)
