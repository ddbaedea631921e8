"""Which instruction set the compiled modules use: the widest that the machine has, or a lower one on request."""

from __future__ import annotations

import os
from types import ModuleType

from tinygpt.core import cpu

_modules: list[ModuleType] = []
_name = ""


def available() -> tuple[str, ...]:
    """The instruction sets that the processor and the operating system support, lowest first."""
    return cpu.isas()


def get() -> str:
    """The one in use."""
    return _name


def use(name: str) -> None:
    """Switch every compiled module that has vector code.

    Parameters
    ----------
    name : str
        One of `available`: ``scalar`` (the baseline), ``avx2``, ``avx512``, ``neon``.

    Raises
    ------
    ValueError
        This machine does not have it; nothing is changed.
    """
    global _name
    if name not in available():
        raise ValueError(f"[isa] 'name' must be one of {', '.join(available())}, got '{name}'")
    for module in _modules:
        module.set_isa(name)
    _name = name


def follow(module: ModuleType) -> None:
    """Switch one more module, now and with the others from now on.

    Parameters
    ----------
    module : module
        One with a function `set_isa`, outside the registry of kernels.
    """
    if module not in _modules:
        module.set_isa(_name)
        _modules.append(module)


def start(modules: list[ModuleType]) -> None:
    """Take the modules that can be switched, and choose: what ``TINYGPT_ISA`` says, or the widest."""
    _modules[:] = [module for module in modules if hasattr(module, "set_isa")]
    name = os.environ.get("TINYGPT_ISA")
    if name and name not in available():
        raise ValueError(f"[isa] TINYGPT_ISA must be one of {', '.join(available())}, got '{name}'")
    use(name or available()[-1])
