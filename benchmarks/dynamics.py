"""Healthy training runs and runs broken on purpose, for the tutorial on training dynamics.

usage: python benchmarks/dynamics.py OUT.json [NAME...]      about 6 minutes on two cores

Every run trains the same small model on packages of Python's standard library. A job changes one thing: the learning
rate, warm-up, the initial weights, the targets, the validation text, the batch. With names, only these jobs run and
their results replace the earlier ones in OUT.json.
"""

from __future__ import annotations

import json
import math
import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from tinygpt import GPT, GPTConfig, no_grad, optim
from tinygpt.cli.info import processor
from tinygpt.tokenizers import CharTokenizer
from tinygpt.train.watch import activations, matrices, rms

PACKAGES = ("email", "http", "json", "logging", "unittest", "importlib")
VALIDATION = "asyncio"  # a package that no run trains on
T = 64
EVERY = 5  # steps between two recorded losses
EVAL_EVERY = 50
EVAL_WINDOWS = 64
SHORT = 12_000  # tokens of the text that a run can learn by heart
SHAPE = {"n_layer": 2, "n_head": 2, "n_embd": 64}
DEEP = {"n_layer": 8, "n_head": 4, "n_embd": 64}
SAMPLE_STEPS = (0, 20, 100, 600, 3000)


@dataclass(frozen=True)
class Job:
    """One run; the defaults are the healthy one.

    Attributes
    ----------
    lr : float
        Peak learning rate.
    warmup, steps, batch : int
    clip : float
        Largest gradient norm; 0 turns clipping off.
    decay : float
        Weight decay.
    shift : int
        Distance from an input to its target; 1 is right.
    init : float
        Factor on all initial matrices.
    up_bias : float
        Initial bias of the hidden MLP units.
    text : str
        Text to learn from: ``all``, ``short``, or ``leaked``, which is short and also serves as validation text.
    deep : bool
        Eight layers instead of two.
    dropout : float
    samples : bool
        Generate a text at SAMPLE_STEPS.
    """

    lr: float = 3e-3
    warmup: int = 50
    steps: int = 600
    batch: int = 16
    clip: float = 1.0
    decay: float = 0.1
    shift: int = 1
    init: float = 1.0
    up_bias: float = 0.0
    text: str = "all"
    deep: bool = False
    dropout: float = 0.0
    samples: bool = False


JOBS = {
    "healthy": Job(),
    "long": Job(steps=3000, samples=True),
    "rate 0.0001": Job(lr=1e-4),
    "rate 0.03": Job(lr=3e-2),
    "rate 0.3": Job(lr=0.3),
    "rate 3": Job(lr=3.0),
    "deep, warm-up": Job(deep=True, lr=1e-2, warmup=100),
    "deep, no warm-up": Job(deep=True, lr=1e-2, warmup=0),
    "deep, no warm-up, low rate": Job(deep=True, lr=1e-3, warmup=0),
    "no clipping": Job(lr=3e-2, clip=0.0),
    "constant rate": Job(steps=600, warmup=-1),
    "init x 10": Job(init=10.0),
    "init x 0.01": Job(init=0.01),
    "target is the input": Job(shift=0),
    "target is two ahead": Job(shift=2),
    "short text": Job(text="short", steps=1500),
    "short text, leaked": Job(text="leaked", steps=1500),
    "short text, dropout": Job(text="short", steps=1500, dropout=0.2),
    "short text, decay 1": Job(text="short", steps=1500, decay=1.0),
    "decay 0": Job(decay=0.0),
    "decay 1": Job(decay=1.0),
    "dead units": Job(up_bias=-6.0),
    "batch 1": Job(batch=1),
    "batch 4": Job(batch=4),
    "batch 64": Job(batch=64),
}


@dataclass(frozen=True)
class Text:
    """Encoded texts.

    Attributes
    ----------
    tokenizer : CharTokenizer
    train, validation : int array, shape (n,)
    """

    tokenizer: CharTokenizer
    train: np.ndarray
    validation: np.ndarray


def read() -> Text:
    """Read and encode the packages of the standard library."""
    library = Path(json.__file__).parents[1]
    texts = {name: "\n".join(p.read_text() for p in sorted((library / name).rglob("*.py"))) for name in
             (*PACKAGES, VALIDATION)}  # fmt: skip
    learned = "\n".join(texts[name] for name in PACKAGES)
    tokenizer = CharTokenizer.train(learned)
    return Text(tokenizer, tokenizer.encode(learned), tokenizer.encode(texts[VALIDATION]))


def batch(tokens: np.ndarray, starts: np.ndarray, shift: int) -> tuple[np.ndarray, np.ndarray]:
    """Cut windows of T tokens at `starts`, and their targets `shift` tokens later; both (B, T)."""
    places = starts[:, None] + np.arange(T)
    return tokens[places], tokens[places + shift]


def mean_loss(model: GPT, tokens: np.ndarray, shift: int = 1) -> float:
    """Compute the loss on EVAL_WINDOWS windows at equal distances."""
    with no_grad():
        starts = np.linspace(0, len(tokens) - T - 3, EVAL_WINDOWS).astype(int)
        return model.loss(*batch(tokens, starts, shift)).item()


def begin(job: Job, V: int) -> GPT:
    """Make the model of a job, with its initial weights."""
    model = GPT(GPTConfig(vocab_size=V, block_size=T, dropout=job.dropout, **(DEEP if job.deep else SHAPE)), seed=0)
    for _, parameter in model.named_parameters():
        if len(parameter.shape) == 2:
            parameter.data = parameter.data * np.float32(job.init)
    for block in model.blocks:
        block.mlp.up.bias.data = np.full_like(block.mlp.up.bias.data, job.up_bias)
    return model


def schedule(job: Job) -> optim.Schedule:
    """Return the schedule of a job: warm-up and cosine; a negative warm-up means a constant rate."""
    if job.warmup < 0:
        return optim.constant(job.lr)
    return optim.cosine(job.lr, job.steps, job.warmup, final=0.1 * job.lr)


def run(job: Job, text: Text) -> dict[str, Any]:
    """Train one model; returns its curves and statistics of its weights and activations."""
    model = begin(job, text.tokenizer.vocab_size)
    learned = text.train if job.text == "all" else text.train[:SHORT]
    watched = learned if job.text == "leaked" else text.validation
    optimizer, rate = optim.AdamW(model.parameters(), weight_decay=job.decay), schedule(job)
    curves: dict[str, list] = {name: [] for name in ("step", "loss", "norm", "val_step", "val", "weights", "dead")}
    samples, last = {}, []
    for step in range(job.steps + 1):
        if step % EVAL_EVERY == 0 or step == job.steps:
            measure(model, learned, watched, job, curves, step)
        if job.samples and step in SAMPLE_STEPS:
            samples[step] = sample(model, text.tokenizer)
        if step == job.steps:
            break
        loss, norm = one_step(model, optimizer, rate(step), learned, job, step)
        last.append(loss)
        if step % EVERY == 0 or not math.isfinite(loss):
            curves["step"].append(step)
            curves["loss"].append(rounded(float(np.mean(last))))
            curves["norm"].append(rounded(norm))
            last = []
        if not (math.isfinite(loss) and math.isfinite(norm)):
            break
    honest = rounded(mean_loss(model, text.validation)) if math.isfinite(loss) else None
    return {"job": asdict(job), **curves, "honest": honest, "samples": samples}


def one_step(model, optimizer, lr: float, tokens: np.ndarray, job: Job, step: int) -> tuple[float, float]:
    """Do one step; returns loss and gradient norm. Nothing is updated if one of them is not finite."""
    starts = np.random.default_rng([1, step]).integers(0, len(tokens) - T - 3, job.batch)
    optimizer.zero_grad()
    loss = model.loss(*batch(tokens, starts, job.shift), (0, step, 0) if job.dropout else None)
    loss.backward()
    norm, optimizer.lr = optimizer.grad_norm(), lr
    if math.isfinite(loss.item()) and math.isfinite(norm):
        optimizer.step(optim.clip_scale(norm, job.clip) if job.clip else 1.0)
    return loss.item(), norm


def measure(model: GPT, learned, watched, job: Job, curves: dict[str, list], step: int) -> None:
    """Record the validation loss, the size of the weights and the share of dead units."""
    inside = activations(model, batch(learned, np.arange(16) * 97, 1)[0])
    dead = [inside[f"blocks.{i}.mlp"]["dead"] for i in range(model.config.n_layer)]
    curves["val_step"].append(step)
    curves["val"].append(rounded(mean_loss(model, watched, job.shift)))
    curves["weights"].append(rounded(float(np.mean([rms(p.data) for p in matrices(model).values()]))))
    curves["dead"].append(None if None in dead else rounded(float(np.mean(dead))))


def sample(model: GPT, tokenizer: CharTokenizer) -> str:
    """Continue a prompt."""
    prompt = "    def "
    made = model.generate(tokenizer.encode(prompt), 120, temperature=0.7, seed=1)
    return tokenizer.decode(made)


def noise(text: Text) -> list[dict[str, float]]:
    """Measure the gradient noise scale along a run (McCandlish et al. 2018, appendix A.1).

    With the squared lengths of the gradients of one sequence and of `many`, |G|^2 and the trace of the covariance
    follow from |g_B|^2 = |G|^2 + trace / B. Their quotient is the batch at which noise and signal are equal.
    """
    job, many, rows = JOBS["healthy"], 256, []
    model = begin(job, text.tokenizer.vocab_size)
    optimizer, rate = optim.AdamW(model.parameters(), weight_decay=job.decay), schedule(job)
    for step in range(job.steps + 1):
        if step in (0, 20, 50, 100, 200, 400, 600):
            one = np.mean([squared(model, optimizer, text.train, 1, 10_000 + i) for i in range(many)])
            whole = np.mean([squared(model, optimizer, text.train, many, 20_000 + i) for i in range(4)])
            signal = (many * whole - one) / (many - 1)
            trace = (one - whole) / (1 - 1 / many)
            rows.append({"step": step, "signal": float(signal), "trace": float(trace),
                         "scale": float(trace / signal), "loss": mean_loss(model, text.train)})  # fmt: skip
        if step < job.steps:
            one_step(model, optimizer, rate(step), text.train, job, step)
    return rows


def squared(model: GPT, optimizer, tokens: np.ndarray, count: int, seed: int) -> float:
    """Compute the squared length of the gradient of `count` random sequences."""
    starts = np.random.default_rng([2, seed]).integers(0, len(tokens) - T - 3, count)
    optimizer.zero_grad()
    model.loss(*batch(tokens, starts, 1)).backward()
    return optimizer.grad_norm() ** 2


def counts(text: Text) -> dict[str, float]:
    """Compute the validation loss of three simple models: uniform, frequencies of tokens, frequencies of pairs."""
    V, train, wanted = text.tokenizer.vocab_size, text.train, text.validation
    pairs = np.full((V, V), 0.1)
    np.add.at(pairs, (train[:-1], train[1:]), 1)
    one, two = pairs.sum(0) / pairs.sum(), pairs / pairs.sum(1, keepdims=True)
    return {
        "uniform": math.log(V),
        "unigram": float(-np.log(one[wanted]).mean()),
        "bigram": float(-np.log(two[wanted[:-1], wanted[1:]]).mean()),
    }


def rounded(value: float) -> float | None:
    """Round to five digits; None for NaN and infinity."""
    return float(f"{value:.5g}") if math.isfinite(value) else None


@np.errstate(over="ignore", invalid="ignore")
def main() -> None:
    """Run the jobs and write their curves."""
    out, names = Path(sys.argv[1]), sys.argv[2:]
    text = read()
    found = json.loads(out.read_text()) if out.exists() else {"runs": {}}
    for name in names or [*JOBS, "noise"]:
        if name == "noise":
            found["noise"] = noise(text)
            continue
        found["runs"][name] = run(JOBS[name], text)
        print(f"{name:28} val {found['runs'][name]['val'][-1]}  honest {found['runs'][name]['honest']}", flush=True)
    found["runs"] = {name: found["runs"][name] for name in JOBS if name in found["runs"]}
    sizes = {"tokens": len(text.train), "vocabulary": text.tokenizer.vocab_size, "short": SHORT}
    version = ".".join(map(str, sys.version_info[:2]))
    found |= {"machine": processor(), "python": version, "sizes": sizes, "counts": counts(text)}
    out.write_text(json.dumps(found, separators=(",", ":")).replace('},"', '},\n"') + "\n")


if __name__ == "__main__":
    if len(sys.argv) < 2:
        sys.exit(__doc__)
    main()
