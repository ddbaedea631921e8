"""The trace page in a browser: it opens without errors, every step can be reached, and its numbers are right."""

import numpy as np
import pytest

from tinygpt import GPT, GPTConfig
from tinygpt.viz.trace import trace_page

from .attention_data import HOSTILE, TOKENIZER, spread
from .page_data import in_a_notebook, saved, window

PROMPT = "x = \t\n" + HOSTILE


@pytest.fixture(scope="module")
def view():
    """Grouped heads, rotary positions, gradients, and a hostile prompt."""
    return trace_page(spread("grouped"), TOKENIZER, PROMPT, max_tokens=40, backward=True, head=2)


def open_step(page, name):
    """Open a step by clicking its part of the model and then its button."""
    part = f"block {name.split('.')[1]}" if name.startswith("blocks") else name.split(".")[0]
    page.locator("#way").get_by_role("button", name=part, exact=True).click()
    page.locator(f'#stations [data-name="{name}"]').click()
    assert page.locator("#title").inner_text() == name


def readout(page):
    return float(page.locator("#readout strong").inner_text().replace("−", "-"))


def test_hostile_text_is_shown_and_does_nothing(opened, view):
    """Catches a prompt that runs as a script, becomes markup, or is not shown literally."""
    assert opened.evaluate("typeof hacked") == "undefined"
    assert opened.title() == "Trace: model"
    assert opened.locator("#list .token").all_inner_texts() == view.labels
    assert opened.locator("main script, main img").count() == 0


def test_keys_and_buttons_reach_every_step(opened, view):
    """Catches a skipped step, a key that leads past either end, and keys or buttons without effect."""
    names = ["tokens", *view.steps]
    assert opened.locator("#back").is_disabled()
    for name in names[1:]:
        opened.keyboard.press("ArrowRight")
        assert opened.locator("#title").inner_text() == name
    assert opened.locator("#next").is_disabled()
    opened.keyboard.press("ArrowRight")
    assert opened.locator("#where").inner_text() == f"{len(names)} of {len(names)}"
    opened.keyboard.press("ArrowLeft")
    opened.click("#back")
    opened.click("#back")
    opened.click("#next")
    assert opened.locator("#title").inner_text() == "probabilities"
    assert opened.locator('#way [aria-current="true"]').inner_text() == "probabilities"
    assert opened.locator('#stations [aria-current="true"]').inner_text() == "probabilities"


def test_every_step_is_described(opened, view):
    """Catches the formula, shape, statistics or source line of the wrong step."""
    for name in ("embed.token", "blocks.1.attn.scores", "blocks.0.mlp.silu", "norm"):
        step = view.steps[name]
        open_step(opened, name)
        assert opened.locator("#formula").inner_text() == step.formula
        assert opened.locator("#words").inner_text() == step.text.words
        assert f"({', '.join(map(str, step.shape))}) float32" in opened.locator("#shape").inner_text()
        assert opened.locator("#source").inner_text() == f"computed by {step.source}, for {step.caller}"
        told = [float(text.replace("−", "-")) for text in opened.locator("#stats td").all_inner_texts()[:4]]
        np.testing.assert_allclose(told, step.stats[:4], rtol=1e-3)
    open_step(opened, "blocks.1.attn.scores")
    assert "±∞" in opened.locator("#stats").inner_text()


def test_the_value_under_the_pointer_is_shown(opened, view):
    """Catches the transposed cell, the wrong head, and values shown as gradients."""
    open_step(opened, "blocks.1.attn.softmax")
    box = opened.locator("#cells").bounding_box()
    side = box["width"] / 40, box["height"] / 40
    spot = {"x": 3.5 * side[0], "y": 20.5 * side[1]}
    opened.locator("#grid").hover(position=spot)
    step = view.steps["blocks.1.attn.softmax"]
    assert readout(opened) == pytest.approx(step.array[0, 2, 20, 3], rel=1e-4)
    opened.select_option("#head", "0")
    opened.locator("#grid").hover(position=spot | {"x": 3.6 * side[0]})
    assert readout(opened) == pytest.approx(step.array[0, 0, 20, 3], rel=1e-4)
    opened.select_option("#show", "gradient")
    opened.locator("#grid").hover(position=spot)
    assert readout(opened) == pytest.approx(step.gradient[0, 0, 20, 3], rel=1e-4)


def test_the_map_is_read_by_keyboard(opened, view):
    """Catches a map that only a pointer can read, and arrow keys that move the focus away from it."""
    open_step(opened, "blocks.0.residual1")
    opened.locator("#grid").focus()
    for key in ("ArrowUp", "ArrowUp", "ArrowRight", "ArrowRight", "ArrowDown"):
        opened.keyboard.press(key)
    array = view.steps["blocks.0.residual1"].array[0]
    assert readout(opened) == pytest.approx(array[39, 2], rel=1e-4)
    opened.keyboard.press("ArrowUp")
    opened.keyboard.press("Enter")
    assert opened.locator("#position").input_value() == "38"
    assert opened.locator("#title").inner_text() == "blocks.0.residual1"


def test_the_map_is_painted_by_value(opened, view):
    """Catches a transposed map, and visible cells above the diagonal."""
    open_step(opened, "blocks.1.attn.softmax")
    pixels = opened.evaluate("[...byId('cells').getContext('2d').getImageData(0, 0, 40, 40).data]")
    pixels = np.array(pixels).reshape(40, 40, 4)
    assert (pixels[..., 3] == 255 * np.tril(np.ones((40, 40)))).all()
    rows, columns = np.tril_indices(40)
    order = np.argsort(view.steps["blocks.1.attn.softmax"].array[0, 2][rows, columns])
    red = pixels[rows, columns, 0][order]
    assert (np.diff(red) <= 0).all()
    assert red[0] > red[-1] + 100


def test_the_last_step_shows_the_predictions(opened, view):
    """Catches probabilities of the wrong position, and a true token that is not marked."""
    open_step(opened, "probabilities")
    for t in (39, 0):
        opened.select_option("#position", str(t))
        told = [float(text.replace("−", "-")) for text in opened.locator("#list .value").all_inner_texts()]
        np.testing.assert_allclose(told, [p for _, p in view.predictions()[t]["best"]], rtol=1e-4)
        assert opened.locator("#list .row .token").first.inner_text() == view.predictions()[t]["best"][0][0]
    assert "In the prompt" in opened.locator("#list").inner_text()


def test_ids_have_no_bars(opened):
    """Catches token ids drawn as bars, as if they were quantities."""
    opened.locator("#way button").first.click()
    assert opened.locator("#list .row").count() > 0
    assert opened.locator("#list .bar:visible").count() == 0


def test_what_is_saved_is_what_is_shown(opened, view):
    """Catches a CSV file of the wrong step, of one head only, or with truncated digits."""
    header, *rows = saved(opened, "#save")
    assert header == ["position", "token", "id"]
    assert [int(row[2]) for row in rows] == view.ids.tolist()
    open_step(opened, "blocks.0.attn.q.rotated")
    header, *rows = saved(opened, "#save")
    assert header == ["head", "position", "token", "column", "column name", "value"]
    array = view.steps["blocks.0.attn.q.rotated"].array
    assert len(rows) == array.size
    for head, position, _, column, _, value in rows[::17]:
        assert np.float32(value) == array[0, int(position), int(head), int(column)]
    opened.select_option("#show", "gradient")
    _, *rows = saved(opened, "#save")
    assert np.float32(rows[5][-1]) == view.steps["blocks.0.attn.q.rotated"].gradient[0, 1, 0, 1]


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [400, 1400])
def test_it_fits_every_width_and_colour_scheme(browser, file, scheme, width):
    """Catches a page wider than its window, and colours that do not follow the theme."""
    dark = "rgb(20, 23, 28)"
    back = "getComputedStyle(document.body).backgroundColor"
    for page in window(browser, file, viewport={"width": width, "height": 800}, color_scheme=scheme):
        for name in ("tokens", "blocks.1.attn.scores", "blocks.1.mlp.up", "norm.rstd", "probabilities", "loss"):
            page.evaluate("(name) => go(stations.findIndex((one) => one.name === name))", name)
            assert page.evaluate("document.documentElement.scrollWidth") <= width
        page.evaluate("go(12)")
        before = page.evaluate("byId('cells').toDataURL()")
        assert (page.evaluate(back) == dark) == (scheme == "dark")
        page.click("#theme")
        assert (page.evaluate(back) == dark) == (scheme == "light")
        assert page.evaluate("byId('cells').toDataURL()") != before


def test_a_large_page_opens_at_the_requested_step(browser, tmp_path):
    """Catches wrongly decoded float16 numbers, thinning that is not mentioned, and the wrong first step."""
    config = GPTConfig(vocab_size=TOKENIZER.vocab_size, block_size=64, n_layer=12, n_head=12, n_embd=768, ffn_dim=1024)
    first = "blocks.7.mlp.up"
    view = trace_page(GPT(config, seed=1), TOKENIZER, "def main(x):\n" * 5, first=first)
    view.save(tmp_path / "large.html")
    for page in window(browser, tmp_path / "large.html"):
        assert page.locator("#title").inner_text() == first
        assert "of 1024 columns" in page.locator("#thinned").inner_text()
        assert "three digits" in page.locator("#thinned").inner_text()
        assert "saturate above its 99th percentile" in page.locator("#thinned").inner_text()
        assert "The prompt has 65 tokens; the first 32 are shown" in page.locator("#cut").inner_text()
        page.locator("#grid").focus()
        for key in ("ArrowDown", "ArrowUp", "ArrowRight", "ArrowRight"):
            page.keyboard.press(key)
        every = page.evaluate("current().every")
        assert readout(page) == pytest.approx(view.steps[first].array[0, 30, 2 * every], rel=2e-3)


def test_a_notebook_runs_it_in_its_frame(browser, view, tmp_path):
    """Catches a script that needs permissions a sandboxed frame lacks."""
    with in_a_notebook(browser, view, tmp_path) as inside:
        inside.locator("#next").click()
        assert inside.locator("#title").inner_text() == "embed.token"
