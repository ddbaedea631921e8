"""Compile a Cython file: python build.py NAME.pyx

`tinygpt gym check` runs this file. It is yours: change FLAGS and DIRECTIVES as you like.
"""

import platform
import sys
from pathlib import Path

# Optimise, and use every instruction of this machine. The project's own kernels are compiled for any machine instead.
# The last two flags promise that nobody looks at errno or floating-point exceptions, so that loops can be vectorised.
ARM = platform.machine().lower() in ("arm64", "aarch64")
FLAGS = ["-O3", "-mcpu=native" if ARM else "-march=native", "-fno-math-errno", "-fno-trapping-math"]
# Plain C loops: no checks of indices, no Python semantics for negative indices and division.
DIRECTIVES = {
    "language_level": 3,
    "boundscheck": False,
    "wraparound": False,
    "initializedcheck": False,
    "cdivision": True,
}


def build(source):
    """Compile a .pyx file into an extension module in the folder build/ beside it."""
    from Cython.Build import cythonize
    from setuptools import Distribution, Extension
    from setuptools.command.build_ext import build_ext

    extension = Extension(Path(source).stem, [source], extra_compile_args=FLAGS)
    modules = cythonize([extension], build_dir="build", compiler_directives=DIRECTIVES, quiet=True)
    command = build_ext(Distribution({"ext_modules": modules}))
    command.build_lib, command.build_temp = "build", "build"
    command.finalize_options()
    command.run()


if __name__ == "__main__":
    build(sys.argv[1])
