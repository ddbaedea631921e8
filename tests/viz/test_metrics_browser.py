"""The metrics page in a browser: every control works, and nothing is requested, run or reported as an error."""

import csv
import io

import pytest
from run_data import SETTINGS, WICKED, guessing, records, run, watch

from tinygpt.viz.metrics import MetricsPage, page

from .page_data import json_of

WIDE, NARROW = {"width": 1400, "height": 900}, {"width": 400, "height": 800}
DRAWN = "(id) => document.getElementById(`chart-${id}`).data.map((t) => ({ x: t.x, y: t.y, color: t.line.color }))"
LAYOUT = "(id) => document.getElementById(`chart-${id}`).layout"


def one_run(**changes):
    return page(run(WICKED, settings=SETTINGS | {WICKED: WICKED}, notes=[WICKED], watch=watch(), **changes))


def two_runs():
    other = run("runs/<b>two</b>", 40, settings=SETTINGS | {"lr": 0.5, "data": [WICKED]})
    return page([run("runs/one", watch=watch()), other])


@pytest.fixture
def visit(browser, tmp_path):
    """Open a page; afterwards fail on any network request, console error or script that ran."""
    contexts, requests, complaints = [], [], []
    path = tmp_path / "page.html"

    def start(shown, size=WIDE, scheme="light"):
        shown.save(path)
        contexts.append(browser.new_context(viewport=size, color_scheme=scheme, offline=True))
        tab = contexts[-1].new_page()
        tab.clock.install()  # so that a test can advance the time instead of waiting
        tab.on("console", lambda message: complaints.append(message.text) if message.type == "error" else None)
        tab.on("pageerror", lambda error: complaints.append(str(error)))
        tab.on("request", lambda request: requests.append(request.url))
        tab.goto(path.as_uri())
        tab.wait_for_selector("body[data-ready=yes]", timeout=60_000)
        return tab

    yield start
    for context in contexts:
        for tab in context.pages:
            assert tab.evaluate("typeof window.bad") == "undefined"
        context.close()
    assert {url for url in requests if not url.startswith(("data:", "blob:"))} <= {path.as_uri()}
    assert complaints == []


def test_the_curves_are_the_data(visit):
    """Catches a curve drawn from wrong values, and a missing line for the loss of guessing or for clipping."""
    tab = visit(one_run())
    guess, raw, smooth, held = tab.evaluate(DRAWN, "loss")
    curves = json_of(one_run().html)["runs"][0]["curves"]
    assert guess["y"] == [pytest.approx(guessing())] * 2
    for drawn, name in ((raw, "loss"), (smooth, "loss_smooth"), (held, "val")):
        assert (drawn["x"], drawn["y"]) == (curves[name]["step"], curves[name]["y"])
    assert tab.evaluate(DRAWN, "grad")[-1]["y"] == [1, 1]
    assert tab.evaluate(DRAWN, "lr")[0]["y"] == curves["lr"]["y"]
    assert tab.evaluate(DRAWN, "peak")[0]["y"] == [25] * 60
    marks = tab.evaluate("document.getElementById('chart-lr').layout")
    assert [mark["x0"] for mark in marks["shapes"]] == [6]
    assert "warm-up ends" in marks["annotations"][0]["text"]


def test_steps_and_time(visit):
    """Catches a switch without effect, times drawn as steps, and one chart that keeps the old axis."""
    tab = visit(one_run())
    tab.check("#axis input[value='time']", force=True)
    tab.wait_for_function("document.getElementById('chart-loss').layout.xaxis.title.text === 'training time, s'")
    curves = json_of(one_run().html)["runs"][0]["curves"]
    for name, where in (("loss", 1), ("lr", 0), ("watch-update", 0)):
        x = tab.evaluate(DRAWN, name)[where]["x"]
        assert x == (curves[name]["seconds"] if name in curves else [i / 2 + 0.5 for i in range(0, 60, 10)])
    tab.check("#axis input[value='step']", force=True)
    tab.wait_for_function("document.getElementById('chart-loss').layout.xaxis.title.text === 'step'")


def test_switches_change_the_charts(visit):
    """Catches raw curves that stay visible, and a logarithmic axis that is linear."""
    tab = visit(one_run())
    before = {name: len(tab.evaluate(DRAWN, name)) for name in ("loss", "lr", "rate")}
    tab.click("#raw")
    tab.wait_for_function("document.getElementById('raw').getAttribute('aria-pressed') === 'false'")
    assert {name: len(tab.evaluate(DRAWN, name)) for name in before} == {"loss": 3, "lr": 1, "rate": 1}
    assert before == {"loss": 4, "lr": 1, "rate": 2}
    tab.check("#scale input[value='log']", force=True)
    assert tab.evaluate("document.getElementById('chart-loss').layout.yaxis.type") == "log"
    assert tab.evaluate("document.getElementById('chart-lr').layout.yaxis.type") == "linear"


def test_the_summary_has_the_figures_of_the_run(visit):
    """Catches a missing or swapped figure, and hostile text that becomes an element."""
    tab = visit(one_run(state="stopped", score=1.5))
    cards = dict(zip(tab.locator("dt").all_text_contents(), tab.locator("dd").all_text_contents(), strict=True))
    assert cards["Training loss, first step"].startswith("5.0000guessing: ln 100 = 4.605")
    assert cards["Training loss, lowest"] == "4.0781at step 60"
    assert cards["Loss on the whole validation split"].startswith("1.5000")
    assert cards["Tokens seen"].endswith("7,680")
    assert cards["Parameters"].endswith("12,345")
    assert tab.text_content("#state") == "stopped after 60 of 60 steps"
    assert tab.text_content("#names") == WICKED
    assert tab.text_content("#notes") == WICKED
    tab.click("#settings-box summary")
    row = tab.locator("#settings tr").last
    assert (row.locator("th").text_content(), row.locator("td").text_content()) == (WICKED, WICKED)
    for selector in ("body img", "body b", "#settings script", "#chart-loss script"):
        assert tab.locator(selector).count() == 0


def test_runs_are_compared(visit):
    """Catches a column that is equal in all runs, runs of the same colour, and a switch without effect."""
    tab = visit(two_runs())
    heads = tab.locator("#runs th").all_text_contents()
    assert heads[:3] == ["run", "data", "lr"]
    assert "batch" not in heads
    rows = [row.locator("td").all_text_contents() for row in tab.locator("#runs tbody tr").all()]
    assert [row[:3] for row in rows] == [["runs/one", "src, lib", "0.001"], ["runs/<b>two</b>", WICKED, "0.5"]]
    drawn = tab.evaluate(DRAWN, "loss")
    assert len(drawn) == 7
    assert len({trace["color"] for trace in drawn}) == 5  # one colour for guessing, a faint and a full one for each run
    tab.locator("#legend button").nth(1).click()
    tab.wait_for_function("document.getElementById('chart-loss').data.length === 4")
    assert len(tab.evaluate(DRAWN, "lr")) == 1
    tab.locator("#legend button").nth(0).click()  # the last visible run cannot be hidden
    assert len(tab.evaluate(DRAWN, "lr")) == 1
    tab.click("#runs th button >> text=lr")
    assert tab.locator("#runs tbody tr").first.locator("td").nth(2).text_content() == "0.5"


def test_the_csv_is_the_data(visit):
    """Catches a lost row or number, and a cell that a spreadsheet would run as a formula."""
    tab = visit(one_run())
    with tab.expect_download() as download:
        tab.click("#csv")
    with open(download.value.path(), encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(io.StringIO(file.read())))
    assert {row["run"] for row in rows} == {WICKED}
    losses = [(int(row["step"]), float(row["value"])) for row in rows if row["curve"] == "loss"]
    assert losses == [(r["step"] + 1, pytest.approx(r["loss"])) for r in records() if "loss" in r]
    assert [float(row["seconds"]) for row in rows if row["curve"] == "val_loss"] == [10, 20, 30]
    with tab.expect_download() as download:
        tab.click("#watch-csv")
    with open(download.value.path(), encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(io.StringIO(file.read())))
    assert len(rows) == 6 * (5 + 2)
    assert [row["dead"] for row in rows if row["layer"] == "block 1" and row["part"] == "mlp"] == ["0.125"] * 6


def test_layers_are_chosen(visit):
    """Catches a menu without effect, and the lines of the wrong layer."""
    tab = visit(one_run())
    assert tab.locator("#layer option").all_text_contents() == ["all layers", "embeddings", "block 0", "block 1"]
    captions = ".charts.three figcaption"
    assert len(tab.evaluate(DRAWN, "watch-update")) == 3  # two parts, and the band of usual values
    assert tab.evaluate(DRAWN, "watch-dead")[0]["y"] == [0] * 6
    tab.select_option("#layer", "block 1")
    assert tab.evaluate(DRAWN, "watch-dead")[0]["y"] == [12.5] * 6
    assert tab.locator(captions).all_text_contents() == ["attn.qkvweights", "mlp.upweights", "mlpactivations"]
    tab.select_option("#part", "mlp.up")
    assert len(tab.evaluate(DRAWN, "watch-update")) == 2
    tab.select_option("#layer", "")
    tab.select_option("#part", "")
    assert len(tab.evaluate(DRAWN, "watch-update")) == 6
    assert tab.locator(captions).count() == 7


def test_the_keyboard_reaches_everything(visit):
    """Catches a control that only a mouse can use, and chart keys without effect."""
    tab = visit(one_run())
    reached = set()
    for _ in range(40):
        tab.keyboard.press("Tab")
        reached.add(
            tab.evaluate("document.activeElement.id || document.activeElement.name || document.activeElement.tagName")
        )
    assert {"theme", "axis", "scale", "raw", "all", "csv", "chart-loss", "chart-lr", "layer", "part", "watch-csv",
            "SUMMARY"} <= reached  # fmt: skip
    tab.focus("#chart-loss")
    spans = []
    for key in ("+", "ArrowRight", "0"):
        tab.keyboard.press(key)
        tab.wait_for_timeout(150)
        spans.append(tab.evaluate("document.getElementById('chart-lr').layout.xaxis.range.slice()"))
    closer, right, whole = spans
    assert whole == [0, 60]
    assert closer[1] - closer[0] == pytest.approx(0.7 * 60)
    assert right[0] > closer[0]
    assert right[1] - right[0] == pytest.approx(closer[1] - closer[0])


def test_dragging_zooms_all_charts(visit):
    """Catches charts whose step axes no longer agree."""
    tab = visit(one_run())
    box = tab.locator("#chart-loss").bounding_box()
    tab.mouse.move(box["x"] + 500, box["y"] + 200)
    tab.mouse.down()
    tab.mouse.move(box["x"] + 800, box["y"] + 210, steps=5)
    tab.mouse.up()
    tab.wait_for_function("document.getElementById('chart-lr').layout.xaxis.range[0] > 5")
    assert (
        len({tab.evaluate(LAYOUT, name)["xaxis"]["range"][0] for name in ("loss", "lr", "watch-update", "band-0")}) == 1
    )
    tab.click("#all")
    tab.wait_for_function("document.getElementById('chart-lr').layout.xaxis.range[0] === 0")


def test_a_page_of_a_running_run_reloads(visit, tmp_path):
    """Catches a page that never reloads, loses the chosen options, cannot be paused, or reloads after the end."""
    path = tmp_path / "page.html"
    tab = visit(MetricsPage([run(steps=20, state="running", watch=watch())], 2.0))
    tab.click("#pause")
    assert tab.text_content("#state").startswith("running, 20 of 60 steps; reloading is paused")
    tab.evaluate("window.same = true")
    tab.check("#axis input[value='time']", force=True)
    tab.click("#raw")
    tab.select_option("#layer", "block 1")
    tab.click("#theme")
    MetricsPage([run(steps=40, state="running", watch=watch())], 2.0).save(path)
    tab.clock.fast_forward(60_000)
    assert tab.evaluate("window.same")
    tab.evaluate("document.activeElement.blur(); scrollTo(0, 300); document.getElementById('pause').click()")
    MetricsPage([run(steps=50, state="running", watch=watch())], 60.0).save(path)
    tab.clock.fast_forward(60_000)
    tab.wait_for_function("document.getElementById('state')?.textContent === 'running, 50 of 60 steps'", timeout=20_000)
    tab.wait_for_selector("body[data-ready=yes]")
    chosen = [
        "document.querySelector('#axis input:checked').value",
        "document.getElementById('raw').ariaPressed",
        "document.getElementById('layer').value",
        "document.documentElement.dataset.theme",
        "scrollY",
    ]
    assert [tab.evaluate(one) for one in chosen] == ["time", "false", "block 1", "dark", 300]


def test_a_complete_page_stays(visit):
    """Catches a page that keeps reloading after the run has ended."""
    tab = visit(MetricsPage([run(state="complete")]))
    assert tab.text_content("#state") == "complete, 60 steps"
    tab.evaluate("window.same = true")
    tab.clock.fast_forward(3_600_000)
    assert tab.evaluate("window.same")
    assert tab.is_hidden("#pause")


@pytest.mark.parametrize("size", [WIDE, NARROW], ids=["wide", "narrow"])
def test_nothing_is_wider_than_the_screen(visit, size):
    """Catches a page that scrolls sideways, with one run or several, with its tables open."""
    for shown in (one_run(), two_runs()):
        tab = visit(shown, size)
        tab.click("#settings-box summary")
        tab.click("#evaluations-box summary")
        assert tab.evaluate("document.documentElement.scrollWidth") <= size["width"]
        assert tab.evaluate("document.getElementById('chart-loss').offsetWidth") > 0.8 * size["width"] - 20


def test_light_and_dark(visit):
    """Catches a plot that stays light in dark mode, and a switch without effect."""

    def colours(tab):
        plots = [tab.evaluate(LAYOUT, name)["paper_bgcolor"] for name in ("loss", "watch-update", "band-0")]
        return [tab.evaluate("getComputedStyle(document.body).backgroundColor"), *plots]

    light, dark = visit(one_run(), scheme="light"), visit(one_run(), scheme="dark")
    for tab in (light, dark):
        assert len(set(colours(tab))) == 1
    assert colours(light) != colours(dark)
    light.click("#theme")
    light.wait_for_timeout(300)
    assert colours(light) == colours(dark)


def test_a_run_without_steps_is_shown(visit):
    """Catches an empty or failing page for a run that has just begun."""
    tab = visit(MetricsPage([run(steps=0, state="running")], 60.0))
    assert "No step has been recorded yet." in tab.text_content("#notes")
    assert tab.is_visible("#chart-loss")
    assert tab.is_hidden("#watch")
