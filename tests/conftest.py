"""The browser. Without a browser these tests are skipped, unless TINYGPT_REQUIRE_BROWSER=1, as in CI."""

import importlib
import os
import shutil

import pytest

REQUIRED = os.environ.get("TINYGPT_REQUIRE_BROWSER") == "1"
NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")


@pytest.fixture(scope="module")
def browser():
    """The system's Chromium, headless."""
    api = importlib.import_module("playwright.sync_api") if REQUIRED else pytest.importorskip("playwright.sync_api")
    program = next(filter(None, map(shutil.which, NAMES)), None)
    if program is None and not REQUIRED:
        pytest.skip("there is no Chromium")
    with api.sync_playwright() as playwright:
        try:
            started = playwright.chromium.launch(executable_path=program)
        except api.Error as error:
            if REQUIRED:
                raise
            pytest.skip(f"Chromium does not start: {error.message.splitlines()[0]}")
        yield started
        started.close()
