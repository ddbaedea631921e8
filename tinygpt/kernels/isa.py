"""Choice of the instruction set for vector code: by default the widest that the machine supports."""

from __future__ import annotations

import os
from types import ModuleType

from tinygpt.core import cpu

_modules: list[ModuleType] = []
_name = ""


def available() -> tuple[str, ...]:
    """List the instruction sets that both the processor and the operating system support, narrowest first."""
    return cpu.isas()


def get() -> str:
    """Return the name of the instruction set in use."""
    return _name


def use(name: str) -> None:
    """Switch every compiled module with vector code to an instruction set.

    Parameters
    ----------
    name : str
        One of `available`: ``scalar`` (no vector code), ``avx2``, ``avx512`` or ``neon``.

    Raises
    ------
    ValueError
        This machine does not support it. Nothing is changed then.
    """
    global _name
    if name not in available():
        raise ValueError(f"[isa] 'name' must be one of {', '.join(available())}, got '{name}'")
    for module in _modules:
        module.set_isa(name)
    _name = name


def follow(module: ModuleType) -> None:
    """Switch a module to the instruction set in use, and again whenever `use` changes it.

    Parameters
    ----------
    module : module
        A compiled module with a function `set_isa` that holds no rungs, so that the registry does not know it.
    """
    if module not in _modules:
        module.set_isa(_name)
        _modules.append(module)


def start(modules: list[ModuleType]) -> None:
    """Switch these modules to the instruction set named in ``TINYGPT_ISA``, or to the widest one."""
    _modules[:] = [module for module in modules if hasattr(module, "set_isa")]
    name = os.environ.get("TINYGPT_ISA")
    if name and name not in available():
        raise ValueError(f"[isa] TINYGPT_ISA must be one of {', '.join(available())}, got '{name}'")
    use(name or available()[-1])
