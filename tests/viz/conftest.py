"""Pages of the test modules, opened in the browser of tests/conftest.py."""

import pytest

from .page_data import window


@pytest.fixture(scope="module")
def file(view, tmp_path_factory):
    """The page of the test module's `view` fixture, saved to a file."""
    path = tmp_path_factory.mktemp("page") / "page.html"
    view.save(path)
    return path


@pytest.fixture
def opened(browser, file):
    """The saved page, opened in a fresh window."""
    yield from window(browser, file)
