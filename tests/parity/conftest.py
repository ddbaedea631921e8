"""Peers are optional on a user's machine and required where TINYGPT_REQUIRE_PARITY=1, which CI sets."""

import importlib
import os

import pytest


def require(name):
    """The module `name`: skips the tests that ask for it where it is missing, or fails if it must be there."""
    if os.environ.get("TINYGPT_REQUIRE_PARITY") == "1":
        return importlib.import_module(name)
    return pytest.importorskip(name)


@pytest.fixture(name="require", scope="session")
def require_fixture():
    """`require`, for tests that ask for a peer when they run."""
    return require
