"""The attention page in a browser: it opens without errors, and every control works."""

import time

import numpy as np
import pytest

from tinygpt import GPT, GPTConfig
from tinygpt.viz.attention import visualize

from .attention_data import HOSTILE, TOKENIZER, spread
from .page_data import in_a_notebook, saved, window

PROMPT = "def main(x):\n\treturn main(x)\n" + HOSTILE
HOVERED = (20, 7)  # query, key


@pytest.fixture(scope="module")
def view():
    """Two layers of three heads, and a hostile prompt."""
    return visualize(spread(n_head=3, block_size=len(PROMPT) + 9), TOKENIZER, PROMPT, layer=1, head=2)


def cell(page, query, key):
    """Return the centre of a cell of the large map, relative to the map."""
    side = page.locator("#weights").bounding_box()["width"] / page.evaluate("T")
    return {"x": (key + 0.5) * side, "y": (query + 0.5) * side}


def shaded(page):
    """Return the attention weight by which each token of the text is shaded."""
    return [float(x) for x in page.eval_on_selector_all("#text button", "all => all.map((b) => b.dataset.weight)")]


def test_hostile_text_is_shown_and_does_nothing(opened, view):
    """Catches a prompt that runs as a script, becomes markup, or is not shown literally."""
    assert opened.evaluate("typeof hacked") == "undefined"
    assert opened.locator("#text").inner_text().replace("\n", "") == "".join(view.labels)
    assert opened.title() == "Attention: model"
    assert opened.locator("#text script, #text img").count() == 0


def test_the_weight_under_the_pointer_is_shown(opened, view):
    """Catches the transposed cell, the wrong head, a rounded weight, and a tooltip that stays."""
    query, key = HOVERED
    opened.locator("#grid").hover(position=cell(opened, query, key))
    told = opened.locator("#readout strong").inner_text()
    assert float(told) == pytest.approx(float(view.weights[1, 2, query, key]), rel=1e-5)
    assert opened.locator("#tip").inner_text() == told
    assert f"layer 1, head 2: {query} " in opened.locator("#readout").inner_text()
    opened.locator("#grid").hover(position=cell(opened, key, query))
    assert "a later token" in opened.locator("#readout").inner_text()
    opened.mouse.move(2, 2)
    assert opened.locator("#tip").is_hidden()


def test_the_map_is_read_by_keyboard(opened, view):
    """Catches a map that can be read with a pointer only."""
    opened.locator("#grid").focus()
    for name in ("ArrowUp", "ArrowUp", "ArrowRight", "ArrowUp"):
        opened.keyboard.press(name)
    query = len(view.ids) - 3  # the first key enters the map at the last row
    told = float(opened.locator("#readout strong").inner_text())
    assert told == pytest.approx(float(view.weights[1, 2, query, 1]), rel=1e-5)
    opened.keyboard.press("End")
    told = float(opened.locator("#readout strong").inner_text())
    assert told == pytest.approx(float(view.weights[1, 2, query, query]), rel=1e-5)


def test_the_map_is_painted_by_weight(opened, view):
    """Catches a transposed map, the map of the wrong head, and visible cells above the diagonal."""
    T = len(view.ids)
    pixels = opened.evaluate("[...byId('weights').getContext('2d').getImageData(0, 0, T, T).data]")
    pixels = np.array(pixels).reshape(T, T, 4)
    assert (pixels[..., 3] == 255 * np.tril(np.ones((T, T)))).all()
    rows, columns = np.tril_indices(T)
    order = np.argsort(view.weights[1, 2][rows, columns])
    red = pixels[rows, columns, 0][order]  # falls along the light ramp
    assert (np.diff(red) <= 0).all()
    assert red[0] > red[-1] + 100


def test_a_click_on_a_thumbnail_opens_the_head(opened):
    """Catches a thumbnail that opens the wrong head, and menus that do not follow it."""
    opened.get_by_role("button", name="layer 0, head 1").click()
    assert opened.locator("#one-title").inner_text() == "Layer 0, head 1"
    assert (opened.locator("#layer").input_value(), opened.locator("#head").input_value()) == ("0", "1")
    assert opened.locator("#chips [aria-pressed=true]").all_inner_texts() == ["1"]
    assert opened.locator("#overview [aria-current=true]").get_attribute("title") == "layer 0, head 1"
    opened.keyboard.press("ArrowDown")
    opened.keyboard.press("Enter")
    assert opened.locator("#one-title").inner_text() == "Layer 1, head 1"


def test_menus_open_heads_and_change_the_map(opened):
    """Catches a menu that changes nothing."""
    before = opened.evaluate("byId('weights').toDataURL()")
    opened.select_option("#head", "0")
    other = opened.evaluate("byId('weights').toDataURL()")
    opened.select_option("#shade", "linear")
    linear = opened.evaluate("byId('weights').toDataURL()")
    assert len({before, other, linear}) == 3
    assert opened.locator("#one-title").inner_text() == "Layer 1, head 0"
    wide = opened.locator("#weights").bounding_box()["width"]
    opened.select_option("#cells", "fit")
    assert opened.locator("#weights").bounding_box()["width"] < wide
    assert opened.evaluate("byId('frame').scrollWidth <= byId('frame').clientWidth")


def test_the_text_is_shaded_by_the_weights_of_a_token(opened, view):
    """Catches shading by the weights of the wrong token or layer, and a token that cannot be held."""
    tokens = opened.locator("#text button")
    tokens.nth(9).hover()
    expected = np.zeros(len(view.ids))
    expected[:10] = view.weights[1, :, 9, :10].max(0)
    np.testing.assert_allclose(shaded(opened), expected, rtol=1e-6)
    tokens.nth(12).click()
    tokens.nth(3).hover()
    assert opened.locator("#text .held").get_attribute("aria-label").startswith("12 ")
    opened.check("#average")
    expected[:13] = view.weights[1, :, 12, :13].astype(np.float64).mean(0)
    np.testing.assert_allclose(shaded(opened), expected, rtol=1e-6)
    opened.keyboard.press("Escape")
    tokens.nth(4).hover()
    assert opened.locator("#text .active").get_attribute("aria-label").startswith("4 ")
    tokens.nth(4).focus()
    opened.keyboard.press("ArrowRight")
    opened.keyboard.press("Enter")
    assert opened.locator("#text .held").get_attribute("aria-label").startswith("5 ")


def test_heads_are_toggled_and_isolated(opened, view):
    """Catches a click without effect, a double click that counts as two clicks, and no access by keyboard."""
    chips = opened.locator("#chips button")
    opened.locator("#text button").nth(9).click()
    chips.nth(0).click()
    assert opened.locator("#chips [aria-pressed=true]").all_inner_texts() == ["1", "2"]
    np.testing.assert_allclose(shaded(opened)[:10], view.weights[1, 1:, 9, :10].max(0), rtol=1e-6)
    chips.nth(1).dblclick()
    assert opened.locator("#chips [aria-pressed=true]").all_inner_texts() == ["1"]
    chips.nth(0).focus()
    opened.keyboard.press("Shift+Enter")
    assert opened.locator("#chips [aria-pressed=true]").all_inner_texts() == ["0"]
    opened.click("#every")
    assert opened.locator("#chips [aria-pressed=true]").count() == 3


def test_the_predictions_of_a_token_are_listed(opened, view):
    """Catches the predictions of the wrong token."""
    opened.locator("#text button").nth(9).hover()
    rows = opened.locator("#next tr")
    best = view.predictions[9]["best"]
    assert rows.locator("td:first-child").all_inner_texts() == [text for text, _ in best]
    told = [float(text) for text in rows.locator("td:last-child").all_inner_texts()]
    np.testing.assert_allclose(told, [p for _, p in best], rtol=1e-5)
    assert f"rank {view.predictions[9]['rank']}," in opened.locator("#next").inner_text()


def test_a_table_sorts_both_ways(opened, view):
    """Catches a sort by text, a sort by the wrong column, and numbers separated from their heads."""
    induction = view.summaries()["induction"].reshape(-1)
    header = opened.locator("#summaries th button", has_text="induction")
    for order, sign in (("descending", -1), ("ascending", 1)):
        header.click()
        assert opened.locator(f"#summaries th[aria-sort={order}]").inner_text().startswith("induction")
        shown = opened.locator("#summaries tbody td:first-child").all_inner_texts()
        assert shown == [f"{i // 3}.{i % 3}" for i in np.argsort(sign * induction, kind="stable")]
    told = opened.locator("#summaries tbody td:last-child").all_inner_texts()
    assert told == [f"{value:.3f}" for value in np.sort(induction)]
    opened.locator("#summaries tbody td button").first.click()
    i = int(np.argmin(induction))
    assert opened.locator("#one-title").inner_text() == f"Layer {i // 3}, head {i % 3}"


def test_everything_is_saved(opened, view):
    """Catches wrong numbers, truncated digits, a lost row, and a cell that a spreadsheet would run as a formula."""
    T = len(view.ids)
    header, *rows = saved(opened, "#save-head")
    assert header == ["query", "query token", "key", "key token", "weight"]
    assert len(rows) == T * (T + 1) // 2
    for query, _, key, _, weight in rows:
        assert np.float32(weight) == view.weights[1, 2, int(query), int(key)]
    assert [row[1] for row in rows if row[2] == "0"] == view.labels
    header, *rows = saved(opened, "#save-all")
    assert len(rows) == 6 * T * (T + 1) // 2
    for layer, head, query, key, weight in rows[:: 7 * T]:
        assert np.float32(weight) == view.weights[int(layer), int(head), int(query), int(key)]
    header, *rows = saved(opened, "#save-summaries")
    np.testing.assert_allclose(
        [[float(x) for x in row[2:]] for row in rows],
        [*zip(*(v.ravel() for v in view.summaries().values()), strict=True)],
    )
    header, *rows = saved(opened, "#save-predictions")
    assert [row[1] for row in rows] == view.labels
    assert opened.evaluate("['=1', '@x', '-', '-1', 'a'].map(csvField)") == ["'=1", "'@x", "-", "'-1", "a"]


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [400, 1400])
def test_it_fits_every_width_and_colour_scheme(browser, file, scheme, width):
    """Catches a page wider than its window, and colours that do not follow the theme."""
    back = "getComputedStyle(document.body).backgroundColor"
    dark = "rgb(20, 23, 28)"
    for page in window(browser, file, viewport={"width": width, "height": 800}, color_scheme=scheme):
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        assert (page.evaluate(back) == dark) == (scheme == "dark")
        before = page.evaluate("byId('weights').toDataURL()")
        page.click("#theme")
        assert (page.evaluate(back) == dark) == (scheme == "light")
        assert page.evaluate("byId('weights').toDataURL()") != before


def test_it_works_by_touch(browser, file, view):
    """Catches a control that only a hovering pointer can reach."""
    for page in window(browser, file, viewport={"width": 400, "height": 800}, has_touch=True):
        page.locator("#text button").nth(5).tap()
        assert page.locator("#text .held").get_attribute("aria-label").startswith("5 ")
        page.locator("#grid").tap(position=cell(page, 3, 2))
        told = float(page.locator("#readout strong").inner_text())
        assert told == pytest.approx(float(view.weights[1, 2, 3, 2]), rel=1e-5)


def test_a_notebook_runs_it_in_its_frame(browser, view, tmp_path):
    """Catches a script that needs permissions a sandboxed frame lacks."""
    with in_a_notebook(browser, view, tmp_path) as inside:
        inside.get_by_role("button", name="layer 0, head 1").click()
        assert inside.locator("#one-title").inner_text() == "Layer 0, head 1"


def test_a_large_page_opens(browser, tmp_path, record_property):
    """Catches a page of 12 layers, 12 heads and 128 tokens that does not open. The time is recorded, not tested."""
    config = GPTConfig(vocab_size=TOKENIZER.vocab_size, block_size=128, n_layer=12, n_head=12, n_embd=96)
    path = tmp_path / "large.html"
    visualize(GPT(config, seed=1), TOKENIZER, "def main(x):\n" * 10).save(path)
    start = time.perf_counter()
    for page in window(browser, path):
        record_property("seconds_to_open", round(time.perf_counter() - start, 2))
        assert page.locator("#overview canvas").count() == 144
        assert page.locator("#text button").count() == 128
