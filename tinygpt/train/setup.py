"""Build everything a run needs from its settings: corpus, tokenizer, model, optimizer, schedule."""

from __future__ import annotations

import dataclasses
import hashlib
import math
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from tinygpt import lora, optim
from tinygpt.data.corpus import Corpus, split
from tinygpt.data.discover import discover
from tinygpt.data.infilling import NAMES, Infilling
from tinygpt.data.rules import EXTENSIONS, parse_extensions
from tinygpt.data.windows import Windows
from tinygpt.io.strict import one_line
from tinygpt.kernels import isa, registry, threads
from tinygpt.kernels.peak import peak_flops
from tinygpt.model import GPT
from tinygpt.muon import Muon
from tinygpt.tokenizers import BPETokenizer, CharTokenizer, gguf_metadata
from tinygpt.tokenizers.base import Tokenizer
from tinygpt.train.report import Report
from tinygpt.train.settings import TrainSettings
from tinygpt.train.start import begin_from

FEW_TOKENS = 1000  # below, the validation loss is too uncertain to compare runs
LOSS_DEVIATION = 2.0  # nats; typical standard deviation of the loss of one token, for the error of a mean
MOST_NAMED = 3  # files of the validation split


@dataclass
class Run:
    """Everything a training run needs: corpus, tokenizer, model, optimizer, schedule."""

    settings: TrainSettings
    corpus: Corpus
    tokenizer: Tokenizer
    model: GPT
    optimizer: optim.Optimizer
    schedule: optim.Schedule
    windows: Windows
    total_steps: int
    peak: float  # measured peak of this machine in FLOP/s

    def fingerprint(self) -> str:
        """Hash the training tokens, so that a resumed run notices when they have changed."""
        return hashlib.sha256(self.corpus.train.tobytes()).hexdigest()[:16]


def prepare(settings: TrainSettings, report: Report, resumed: Path | None = None) -> Run:
    """Read the sources, train the tokenizer and build the model, or load both.

    Parameters
    ----------
    settings : TrainSettings
        Valid settings.
    report : Report
        Is told what was read and built.
    resumed : Path, optional
        Checkpoint to resume from.

    Returns
    -------
    Run

    Raises
    ------
    ValueError, FileNotFoundError
        There is nothing to read, or too little.
    """
    start = begin_from(settings, resumed)
    settings, tokenizer = start.settings, start.tokenizer
    given = settings.corpus
    extensions = parse_extensions(given.ext) if given.ext else EXTENSIONS
    documents, summary = discover(given.data, extensions)
    report.fact("source", summary.describe())
    if summary.passed_over():
        report.note(f"not read, because their extensions are not source code: {summary.passed_over()}")
    parts = split(documents, settings.optimisation.seed, given.val_fraction)
    if tokenizer is None:
        tokenizer = _tokenizer(settings, (document.text for document in parts.train), report)
    corpus = Corpus.encode(parts, tokenizer, settings.model.length, _infilling(settings, tokenizer))
    _tell_tokens(settings, corpus, tokenizer, [document.path for document in parts.validation], report)
    model = start.model or GPT(settings.model.config(tokenizer.vocab_size), settings.optimisation.seed)
    model.recompute = settings.machine.recompute
    _tell_model(settings, model, report)
    windows = Windows(corpus.train, settings.model.length, settings.optimisation.seed)
    peak = _machine(report)
    total = settings.total_steps(windows.n_windows)
    optimizer = _optimizer(settings, model)
    return Run(settings, corpus, tokenizer, model, optimizer, schedule(settings, total), windows, total, peak)


def _tell_tokens(
    settings: TrainSettings, corpus: Corpus, tokenizer: Tokenizer, files: list[str], report: Report
) -> None:
    """Report the size of both splits and of the vocabulary, and the files of the validation split."""
    vocabulary, wanted = f"vocabulary {tokenizer.vocab_size}", settings.corpus.vocab_size
    if settings.corpus.tokenizer_type == "bpe" and settings.model.from_ is None and tokenizer.vocab_size < wanted:
        vocabulary += f" (not {wanted:,}: the text has no more pairs to merge)"
    count = len(corpus.validation)
    held = f"{count:,} tokens"
    if count < FEW_TOKENS:
        held += f" (so few that the loss is uncertain by about {LOSS_DEVIATION / math.sqrt(count):.2f})"
    report.fact("tokens", f"{len(corpus.train):,} for training, {vocabulary}   validation: {_shortened(files)}, {held}")


def _shortened(files: list[str]) -> str:
    """Count files and name the first ones."""
    more = f" and {len(files) - MOST_NAMED} more" if len(files) > MOST_NAMED else ""
    return f"{_count(len(files), 'file')} ({', '.join(map(one_line, files[:MOST_NAMED]))}{more})"


def _tokenizer(settings: TrainSettings, texts: Iterable[str], report: Report) -> Tokenizer:
    """Train a tokenizer on `texts`."""
    given = settings.corpus
    special = NAMES if given.fim_rate else ()
    if given.tokenizer_type == "char":
        return CharTokenizer.train(texts, given.max_chars, special)
    if given.pattern not in gguf_metadata.PATTERN_OF.values():  # say it now: after the training it would be too late
        report.note(f"the pattern {given.pattern} has no name in GGUF, so the model cannot be exported to llama.cpp")
    return BPETokenizer.train(texts, given.vocab_size, given.pattern, special, report.merging)


def _infilling(settings: TrainSettings, tokenizer: Tokenizer) -> Infilling | None:
    """Make what rewrites the training split for fill-in-the-middle, if the settings ask for it."""
    rate = settings.corpus.fim_rate
    return Infilling(tokenizer, rate, settings.model.length, settings.optimisation.seed) if rate else None


def _machine(report: Report) -> float:
    """Report threads, instruction set and kernels; returns the measured peak in FLOP/s."""
    n = threads.get_num_threads()
    peak = peak_flops(n)
    report.fact(
        "machine",
        f"{_count(n, 'thread')}, {isa.get()}, kernels {_kernels()}, float32 peak {peak / 1e9:.0f} GFLOP/s"
        + (" (measured beside other programs: may be too low)" if peak.disturbed else ""),
    )
    return peak


def _count(n: int, what: str) -> str:
    """Format a count with its noun."""
    return f"{n} {what}{'s' * (n != 1)}"


def _kernels() -> str:
    """Name the selected rung, and the ops that use another one, as in ``blocked, softmax=naive``."""
    now = registry.selection()
    others = {
        rung: [f"{op}={own}" for op, own in now.items() if own != registry.resolve(op, rung)]
        for rung in dict.fromkeys(now.values())
    }
    rung = min(others, key=lambda name: len(others[name]))
    return ", ".join([rung, *others[rung]])


def _tell_model(settings: TrainSettings, model: GPT, report: Report) -> None:
    """Report shape, size, origin and adapters of the model."""
    given, config, trained = settings.model, model.config, lora.parameters(model)
    n_trained = sum(parameter.data.size for parameter in trained)
    seq = f", in sequences of {given.seq}" if given.seq != config.block_size else ""
    report.fact(
        "model",
        f"{_count(config.n_layer, 'layer')}, {config.n_embd} wide, {_count(config.n_head, 'head')}, "
        f"context {config.block_size}{seq}: "
        f"{model.num_parameters() - n_trained:,} parameters",
    )
    if given.from_ is not None:
        report.fact("from", given.from_)
    if trained:
        targets = ", ".join(given.lora_targets or [])
        adapters = f"rank {given.lora_rank}, alpha {given.lora_alpha:g}, on {targets}"
        report.fact("adapters", f"{adapters}: {n_trained:,} parameters; only these are trained")


def flops_per_token(settings: TrainSettings, model: GPT) -> int:
    """Count the floating-point operations of a training step per token.

    Backward costs as much as forward twice: once for the gradients of activations, once for those of weights. Frozen
    weights have no gradient.
    """
    config = dataclasses.replace(model.config, block_size=settings.model.length)
    trained = lora.parameters(model)
    if not trained:
        return config.flops_per_token()
    return 2 * config.flops_per_token(backward=False) + 6 * sum(parameter.data.size for parameter in trained)


def _optimizer(settings: TrainSettings, model: GPT) -> optim.Optimizer:
    """Make the optimizer of the adapters or, without adapters, of all parameters."""
    parameters = lora.parameters(model) or model.parameters()
    given, lr = settings.optimisation, settings.peak_lr
    if given.optimizer == "sgd":
        return optim.SGD(parameters, lr, given.momentum)
    if given.optimizer == "adam":
        return optim.Adam(parameters, lr, given.betas)
    if given.optimizer == "muon":
        trained = {id(parameter) for parameter in parameters}
        layers = (p for name, p in model.named_parameters() if name.startswith("blocks.") and len(p.shape) == 2)
        matrices = [parameter for parameter in layers if id(parameter) in trained]
        return Muon(parameters, matrices, lr, given.betas, weight_decay=given.weight_decay)
    return optim.AdamW(parameters, lr, given.betas, weight_decay=given.weight_decay)


def schedule(settings: TrainSettings, total: int) -> optim.Schedule:
    """Make the learning-rate schedule of a run of `total` steps."""
    given, peak = settings.optimisation, settings.peak_lr
    final = peak / 10 if given.min_lr is None else given.min_lr
    warmup = min(given.warmup, total // 10)
    if given.schedule == "wsd":
        return optim.wsd(peak, total, warmup, final, given.decay)
    if given.schedule == "constant":
        return optim.constant(peak)
    shape = optim.cosine if given.schedule == "cosine" else optim.linear
    return shape(peak, total, warmup, final)
