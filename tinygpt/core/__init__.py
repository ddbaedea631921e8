"""Compiled kernels, one module per csrc/*.pyx.

If the kernels of a source tree are not built in place, those of an installed tinygpt of the same version are used. This
makes Python work in the repository root after a plain `pip install .`.
"""

import sys
from importlib.machinery import EXTENSION_SUFFIXES
from pathlib import Path


def _has_kernels(folder: Path) -> bool:
    return any(folder.joinpath(f"matmul{suffix}").exists() for suffix in EXTENSION_SUFFIXES)


def _installed() -> Path | None:
    """Return the core folder of an installed tinygpt of this version; None if there is none."""
    from importlib import metadata

    from tinygpt import __version__

    for entry in sys.path:
        folder = Path(entry or ".", "tinygpt", "core").resolve()
        if _has_kernels(folder):
            found = next(iter(metadata.distributions(name="tinygpt", path=[entry])), None)
            if found is not None and found.version == __version__:
                return folder
    return None


if not _has_kernels(Path(__file__).parent):
    _folder = _installed()
    if _folder is None:
        raise ImportError(
            "the kernels are not built: run 'pip install -e .' here, or leave the source tree after 'pip install .'"
        )
    __path__.append(str(_folder))
