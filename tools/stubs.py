"""Write the .pyi stubs of the compiled kernels from their signatures and the records in tinygpt.kernels.spec.

usage: python tools/stubs.py [--check]      --check compares with the files, and runs mypy's stubtest on them
"""

from __future__ import annotations

import importlib
import inspect
import subprocess
import sys
from pathlib import Path

from tinygpt.kernels import registry, spec

ROOT = Path(__file__).resolve().parent.parent
CORE = ROOT / "tinygpt" / "core"
HEADER = '"""Written by tools/stubs.py."""\n\n'
SCALARS = {
    "T": "int",
    "key": "int",
    "site": "int",
    "sequence": "int",
    "start": "int",
    "step": "int",
    "activation": "int",
}
# Functions of a module that are not rungs.
OTHERS = {"set_isa": "(name: str) -> None", "bfloat16_instructions": "() -> bool"}
TYPES = {
    "ACTIVATIONS": "dict[str, int]",
    "RUNGS": "dict[str, dict[str, Callable[..., Any]]]",
    "BFLOAT16": "dict[str, dict[str, Callable[..., Any]]]",
}
FLAGS = {"trans_a", "trans_b", "accumulate", "accumulate_positions", "inverse"}


def argument(arg: spec.Arg) -> str:
    """Return the declaration of one argument: an array, a flag, an integer or a float."""
    if arg.shape:
        kind = f"_{arg.dtype.capitalize()}"
        return f"{arg.name}: {kind}{' | None' if arg.optional else ''}"
    return f"{arg.name}: {'bool' if arg.name in FLAGS else SCALARS.get(arg.name, 'float')}"


def stub(module: str) -> str:
    """Return the stub of one module."""
    compiled = importlib.import_module(f"tinygpt.core.{module}")
    lines = []
    for name, function in sorted(vars(compiled).items()):
        op, _, rung = name.removesuffix("_bfloat16").rpartition("_")
        if op in spec.OPS and rung in registry.LADDER:
            arguments = ", ".join([*map(argument, spec.OPS[op].args), "n_threads: int"])
            if tuple(inspect.signature(function).parameters) != spec.OPS[op].names:
                sys.exit(f"{module}.{name}: the signature is not that of the record in tinygpt/kernels/spec.py")
            lines.append(f"def {name}({arguments}) -> {'float' if op == 'squared_norm' else 'None'}: ...")
        elif name in OTHERS:
            lines.append(f"def {name}{OTHERS[name]}: ...")
    constants = [f"{name}: {kind}" for name, kind in TYPES.items() if hasattr(compiled, name)]
    body = "\n".join([*constants, "", *lines])
    imports = "from collections.abc import Callable\nfrom typing import Any, TypeAlias\n\n"
    imports += "import numpy as np\nimport numpy.typing as npt\n"
    # Private names, because the modules themselves do not have them.
    names = [name for name in ("float32", "int32", "int8", "uint16") if f"_{name.capitalize()}" in body]
    aliases = "".join(f"_{name.capitalize()}: TypeAlias = npt.NDArray[np.{name}]\n" for name in names)
    return f"{HEADER}{imports}\n{aliases}\n{body}\n"


def formatted(text: str) -> str:
    """Format a text with ruff."""
    command = [
        sys.executable,
        "-m",
        "ruff",
        "format",
        "--config",
        str(ROOT / "pyproject.toml"),
        "--stdin-filename",
        "a.pyi",
        "-",
    ]
    return subprocess.run(command, input=text, capture_output=True, text=True, check=True).stdout


def main() -> None:
    """Write the stubs, or check them."""
    if sys.argv[1:] not in ([], ["--check"]):
        sys.exit(__doc__)
    modules = sorted({op.module for op in spec.OPS.values()})
    stubs = {CORE / f"{module}.pyi": formatted(stub(module)) for module in modules}
    if "--check" not in sys.argv[1:]:
        for path, text in stubs.items():
            path.write_text(text)
        return
    stale = [path.name for path, text in stubs.items() if not path.exists() or path.read_text() != text]
    if stale:
        sys.exit(f"stubs are out of date, run 'python tools/stubs.py': {', '.join(stale)}")
    names = [f"tinygpt.core.{path.stem}" for path in sorted(CORE.glob("*.pyi"))]
    config = ["--mypy-config-file", str(ROOT / "pyproject.toml")]
    command = [sys.executable, "-m", "mypy.stubtest", "--ignore-missing-stub", *config, *names]
    sys.exit(subprocess.run(command, cwd=ROOT, check=False).returncode)


if __name__ == "__main__":
    main()
