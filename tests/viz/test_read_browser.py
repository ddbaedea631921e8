"""The read page in a browser: it opens without errors, and every control works."""

import math

import numpy as np
import pytest

from tinygpt.viz.labels import label
from tinygpt.viz.read import read

from .page_data import in_a_notebook, saved, window
from .read_data import CODE, TEXT, TOKENIZER, spread

HELD = 12


@pytest.fixture(scope="module")
def view():
    """Two layers, overlapping windows, and a hostile text."""
    return read(spread(), TOKENIZER, TEXT, window=40, stride=20, file="a</title>.py")


def token(page, i):
    return page.locator(f"#text [data-i='{i}']").first


def told_bits(page):
    return float(page.locator("#bits").inner_text().split()[0])


def greys(page, n):
    """Return the brightness of each token's background."""
    colours = page.evaluate(f"[...Array({n}).keys()].map((i) => getComputedStyle(spans[i][0]).backgroundColor)")
    return np.array([[float(x) for x in c[c.index("(") + 1 : -1].split(",")[:3]] for c in colours]).sum(1)


def test_hostile_text_is_shown_and_does_nothing(opened, view):
    """Catches a text that runs as a script, becomes markup, or is not shown literally, line by line."""
    assert opened.evaluate("typeof hacked") == "undefined"
    assert opened.locator("#text script, #text img").count() == 0
    lines = opened.locator("#text code").evaluate_all("all => all.map((code) => code.textContent)")
    shown = "\n".join(lines)
    assert CODE in shown
    assert "</script><script>hacked=1</script>\"'&<!--[U+2028]" in shown
    assert len(lines) == int(view.places[0][-1])
    assert opened.title() == "a</title>.py, read by model"


def test_the_token_under_the_pointer_is_described(opened, view):
    """Catches the surprisal, rank or predictions of a neighbouring token."""
    token(opened, HELD).hover()
    panel = opened.locator("#token").inner_text()
    assert told_bits(opened) == pytest.approx(view.bits[HELD - 1], abs=6e-4)
    assert f"rank {view.ranks[HELD - 1]} of {TOKENIZER.vocab_size}" in panel
    assert f"predicted from {view.context[HELD - 1]} tokens" in panel
    rows = opened.locator("#token .best tr")
    best = [label(TOKENIZER, i) for i in view.best[HELD - 1].tolist()]
    assert rows.locator("td:first-child").all_inner_texts() == best
    told = [float(text) for text in rows.locator("td:last-child").all_inner_texts()]
    np.testing.assert_allclose(told, view.p[HELD - 1], rtol=1e-4)
    layers = opened.locator("#token .lens tbody tr")
    assert layers.locator("td:nth-child(1)").all_inner_texts() == ["embeddings", "layer 0", "layer 1, last"]
    tops = [label(TOKENIZER, i) for i in view.lens.top[:, HELD - 1].tolist()]
    assert layers.locator("td:nth-child(2)").all_inner_texts() == tops
    assert layers.locator("td:nth-child(5)").all_inner_texts() == [str(i) for i in view.lens.ranks[:, HELD - 1]]
    true = [float(text) for text in layers.locator("td:nth-child(4)").all_inner_texts()]
    np.testing.assert_allclose(true, np.exp(-view.lens.losses[:, HELD - 1]), atol=6e-4)
    token(opened, 0).hover()
    assert "not predicted" in opened.locator("#token").inner_text()


def test_a_click_holds_a_token(opened, view):
    """Catches a token that cannot be held or released."""
    token(opened, HELD).click()
    token(opened, 5).hover()
    assert told_bits(opened) == pytest.approx(view.bits[HELD - 1], abs=6e-4)
    assert opened.locator("#text .held").first.get_attribute("data-i") == str(HELD)
    opened.keyboard.press("Escape")
    token(opened, 7).hover()
    assert told_bits(opened) == pytest.approx(view.bits[6], abs=6e-4)
    token(opened, 5).click()
    token(opened, 5).click()
    assert opened.locator("#text .held").count() == 0


def test_the_text_is_read_by_keyboard(opened, view):
    """Catches a text that only a pointer can read, and keys that ignore the lines."""
    opened.locator("#text").focus()
    for key, i in (("ArrowRight", 2), ("ArrowRight", 3), ("ArrowLeft", 2)):
        opened.keyboard.press(key)
        assert opened.evaluate("view.active") == i
    assert told_bits(opened) == pytest.approx(view.bits[1], abs=6e-4)
    line = view.places[0]
    opened.keyboard.press("ArrowDown")
    assert line[opened.evaluate("view.active")] == 2
    opened.keyboard.press("End")
    assert opened.evaluate("view.active") == int(np.flatnonzero(line == 2)[-1])
    opened.keyboard.press("Home")
    assert opened.evaluate("view.active") == int(np.flatnonzero(line == 2)[0])
    opened.keyboard.press("Enter")
    held = opened.locator("#text .held").first
    assert held.get_attribute("aria-label").endswith(" bits")
    assert opened.locator("#text").get_attribute("aria-activedescendant") == held.get_attribute("id")
    opened.keyboard.press("PageDown")
    assert opened.evaluate("view.held") == len(view.ids) - 1
    box, end = opened.locator("#text").bounding_box(), token(opened, len(view.ids) - 1).bounding_box()
    assert box["y"] <= end["y"] <= box["y"] + box["height"]


def test_darker_is_more_surprising(opened, view):
    """Catches the colours of other tokens, and a scale that differs in hue alone."""
    order = np.argsort(view.bits)
    steps = greys(opened, len(view.ids))[1:][order]
    assert (np.diff(steps) <= 0).all()
    assert steps[0] > steps[-1] + 100


def test_bars_show_the_bits_of_each_line(opened, view):
    """Catches a token counted on the next line, and the bar of the wrong line."""
    sums = np.bincount(view.places[0][1:], view.bits)[1:]
    told = opened.eval_on_selector_all("#text .line", "all => all.map((line) => Number(line.dataset.bits))")
    np.testing.assert_allclose(told, sums, rtol=1e-6)
    widths = opened.eval_on_selector_all("#text .bar i", "all => all.map((bar) => parseFloat(bar.style.width))")
    np.testing.assert_allclose(widths, 100 * sums / sums.max(), rtol=1e-4)
    counts = np.bincount(view.places[0][1:])[1:]
    means = sums / np.maximum(1, counts)
    opened.select_option("#bars", "mean")
    widths = opened.eval_on_selector_all("#text .bar i", "all => all.map((bar) => parseFloat(bar.style.width))")
    np.testing.assert_allclose(widths, 100 * means / means.max(), rtol=1e-4)


def test_a_layer_colours_the_text(opened, view):
    """Catches a menu without effect, and a layer that shows another layer's numbers."""
    for k, name in ((0, "embeddings"), (1, "layer 0"), (2, "layer 1, last")):
        opened.select_option("#layer", label=name)
        order = np.argsort(view.lens.losses[k])
        assert (np.diff(greys(opened, len(view.ids))[1:][order]) <= 0).all()
        total = view.lens.losses[k].sum(dtype=np.float64) / math.log(2)
        assert f"After {name}: {total:.1f} bits in total" in opened.locator("#mean").inner_text()
    opened.locator("#lens tbody button", has_text="embeddings").click()
    assert opened.locator("#layer").input_value() == "0"
    assert opened.locator("#lens tr[aria-current=true] td:first-child").inner_text() == "embeddings"
    token(opened, HELD).click()
    opened.locator("#token .lens button").nth(1).click()
    assert opened.locator("#layer").input_value() == "1"


def test_the_table_of_layers(opened, view):
    """Catches a mean or a share of the wrong layer."""
    rows = opened.locator("#lens tbody tr")
    bits = [f"{x:.3f}" for x in view.lens.losses.mean(1, dtype=np.float64) / math.log(2)]
    assert rows.locator("td:nth-child(2)").all_inner_texts() == bits
    right = [f"{100 * x:.1f} %" for x in (view.lens.ranks == 1).mean(1)]
    assert rows.locator("td:nth-child(3)").all_inner_texts() == right
    agreed = [f"{100 * x:.1f} %" for x in (view.lens.top == view.best[:, 0]).mean(1)]
    assert rows.locator("td:nth-child(4)").all_inner_texts() == agreed


def test_a_click_on_a_surprising_place_goes_there(opened, view):
    """Catches positions in the wrong order, and a click that scrolls to the wrong one."""
    worst = np.argsort(-view.losses, kind="stable")[:50] + 1
    line, column = view.places
    links = opened.locator("#surprising tbody button")
    assert links.all_inner_texts() == [f"{line[i]}:{column[i]}" for i in worst]
    last = int(worst[int(np.argmax(worst))])  # near the end of the text
    links.nth(int(np.argmax(worst))).click()
    assert opened.evaluate("view.held") == last
    box, found = opened.locator("#text").bounding_box(), token(opened, last).bounding_box()
    assert box["y"] <= found["y"] <= box["y"] + box["height"]
    assert 0 <= found["y"] <= 900


def test_everything_is_saved(opened, view):
    """Catches wrong numbers, truncated digits, a lost row, and a cell that a spreadsheet would run as a formula."""
    header, first, *rows = saved(opened, "#save-tokens")
    assert header[:8] == ["position", "line", "column", "token", "loss", "bits", "rank", "context"]
    assert first[4:] == [""] * (len(header) - 4)
    assert [np.float32(row[4]) for row in rows] == view.losses.tolist()
    np.testing.assert_allclose([float(row[5]) for row in rows], view.bits)
    assert [int(row[6]) for row in rows] == view.ranks.tolist()
    assert [[np.float32(x) for x in row[9::2]] for row in rows] == view.p.tolist()
    names = [label(TOKENIZER, i) for i in view.ids[1:].tolist()]
    assert [row[3].removeprefix("'") for row in rows] == [name.removeprefix("'") for name in names]
    header, *rows = saved(opened, "#save-lines")
    np.testing.assert_allclose([float(row[2]) for row in rows], np.bincount(view.places[0][1:], view.bits)[1:])
    header, *rows = saved(opened, "#save-lens")
    assert len(rows) == view.lens.losses.size
    assert [np.float32(row[3]) for row in rows] == view.lens.losses.ravel().tolist()
    assert [int(row[4]) for row in rows] == view.lens.ranks.ravel().tolist()


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [400, 1400])
def test_it_is_readable_at_every_width_and_colour_scheme(browser, file, view, scheme, width):
    """Catches a page wider than its window, colours that ignore the theme, and text with too little contrast."""
    for page in window(browser, file, viewport={"width": width, "height": 800}, color_scheme=scheme):
        token(page, HELD).click()
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        before = greys(page, len(view.ids))
        page.click("#theme")
        assert (greys(page, len(view.ids))[1:] != before[1:]).all()
        for share in (0, 0.25, 0.5, 0.75, 1):
            back, fore = page.evaluate(f"colours({share})")
            channels = [int(x) / 255 for x in back[4:-1].split()]
            r, g, b = (((x + 0.055) / 1.055) ** 2.4 if x > 0.04 else x / 12.92 for x in channels)
            light = 0.2126 * r + 0.7152 * g + 0.0722 * b
            contrast = (light + 0.05) / 0.05 if fore == "#000000" else 1.05 / (light + 0.05)
            assert contrast >= 4.5  # WCAG 2.2, level AA


def test_it_works_by_touch(browser, file, view):
    """Catches a control that only a hovering pointer can reach."""
    for page in window(browser, file, viewport={"width": 400, "height": 800}, has_touch=True):
        token(page, HELD).tap()
        assert told_bits(page) == pytest.approx(view.bits[HELD - 1], abs=6e-4)
        panel = page.locator("#token").bounding_box()
        assert panel["y"] + panel["height"] <= 801  # visible without scrolling


def test_blanks_can_be_shown(opened):
    """Catches a switch without effect."""
    content = "getComputedStyle(document.querySelector('#text .space'), '::before').content"
    assert opened.evaluate(content) == "none"
    opened.check("#blanks")
    assert opened.evaluate(content) == '"·"'


def test_a_notebook_runs_it_in_its_frame(browser, view, tmp_path):
    """Catches a script that needs permissions a sandboxed frame lacks."""
    with in_a_notebook(browser, view, tmp_path) as inside:
        inside.locator(f"#text [data-i='{HELD}']").first.click()
        assert "(held)" in inside.locator("#token").inner_text()
