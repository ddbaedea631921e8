"""The page in a browser: it draws what the server tells, under a strict policy, and does nothing with hostile text."""

import pytest

from .client import served, until
from .models import TEXT, TOKENIZER, small

HOSTILE = "<img src=x onerror=hacked=1>"


@pytest.fixture(scope="module")
def client():
    with served(small("llama")) as client:
        yield client


@pytest.fixture
def page(browser, client):
    """The page in a fresh window; complaints of the browser fail the test."""
    window = browser.new_page(viewport={"width": 1100, "height": 800})
    wrong = []
    window.on("console", lambda message: wrong.append(message.text) if message.type == "error" else None)
    window.on("pageerror", lambda error: wrong.append(str(error)))
    window.goto(f"http://127.0.0.1:{client.port}/")
    yield window
    window.close()
    assert [text for text in wrong if "status of 400" not in text] == []


def write(page, prompt=TEXT[:20], tokens=12, **fields):
    page.fill("#prompt", prompt)
    for name, value in {"max_tokens": tokens, **fields}.items():
        page.fill(f"#{name}", str(value))
    page.click("#go")
    page.locator("#status", has_text="ended").wait_for()


def shown(page):
    return page.locator("#token").inner_text()


def test_a_text_is_written_and_explained(page, client):
    """Catches tokens without their surprisal, a panel of another token, and attention that is not drawn."""
    write(page, seed=4, temperature=0.5)
    events = list(client.events("/watch", {"prompt": TEXT[:20], "max_tokens": 12, "seed": 4, "temperature": 0.5}))
    tokens = page.locator("#text .written")
    assert page.locator("#model").inner_text() == "tiny"
    assert tokens.count() == 12
    assert page.locator("#text .given").count() == 20
    tokens.nth(3).hover()
    assert f"surprisal {events[4]['bits']:.2f} bits" in shown(page)
    rows = page.locator("#token tbody tr")
    assert rows.count() >= 8
    assert rows.first.locator(".token").inner_text() == events[4]["top"][0]["token"]
    assert page.locator("#text .attended").count() == 23
    assert "attended most to" in shown(page)
    before = page.locator("#token p.small").inner_text()
    page.select_option("#layer", "1")
    assert page.locator("#token p.small").inner_text() != before
    page.locator("#text").press("ArrowRight")
    assert f"surprisal {events[5]['bits']:.2f} bits" in shown(page)


def test_a_slider_writes_again(page):
    """Catches a slider without effect, and one that changes the seed."""
    write(page, seed=1, temperature=1)
    first = page.locator("#text").inner_text()
    page.fill("#temperature", "0")
    assert page.locator("output[for=temperature]").inner_text() == "0"
    until(lambda: page.locator("#text").inner_text() != first)
    page.locator("#status", has_text="ended").wait_for()
    page.fill("#temperature", "1")
    until(lambda: page.locator("#text").inner_text() == first)


def test_hostile_text_does_nothing(page):
    """Catches a prompt or a token that becomes markup."""
    write(page, prompt=HOSTILE, tokens=3)
    assert page.evaluate("typeof hacked") == "undefined"
    assert page.locator("#text img").count() == 0
    names = [name.replace("\u2423", " ") for name in TOKENIZER.tokens(TOKENIZER.encode(HOSTILE))]
    assert page.locator("#text .given").all_inner_texts() == names


def test_errors_are_told(page):
    """Catches a refusal that the reader does not see."""
    page.fill("#prompt", "x" * 97)
    page.click("#go")
    page.locator("#status.error").wait_for()
    assert "the prompt has 97 tokens" in page.locator("#status").inner_text()
