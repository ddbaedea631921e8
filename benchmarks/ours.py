"""The benchmark jobs in tinygpt at a given rung, and matrix products in plain NumPy."""

from __future__ import annotations

import functools
import os
from dataclasses import replace
from typing import Any

import numpy as np
from inputs import attention_inputs, batch, operands, prompt, sample, weights
from jobs import Model
from worker import Built

import tinygpt
from tinygpt import GPT, GPTConfig, kernels, optim, testing
from tinygpt.kernels import isa, peak, registry, spec
from tinygpt.kernels.adaptive import Adaptive
from tinygpt.kernels.threads import NUM_THREADS_VARIABLE as THREADS_VARIABLE

CHOICES = {
    "tinygpt": ("simd", "float32"),
    "tinygpt bfloat16": ("simd", "bfloat16"),
    "tinygpt numpy": ("numpy", None),
    "tinygpt auto": ("simd", "float32"),
}
SCALARS = {
    "accumulate": False, "scale": 1e-3, "eps": 1e-5, "rate": 0.1, "key": 1, "site": 2, "sequence": 0, "T": 64,
    "lr": 1e-3, "beta1": 0.9, "beta2": 0.95, "weight_decay": 0.1, "step": 3, "grad_scale": 1.0,
}  # fmt: skip


def facts(threads: int) -> dict[str, Any]:
    """Return versions, processor, and the ceilings of this machine on a number of threads, measured now."""
    from tinygpt.cli.info import processor

    tinygpt.set_num_threads(threads)
    return {
        "processor": processor(),
        "isa": isa.get(),
        "bfloat16_instructions": _bfloat16(),
        "versions": {"tinygpt": tinygpt.__version__, "numpy": np.__version__},
        "peak_flops": peak.peak_flops(threads),
        "read_bandwidth": peak.read_bandwidth(threads),
        "copy_bandwidth": peak.copy_bandwidth(threads),
    }


def _bfloat16() -> bool:
    from tinygpt.core import matmul

    return bool(matmul.bfloat16_instructions())


def build(contender: str, task: dict[str, Any], threads: int) -> Built:
    """Build a job in tinygpt at the rung that the contender names."""
    tinygpt.set_num_threads(threads)
    if contender != "numpy":
        rung, precision = CHOICES[contender]
        kernels.use(rung, precision=precision)
    built = BUILDERS[task["kind"]](contender, task, threads)
    return _adaptive(built) if contender == "tinygpt auto" else built


def _adaptive(built: Built) -> Built:
    """Let the number of threads change between two calls, as it does between two steps of a training run."""
    os.environ.pop(THREADS_VARIABLE)
    tinygpt.set_num_threads("auto")
    loop = Adaptive().__enter__()

    def call() -> None:
        with loop.step():
            built.call()

    return replace(built, call=call)


def model(sizes: Model) -> GPT:
    """Build a GPT with the weights shared by all contenders."""
    config = GPTConfig(sizes.vocab, sizes.context, sizes.layers, sizes.heads, sizes.width)
    gpt = GPT(config)
    parameters = dict(gpt.named_parameters())
    for name, array in weights(sizes):
        parameters[name].data = array
    return gpt


def train(contender: str, task: dict[str, Any], threads: int) -> Built:
    """Build a training step: forward, backward, clipping, AdamW."""
    sizes = Model(**task["model"])
    gpt, (x, y) = model(sizes), batch(sizes)
    optimizer = optim.AdamW(gpt.parameters(), lr=1e-3)

    def step() -> float:
        optimizer.zero_grad()
        loss = gpt.loss(x, y)
        loss.backward()
        optimizer.step(optim.clip_scale(optim.grad_norm(optimizer.parameters), 1.0))
        return loss.item()

    return Built(step, [step(), step()])


def decode(contender: str, task: dict[str, Any], threads: int) -> Built:
    """Decode greedily with the KV cache; the prefill of the prompt is not timed."""
    sizes, state = Model(**task["model"]), {}
    gpt, tokens = model(sizes), prompt(sizes)

    def read() -> None:
        state["cache"] = gpt.new_cache(len(tokens))
        with tinygpt.no_grad():
            state["logits"] = gpt(tokens, state["cache"], last=True).data[:, 0]

    def write() -> np.ndarray:
        logits, new = state["logits"], []
        with tinygpt.no_grad():
            for _ in range(task["new_tokens"]):
                new.append(logits.argmax(-1))
                logits = gpt(new[-1][:, None], state["cache"], last=True).data[:, 0]
        return np.stack(new, 1)

    read()
    check = sample(state["logits"])
    _check_tokens(write(), sizes, task)
    return Built(write, check, read)


def small_weights(contender: str, task: dict[str, Any], threads: int) -> Built:
    """Decode greedily from a model directory, with weights in the format that the task names."""
    gpt, _ = tinygpt.load(task["directory"], weights=task["weights"])
    tokens, state = np.array([task["prompt"]]), {}

    def step(tokens: np.ndarray) -> np.ndarray:
        with tinygpt.no_grad():
            return gpt(tokens, state["cache"], last=True).data[0, 0]

    def read() -> None:
        state["cache"] = gpt.new_cache(1)
        state["logits"] = step(tokens)

    def write() -> None:
        logits = state["logits"]
        for _ in range(task["new_tokens"]):
            logits = step(np.array([[logits.argmax()]]))

    read()
    check = sample(state["logits"])
    write()
    return Built(write, check, read)


def prefill(contender: str, task: dict[str, Any], threads: int) -> Built:
    """Prefill a prompt: compute the logits of its last position and the KV cache."""
    sizes = Model(**task["model"])
    gpt, tokens = model(sizes), prompt(sizes)

    def read() -> np.ndarray:
        with tinygpt.no_grad():
            return gpt(tokens, gpt.new_cache(len(tokens)), last=True).data[:, 0]

    return Built(read, sample(read()))


def _check_tokens(tokens: np.ndarray, sizes: Model, task: dict[str, Any]) -> None:
    wanted = (sizes.batch, task["new_tokens"])
    if tokens.shape != wanted or tokens.min() < 0 or tokens.max() >= sizes.vocab:
        raise ValueError(f"decoding must give {wanted} tokens below {sizes.vocab}, got shape {tokens.shape}")


def product(contender: str, task: dict[str, Any], threads: int) -> Built:
    """Build a matrix product op(a) op(b), by the kernel or by NumPy."""
    a, b = operands(task)
    out = np.empty((task["M"], task["N"]), np.float32)
    trans_a, trans_b = (letter == "T" for letter in task["case"])
    if contender == "numpy":
        left, right = a.T if trans_a else a, b.T if trans_b else b

        def call() -> None:
            np.matmul(left, right, out=out)
    else:
        matmul = kernels.registry.active.matmul

        def call() -> None:
            matmul(a, b, out, trans_a, trans_b, False, None, None, 0, None, threads)

    call()
    return Built(call, sample(out))


def attention(contender: str, task: dict[str, Any], threads: int) -> Built:
    """Build forward and backward of the attention kernel."""
    q, k, v, dout = attention_inputs(task)
    B, T, H, D = q.shape
    out, dq, dk, dv = (np.empty_like(q) for _ in range(4))
    lse, scale, active = np.empty((B, H, T), np.float32), D**-0.5, registry.active

    def call() -> None:
        active.attention(q, k, v, out, lse, None, scale, threads)
        active.attention_backward(dout, q, k, v, out, lse, dq, dk, dv, scale, threads)

    call()
    return Built(call, sample(out) + sample(dq) + sample(dk) + sample(dv))


def rowwise(contender: str, task: dict[str, Any], threads: int) -> Built:
    """Run one op on large arrays, after checking the rung against the reference on smaller ones."""
    name = task["op"]
    function = getattr(registry.active, name)
    for case in testing.default_cases(name):
        testing.check(function, case, threads)
    arguments, moved = arrays(name, task["R"], task["C"])
    return Built(functools.partial(function, *arguments, threads), [float(moved)])


def arrays(name: str, R: int, C: int) -> tuple[list[Any], int]:
    """Return the arguments of an op on R x C elements without optional arrays, and the bytes that it must move."""
    dims, draw = {"R": R, "C": C, "N": R * C, "V": C, "F": C // 2}, np.random.default_rng(0)
    arguments: list[Any] = []
    left_out = {arg.name for arg in spec.OPS[name].args if arg.optional}
    for arg in spec.OPS[name].args:
        if arg.name in left_out:
            arguments.append(None)
        elif not arg.shape:
            arguments.append(SCALARS[arg.name])
        else:
            shape = tuple(spec.size(axis, dims) for axis in arg.shape.split())
            number = arg.dtype == "int32"
            arguments.append(draw.integers(0, C, shape, np.int32) if number else draw.random(shape, np.float32))
    return arguments, spec.OPS[name].bytes(dims, frozenset(left_out))


BUILDERS = {
    "train": train,
    "decode": decode,
    "prefill": prefill,
    "small weights": small_weights,
    "product": product,
    "attention": attention,
    "rowwise": rowwise,
}
