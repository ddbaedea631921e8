"""Former places of public names: they work for one more release, with a DeprecationWarning."""

from __future__ import annotations

import importlib
import warnings
from collections.abc import Callable, Mapping
from typing import Any


def forward(module: str, moved: Mapping[str, str]) -> Callable[[str], Any]:
    """Make the `__getattr__` of a module whose names have moved.

    Parameters
    ----------
    module : str
        The module's own name.
    moved : mapping of str to str
        Former name -> dotted name of its new place.

    Returns
    -------
    callable
        Returns the object at the new place, with a DeprecationWarning at the caller's line.
    """

    def lookup(name: str) -> Any:
        if name not in moved:
            raise AttributeError(f"module '{module}' has no attribute '{name}'")
        warnings.warn(f"{module}.{name} has moved to {moved[name]}", DeprecationWarning, stacklevel=2)
        place, _, new = moved[name].rpartition(".")
        return getattr(importlib.import_module(place), new)

    return lookup
