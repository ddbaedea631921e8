"""The way back from a page to what its script reads, its tags, and the page in a browser."""

import csv
import json
import re
from contextlib import contextmanager
from html.parser import HTMLParser


def json_of(text):
    """The data of a page; there is exactly one block of it."""
    (block,) = re.findall(r'<script type="application/json" id="data">(.*?)</script>', text, re.DOTALL)
    return json.loads(block)


class Tags(HTMLParser):
    """Every tag with its attributes."""

    def __init__(self, text):
        super().__init__()
        self.tags = []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))


def window(browser, path, **options):
    """A page in a fresh window; whatever it asks of the network or complains about fails the test."""
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
    """The lines of the CSV file that a button gives."""
    with page.expect_download() as download:
        page.click(button)
    with open(download.value.path(), encoding="utf-8", newline="") as handle:
        return list(csv.reader(handle))


@contextmanager
def in_a_notebook(browser, view, tmp_path):
    """The frame in which a notebook shows `view`; whatever is said in it fails the test."""
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
