"""Readers for the data and the tags of a page, and helpers that open it in a browser or in a notebook."""

import csv
import json
import re
from contextlib import contextmanager
from html.parser import HTMLParser


def json_of(text):
    """Read the embedded data of a page, which has exactly one block of it."""
    (block,) = re.findall(r'<script type="application/json" id="data">(.*?)</script>', text, re.DOTALL)
    return json.loads(block)


class Tags(HTMLParser):
    """All tags of a page in order, with their attributes."""

    def __init__(self, text):
        super().__init__()
        self.tags = []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))


def window(browser, path, **options):
    """Open a page in a fresh window, and fail the test on any console message, script error or network request."""
    context = browser.new_context(**{"viewport": {"width": 1400, "height": 900}} | options)
    page, heard, asked = context.new_page(), [], []
    page.on("console", lambda message: heard.append(message.text))
    page.on("pageerror", lambda error: heard.append(str(error)))
    page.on("request", lambda request: asked.append(request.url))
    page.goto(path.as_uri())
    yield page
    context.close()
    assert heard == []
    assert [url for url in asked if not url.startswith(("data:", "blob:"))] == [path.as_uri()]


def saved(page, button):
    """Click a button that saves a CSV file, and read the rows of that file."""
    with page.expect_download() as download:
        page.click(button)
    with open(download.value.path(), encoding="utf-8", newline="") as handle:
        return list(csv.reader(handle))


@contextmanager
def in_a_notebook(browser, view, tmp_path):
    """Open `view` in a frame as a notebook does, and fail the test on any console message or script error."""
    path = tmp_path / "notebook.html"
    path.write_text(f"<!doctype html><meta charset=utf-8><link rel=icon href='data:,'>{view._repr_html_()}")
    context = browser.new_context()
    page, heard = context.new_page(), []
    page.on("console", lambda message: heard.append(message.text))
    page.on("pageerror", lambda error: heard.append(str(error)))
    page.goto(path.as_uri())
    yield page.frame_locator("iframe")
    context.close()
    assert heard == []
