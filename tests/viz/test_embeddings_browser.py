"""The embeddings page in a browser: every control works, and nothing is requested, run or reported as an error."""

import csv
import io
import re

import numpy as np
import pytest

from tinygpt.viz.embeddings import embeddings
from tinygpt.viz.labels import label

from .embeddings_data import HOSTILE, Words, data_of, model_for

TOKENIZER = Words(HOSTILE)
# Search for every token by its id, click it, and collect the names that the page shows.
CHOOSE_EACH = """async (n) => {
  const field = document.getElementById("search"), match = () => document.querySelector("#results button"), names = [];
  for (let id = 0; id < n; id++) {
    field.value = `#${id}`;
    field.dispatchEvent(new Event("input"));
    while (match()?.dataset.id !== String(id)) await new Promise((next) => setTimeout(next, 10));
    match().click();
    names.push(document.getElementById("chosen-name").textContent);
  }
  return names;
}"""
WIDE, NARROW = {"width": 1400, "height": 900}, {"width": 400, "height": 800}


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    path = tmp_path_factory.mktemp("embeddings") / "page.html"
    embeddings(model_for(TOKENIZER), TOKENIZER, title="<b>run</b>").save(path)
    return path


@pytest.fixture
def visit(browser, path):
    """Open the page; afterwards fail on any network request, console error or script that ran."""
    contexts, requests, complaints = [], [], []

    def heard(message):
        # Other warnings are allowed, because a software renderer warns that it is slow.
        if message.type == "error" or (message.type == "warning" and "MathJax" in message.text):
            complaints.append(message.text)

    def start(size=WIDE, scheme="light"):
        contexts.append(browser.new_context(viewport=size, color_scheme=scheme, offline=True))
        page = contexts[-1].new_page()
        page.on("console", heard)
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.on("request", lambda request: requests.append(request.url))
        page.goto(path.as_uri())
        page.wait_for_selector("body[data-ready=yes]", timeout=60_000)
        return page

    yield start
    for context in contexts:
        for page in context.pages:
            assert page.evaluate("typeof window.bad") == "undefined"
        context.close()
    assert {url for url in requests if not url.startswith(("data:", "blob:"))} == {path.as_uri()}
    assert complaints == []


def search(page, text):
    page.fill("#search", text)
    page.wait_for_timeout(300)
    return page.locator("#results bdi").all_text_contents()


def at(page, token):
    """Return the position of a token's point on the screen."""
    return page.evaluate(
        """(id) => {
          const chart = document.getElementById("chart"), { xaxis, yaxis } = chart._fullLayout;
          const view = JSON.parse(document.getElementById("data").textContent).views[0];
          const points = new Float32Array(Uint8Array.from(atob(view.points), (c) => c.charCodeAt(0)).buffer);
          const box = chart.getBoundingClientRect(), x = xaxis.l2p(points[3 * id]), y = yaxis.l2p(points[3 * id + 1]);
          return [box.left + xaxis._offset + x, box.top + yaxis._offset + y];
        }""",
        token,
    )


def alone():
    """Return the token whose point is farthest from its nearest neighbour, so that a click there is unambiguous."""
    points = np.asarray(embeddings(model_for(TOKENIZER), TOKENIZER).views[0].points)[:, :2]
    far = np.linalg.norm(points[:, None] - points[None], axis=2) + np.diag(np.full(len(points), np.inf))
    return int(far.min(1).argmax())


def test_search_finds(visit):
    """Catches a search text used as a pattern, one with a space that finds nothing, and a missing search by #id."""
    page = visit()
    assert search(page, "DEF") == ["def"]
    assert search(page, " ret") == [label(TOKENIZER, 1)]
    assert search(page, r"\n") == [label(TOKENIZER, 7)]
    assert search(page, "#3") == ["name"]
    assert search(page, "</script>") == [label(TOKENIZER, 11)]
    assert search(page, ".*") == []
    assert page.text_content("#status") == f"0 of {TOKENIZER.vocab_size} tokens match"
    assert search(page, "") == []


def test_a_click_lists_the_neighbours(visit, path):
    """Catches a click that selects the wrong point, neighbours of the wrong token, and tokens as markup."""
    page, token = visit(), alone()
    page.mouse.click(*at(page, token))
    page.wait_for_selector("#chosen:not([hidden])")
    assert page.text_content("#chosen-name") == label(TOKENIZER, token)
    view = data_of(path.read_text(encoding="utf-8"))["views"][0]
    expected = [view["labels"][i] for i in view["ids"][token]]
    assert page.locator("#neighbours bdi").all_text_contents() == expected
    figures = page.locator("#neighbours .figure").all_text_contents()
    assert figures == [f"{cosine:.3f}" for cosine in view["cosines"][token].astype(float)]
    page.locator("#neighbours button").first.click()
    assert page.text_content("#chosen-name") == expected[0]
    page.keyboard.press("Escape")
    assert page.is_hidden("#chosen")


def test_the_mouse_over_a_point_names_it(visit):
    """Catches a tooltip of the wrong point, and one that stays."""
    page, token = visit(), alone()
    x, y = at(page, token)
    page.mouse.move(x - 3, y)
    page.mouse.move(x, y)
    page.wait_for_selector("#tip:not([hidden])")
    assert page.text_content("#tip bdi") == label(TOKENIZER, token)
    page.mouse.move(5, 5)
    page.wait_for_selector("#tip", state="hidden")


def test_every_hostile_token_is_text(visit):
    """Catches a token that becomes an element or runs, in the lists or in the plot labels, in 2D or in 3D."""
    page = visit()
    shown = set(page.locator("#chart text").all_text_contents())
    chosen = page.evaluate(CHOOSE_EACH, TOKENIZER.vocab_size)
    for token in range(TOKENIZER.vocab_size):
        assert chosen[token] == label(TOKENIZER, token)
        short = label(TOKENIZER, token)[:24]
        assert any(text.strip("\u2068\u2069\u200b") == short for text in shown), short
    page.click("#clear")
    page.check("#dims input[value='3']", force=True)
    page.wait_for_function("document.getElementById('chart').data[0].type === 'scatter3d'")
    solid = page.evaluate("document.getElementById('chart').data.flatMap((trace) => trace.text ?? [])")
    assert any("<" in text for text in solid)
    assert not any(re.search("<[a-z/]", text) for text in solid)  # plotly would render it as a tag
    for selector in ("b", "img", "aside script", "#chart script", "#chart img"):
        assert page.locator(f"body {selector}").count() == 0


def test_the_csv_is_the_data(visit, path):
    """Catches a lost row or number, quotes that break a row, and a cell that a spreadsheet would run as a formula."""
    page = visit()
    with page.expect_download() as download:
        page.click("#csv")
    assert download.value.suggested_filename == "tokens.csv"
    with open(download.value.path(), encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(io.StringIO(file.read())))
    view = data_of(path.read_text(encoding="utf-8"))["views"][0]
    assert [int(row["id"]) for row in rows] == list(range(TOKENIZER.vocab_size))
    for row, name in zip(rows, view["labels"], strict=True):
        assert row["token"].removeprefix("'") == name.removeprefix("'")
        assert len(row["token"]) == 1 or row["token"][0] not in "=+-@"
    points = np.array([[row["x"], row["y"], row["z"]] for row in rows], np.float32)
    np.testing.assert_array_equal(points, view["points"])
    assert [row["neighbours"] for row in rows] == [" ".join(map(str, ids)) for ids in view["ids"]]
    cosines = np.array([row["cosines"].split() for row in rows], float)
    np.testing.assert_allclose(cosines, view["cosines"], atol=1e-6)
    page.check("#views input[value='positions']", force=True)
    with page.expect_download() as download:
        page.click("#csv")
    assert download.value.suggested_filename == "positions.csv"


def test_classes_are_toggled(visit):
    """Catches a button without effect, and one that hides the wrong class."""
    page = visit()
    drawn = "document.getElementById('chart').data.map((t) => [t.name, t.x.length])"
    before = dict(page.evaluate(drawn))
    page.locator("#classes button", has_text="keyword").click()
    page.wait_for_function("document.getElementById('chart').data.find((t) => t.name === 'keyword').x.length === 0")
    assert dict(page.evaluate(drawn)) == before | {"keyword": 0}
    assert before["keyword"] == 3
    assert page.locator("#classes [aria-pressed=false]").count() == 1


def test_the_keyboard_reaches_everything(visit):
    """Catches a control that only a mouse can use, and chart keys without effect."""
    page = visit()
    reached = set()
    for _ in range(40):
        page.keyboard.press("Tab")
        found = page.evaluate("document.activeElement.id || document.activeElement.name || document.activeElement.type")
        reached.add(found)
    assert {
        "view",
        "dims",
        "labels",
        "csv",
        "theme",
        "button",
        "chart",
        "closer",
        "farther",
        "reset",
        "search",
    } <= reached
    page.focus("#chart")
    spans = []
    for key in ("ArrowLeft", "+", "0"):
        spans.append(page.evaluate("document.getElementById('chart').layout.xaxis.range.slice()"))
        page.keyboard.press(key)
        page.wait_for_timeout(200)
    (low, high), (left, right), (closer_low, closer_high) = spans
    assert left < low
    assert right - left == pytest.approx(high - low)
    assert closer_high - closer_low == pytest.approx(0.8 * (high - low))
    assert page.evaluate("document.getElementById('chart').layout.xaxis.range[0]") == pytest.approx(low)


def test_rare_classes_are_drawn_on_top(visit):
    """Catches a few keywords hidden under many identifiers."""
    page = visit()
    drawn = page.evaluate("document.getElementById('chart').data.map((trace) => trace.x.length)")
    assert drawn == sorted(drawn, reverse=True)
    assert len(set(drawn)) > 1


def test_views_and_dimensions(visit):
    """Catches positions drawn as tokens, and a switch to 3D without effect."""
    page = visit()
    kinds = "[...new Set(document.getElementById('chart').data.map((t) => t.type))]"
    assert page.evaluate(kinds) == ["scatter"]
    page.check("#dims input[value='3']", force=True)
    page.wait_for_function("document.getElementById('chart').data[0].type === 'scatter3d'")
    page.check("#views input[value='positions']", force=True)
    page.wait_for_function("document.getElementById('chart').data[0].x.length === 12")
    assert "12 positions" in page.text_content("#facts")
    assert page.locator("#classes button").count() == 0
    assert search(page, "7") == ["position 7"]


@pytest.mark.parametrize("size", [WIDE, NARROW], ids=["wide", "narrow"])
def test_nothing_is_wider_than_the_screen(visit, size):
    """Catches a page that scrolls sideways, also with a token selected."""
    page = visit(size)
    search(page, "script")
    page.locator("#results button").first.click()
    page.wait_for_timeout(200)
    assert page.evaluate("document.documentElement.scrollWidth") <= size["width"]
    assert page.evaluate("document.getElementById('chart').offsetWidth") > 0.6 * size["width"] - 60


def test_light_and_dark(visit):
    """Catches a plot that stays light in dark mode, and a switch without effect."""
    colours = "[getComputedStyle(document.body).backgroundColor, document.getElementById('chart').layout.paper_bgcolor]"
    light, dark = visit(scheme="light"), visit(scheme="dark")
    for page in (light, dark):
        body, plot = page.evaluate(colours)
        assert body == plot
    assert light.evaluate(colours) != dark.evaluate(colours)
    light.click("#theme")
    light.wait_for_timeout(300)
    assert light.evaluate(colours) == dark.evaluate(colours)
