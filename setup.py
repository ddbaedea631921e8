"""List the extensions and find out whether this compiler has OpenMP; everything else is in pyproject.toml."""

import hashlib
import os
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext

# Contraction into FMA is off, so that a rung gives the same bits on every machine; intended FMAs are explicit.
FLAGS = ["-O3", "-ffp-contract=off", "-fno-math-errno"]
# Flags to try, in this order: gcc and clang on Linux, then Apple's clang with Homebrew's libomp.
OPENMP = [(["-fopenmp"], ["-fopenmp"]), (["-Xpreprocessor", "-fopenmp"], ["-lomp"])]
# The code that Cython generates for prange sets variables that only the pragmas read.
SERIAL = ["-Wno-unused-but-set-variable"]
DIRECTIVES = {
    "language_level": 3,
    "boundscheck": False,
    "wraparound": False,
    "initializedcheck": False,
    "cdivision": True,
    "binding": True,
}
# With TINYGPT_SANITIZE=1, for ci/sanitize: accesses outside of arrays and undefined arithmetic end the program.
SANITIZE = ["-g", "-fsanitize=address,undefined", "-fno-sanitize-recover=undefined"]
# Compiled modules of earlier builds, by a digest of everything that they were compiled from.
CACHE = Path("build", "kernels")
PROBE = "#include <omp.h>\nint main(void) { return omp_get_max_threads() < 1; }\n"


def openmp_flags(compiler):
    """Find the compile and link flags with which a small OpenMP program compiles, links and runs; None if none work."""
    if os.environ.get("TINYGPT_NO_OPENMP"):
        return None
    for compile_flags, link_flags in OPENMP:
        with tempfile.TemporaryDirectory() as folder:
            source = Path(folder, "probe.c")
            source.write_text(PROBE)
            program = str(Path(folder, "probe"))
            command = [*compiler.compiler_so, *compile_flags, str(source), "-o", program, *link_flags]
            built = subprocess.run(command, capture_output=True, check=False)
            if built.returncode == 0 and subprocess.run([program], check=False).returncode == 0:
                return compile_flags, link_flags
    return None


class BuildKernels(build_ext):
    """build_ext that adds OpenMP's flags where the compiler has them, and compiles on all processors."""

    def finalize_options(self):
        """Compile as many extensions at a time as there are processors, unless --parallel is given."""
        super().finalize_options()
        if not self.parallel:
            self.parallel = os.cpu_count() or 1

    def build_extensions(self):
        """Compile every module in csrc, with OpenMP if it works, and say so when it does not."""
        flags = openmp_flags(self.compiler)
        if flags is None:
            print("tinygpt: no OpenMP found: the kernels are built for a single thread", file=sys.stderr)
        for extension in self.extensions:
            extension.extra_compile_args += flags[0] if flags else SERIAL
            extension.extra_link_args += flags[1] if flags else []
        self.everywhere = build_digest(self.compiler)
        super().build_extensions()

    def build_extension(self, ext):
        """Copy the module from an earlier build of the same sources; compile it if there is none.

        `pip install .` and then `pip install -e .` would otherwise compile for minutes twice.
        """
        digest = self.everywhere.copy()
        digest.update(repr((ext.extra_compile_args, ext.extra_link_args)).encode())
        for source in ext.sources:
            digest.update(Path(source).read_bytes())
        built = Path(self.get_ext_fullpath(ext.name))
        kept = CACHE / f"{ext.name}-{digest.hexdigest()[:24]}{built.suffix}"
        if kept.exists():
            built.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(kept, built)
            return
        super().build_extension(ext)
        CACHE.mkdir(parents=True, exist_ok=True)
        for old in CACHE.glob(f"{ext.name}-*"):
            old.unlink()
        partial = kept.with_suffix(".part")
        shutil.copy2(built, partial)
        partial.replace(kept)  # in one step, because a stopped build must not leave half a module


def build_digest(compiler):
    """Return a digest of what all modules share: headers, compiler, Python, and flags from the environment."""
    digest = hashlib.sha256()
    version = subprocess.run([compiler.compiler_so[0], "--version"], capture_output=True, check=False).stdout
    for part in (
        compiler.compiler_so,
        compiler.linker_so,
        version,
        sys.version,
        sysconfig.get_config_var("EXT_SUFFIX"),
    ):
        digest.update(repr(part).encode())
    for header in sorted(Path("csrc").rglob("*.h")):
        digest.update(str(header).encode() + header.read_bytes())
    return digest


def extensions():
    """List one extension per csrc/*.pyx, named tinygpt.core.<stem>."""
    from Cython.Build import cythonize

    sanitizer = SANITIZE if os.environ.get("TINYGPT_SANITIZE") else []
    headers = [str(path) for path in Path("csrc").rglob("*.h")]
    modules = [
        Extension(
            f"tinygpt.core.{path.stem}",
            [str(path)],
            include_dirs=["csrc"],
            depends=headers,
            extra_compile_args=[*FLAGS, *sanitizer],
            extra_link_args=list(sanitizer),
        )
        for path in sorted(Path("csrc").glob("*.pyx"))
    ]
    return cythonize(modules, build_dir="build/cython", compiler_directives=DIRECTIVES, quiet=True)


setup(ext_modules=extensions(), cmdclass={"build_ext": BuildKernels})
