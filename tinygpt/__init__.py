"""GPT-style language models on a CPU, from scratch: kernels, autograd, training, generation.

The parts load on first use, so that `import tinygpt` costs little more than NumPy.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from tinygpt import kernels, nn, ops, optim, tokenizers
    from tinygpt.config import GPTConfig
    from tinygpt.files.model_directory import load, save
    from tinygpt.kernels.threads import get_num_threads, set_num_threads
    from tinygpt.model import GPT
    from tinygpt.tensor import Tensor, no_grad
    from tinygpt.tracing import trace

# Public name -> the module it comes from; a name that equals its module's last part is the module itself.
_PARTS = {
    "GPT": "tinygpt.model",
    "GPTConfig": "tinygpt.config",
    "Tensor": "tinygpt.tensor",
    "no_grad": "tinygpt.tensor",
    "load": "tinygpt.files.model_directory",
    "save": "tinygpt.files.model_directory",
    "get_num_threads": "tinygpt.kernels.threads",
    "set_num_threads": "tinygpt.kernels.threads",
    "kernels": "tinygpt.kernels",
    "nn": "tinygpt.nn",
    "ops": "tinygpt.ops",
    "optim": "tinygpt.optim",
    "tokenizers": "tinygpt.tokenizers",
    "trace": "tinygpt.tracing",
}

__all__ = [
    "GPT",
    "GPTConfig",
    "Tensor",
    "get_num_threads",
    "kernels",
    "load",
    "nn",
    "no_grad",
    "ops",
    "optim",
    "save",
    "set_num_threads",
    "tokenizers",
    "trace",
]


def __getattr__(name: str) -> Any:
    if name not in _PARTS:
        raise AttributeError(f"module 'tinygpt' has no attribute '{name}'")
    module = importlib.import_module(_PARTS[name])
    value = module if _PARTS[name] == f"tinygpt.{name}" else getattr(module, name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_PARTS})
