"""From settings to everything a run needs: corpus, tokenizer, model, optimizer, schedule."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from tinygpt import lora, optim
from tinygpt.data.corpus import Corpus, split
from tinygpt.data.discover import discover
from tinygpt.data.infilling import NAMES, Infilling
from tinygpt.data.rules import EXTENSIONS, parse_extensions
from tinygpt.data.windows import Windows
from tinygpt.kernels import isa, registry, threads
from tinygpt.kernels.peak import peak_flops
from tinygpt.model import GPT
from tinygpt.tokenizers import BPETokenizer, CharTokenizer
from tinygpt.tokenizers.base import Tokenizer
from tinygpt.train.report import Report
from tinygpt.train.settings import TrainSettings
from tinygpt.train.start import begin_from


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


def prepare(settings: TrainSettings, report: Report, resumed: Path | None = None) -> Run:
    """Read the sources, train the tokenizer, build the model; or read both.

    Parameters
    ----------
    settings : TrainSettings
        Valid ones.
    report : Report
        Is told what was found.
    resumed : Path, optional
        Checkpoint of a run that goes on.

    Returns
    -------
    Run

    Raises
    ------
    ValueError, FileNotFoundError
        Nothing to read, or too little.
    """
    start = begin_from(settings, resumed)
    settings, tokenizer = start.settings, start.tokenizer
    extensions = parse_extensions(settings.ext) if settings.ext else EXTENSIONS
    documents, summary = discover(settings.data, extensions)
    report.fact("source", summary.describe())
    parts = split(documents, settings.seed, settings.val_fraction)
    if tokenizer is None:
        tokenizer = _tokenizer(settings, (document.text for document in parts.train), report)
    corpus = Corpus.encode(parts, tokenizer, settings.length, _infilling(settings, tokenizer))
    held = f"{_count(corpus.validation_files, 'file')}, " if len(documents) > 1 else ""
    report.fact(
        "tokens",
        f"{len(corpus.train):,} for training, vocabulary {tokenizer.vocab_size}   "
        f"validation: {held}{len(corpus.validation):,} tokens",
    )
    model = start.model or GPT(settings.model_config(tokenizer.vocab_size), settings.seed)
    model.recompute = settings.recompute
    _tell_model(settings, model, report)
    windows = Windows(corpus.train, settings.length, settings.seed)
    peak = _machine(report)
    total = settings.steps
    if settings.epochs is not None:
        total = max(1, round(settings.epochs * windows.n_windows / (settings.batch * settings.grad_accum)))
    optimizer = _optimizer(settings, model)
    return Run(settings, corpus, tokenizer, model, optimizer, _schedule(settings, total), windows, total, peak)


def _tokenizer(settings: TrainSettings, texts: Iterable[str], report: Report) -> Tokenizer:
    """A tokenizer of the kind that is asked for, trained on `texts`."""
    special = NAMES if settings.fim_rate else ()
    if settings.tokenizer_type == "char":
        return CharTokenizer.train(texts, settings.max_chars, special)
    return BPETokenizer.train(texts, settings.vocab_size, settings.pattern, special, report.merging)


def _infilling(settings: TrainSettings, tokenizer: Tokenizer) -> Infilling | None:
    """What rewrites the training part, if that is asked for."""
    return Infilling(tokenizer, settings.fim_rate, settings.length, settings.seed) if settings.fim_rate else None


def _machine(report: Report) -> float:
    n = threads.get_num_threads()
    peak = peak_flops(n)
    report.fact(
        "machine",
        f"{_count(n, 'thread')}, {isa.get()}, kernels {_kernels()}, float32 peak {peak / 1e9:.0f} GFLOP/s"
        + (" (measured beside other programs: may be too low)" if peak.disturbed else ""),
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


def _tell_model(settings: TrainSettings, model: GPT, report: Report) -> None:
    config, trained = model.config, lora.parameters(model)
    n_trained = sum(parameter.data.size for parameter in trained)
    seq = f", in sequences of {settings.seq}" if settings.seq != config.block_size else ""
    report.fact(
        "model",
        f"{_count(config.n_layer, 'layer')}, {config.n_embd} wide, {_count(config.n_head, 'head')}, "
        f"context {config.block_size}{seq}: "
        f"{model.num_parameters() - n_trained:,} parameters",
    )
    if settings.from_ is not None:
        report.fact("from", settings.from_)
    if trained:
        targets = ", ".join(settings.lora_targets or [])
        adapters = f"rank {settings.lora_rank}, alpha {settings.lora_alpha:g}, on {targets}"
        report.fact("adapters", f"{adapters}: {n_trained:,} parameters, which alone are trained")


def flops_per_token(settings: TrainSettings, model: GPT) -> int:
    """Floating-point operations of a step for one token of a sequence.

    Forward, and in backward as much for the gradients of activations and of weights each; frozen weights have none.
    """
    config = dataclasses.replace(model.config, block_size=settings.length)
    trained = lora.parameters(model)
    if not trained:
        return config.flops_per_token()
    return 2 * config.flops_per_token(backward=False) + 6 * sum(parameter.data.size for parameter in trained)


def _optimizer(settings: TrainSettings, model: GPT) -> optim.Optimizer:
    parameters = lora.parameters(model) or model.parameters()
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
