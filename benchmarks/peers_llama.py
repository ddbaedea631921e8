"""Decoding in llama.cpp through the C functions of llama-cpp-python, one call per token."""

from __future__ import annotations

import ctypes
from typing import Any

import llama_cpp
import numpy as np
from inputs import sample
from worker import Built


def facts(threads: int) -> dict[str, Any]:
    """Return the versions of the libraries."""
    return {"versions": {"llama-cpp-python": llama_cpp.__version__}}


def build(contender: str, task: dict[str, Any], threads: int) -> Built:
    """Decode greedily; the prefill of the prompt is not timed."""
    sizes = {"n_ctx": task["context"], "n_batch": 64}
    model = llama_cpp.Llama(task["gguf"], n_threads=threads, n_threads_batch=threads, verbose=False, **sizes)
    n_vocab, state = model.n_vocab(), {}

    def step(tokens: list[int]) -> np.ndarray:
        array = (llama_cpp.llama_token * len(tokens))(*tokens)
        if llama_cpp.llama_decode(model.ctx, llama_cpp.llama_batch_get_one(array, len(tokens))):
            raise RuntimeError("llama_decode failed")
        pointer = llama_cpp.llama_get_logits_ith(model.ctx, -1)
        return np.ctypeslib.as_array(ctypes.cast(pointer, ctypes.POINTER(ctypes.c_float)), (n_vocab,))

    def read() -> None:
        llama_cpp.llama_memory_clear(llama_cpp.llama_get_memory(model.ctx), True)
        state["logits"] = step(task["prompt"])

    def write() -> None:
        logits = state["logits"]
        for _ in range(task["new_tokens"]):
            logits = step([int(logits.argmax())])

    read()
    check = sample(state["logits"])
    write()
    return Built(write, check, read)
