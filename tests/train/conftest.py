"""A tree of sources shared by all runs."""

import pytest
from tiny_run import write_sources


@pytest.fixture(scope="session")
def sources(tmp_path_factory):
    """A folder of small files, which tests must not change."""
    return write_sources(tmp_path_factory.mktemp("train") / "sources")
