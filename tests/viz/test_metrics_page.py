"""The page of a training run: one file, its data inside, nothing from elsewhere."""

import json
import math
import re
import sys
from html.parser import HTMLParser

import pytest

from tinygpt.viz import metrics
from tinygpt.viz.metrics import page, writer

SETTINGS = {"data": ["src", "lib"], "lr": 0.001, "rope": True}


def records(steps=60, every=20):
    """Lines of a run whose losses are easy to find again."""
    found = []
    for step in range(steps):
        found.append({"step": step, "loss": 5 - step / 64, "lr": 0.001 + step / 1024, "seconds": step / 2})
        if step % every == every - 1:
            found.append({"step": step, "val_loss": 6 - step / 32, "val_bits_per_byte": 7.0})
    return found


class Tags(HTMLParser):
    """Every tag with its attributes, and the text of every table cell."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.cells, self.open = [], [], ""
        self.feed(text)
        self.close()

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        self.open = tag

    def handle_data(self, data):
        if self.open in ("th", "td") and data.strip():
            self.cells.append(data)


def traces(text):
    """What the page hands to plotly: the lines of the figure by name, and its layout."""
    start = text.index("Plotly.newPlot(")
    decoder, place, found = json.JSONDecoder(), text.index("[", start), []
    for opening in "[{":
        place = text.index(opening, place)
        value, place = decoder.raw_decode(text, place)
        found.append(value)
    return {trace["name"]: trace for trace in found[0]}, found[1]


def test_the_page_loads_nothing():
    """Catches a script, a style sheet or a font from the network: the page must work without one."""
    tags = Tags(page(records(), SETTINGS, 100)).tags
    assert {"html", "body", "script", "table"} <= {tag for tag, _ in tags}
    for tag, attributes in tags:
        assert tag not in ("iframe", "img", "object", "embed", "base")
        for name in ("src", "href", "data", "srcset", "poster", "action"):
            assert name not in attributes, (tag, attributes)
    style = re.search(r"<style>(.*?)</style>", page([], {}, 2), re.DOTALL)[1]
    assert "url(" not in style
    assert "@import" not in style


def test_the_data_is_inside():
    """Catches a line that is missing, cut, or of other values, and learning rates among the losses."""
    lines, _ = traces(page(records(), SETTINGS, 100))
    steps = [record for record in records() if "loss" in record]
    evaluations = [record for record in records() if "val_loss" in record]
    assert lines["training loss"]["x"] == [record["step"] for record in steps]
    assert lines["training loss"]["y"] == [record["loss"] for record in steps]
    assert lines["held-out loss"]["x"] == [19, 39, 59]
    assert lines["held-out loss"]["y"] == [record["val_loss"] for record in evaluations]
    assert lines["learning rate"]["y"] == [record["lr"] for record in steps]
    assert lines["learning rate"]["yaxis"] != lines["training loss"].get("yaxis", "y")
    smooth = lines[f"mean of {metrics.SMOOTHING} steps"]["y"]
    for place in (0, 10, 49, 59):
        window = [record["loss"] for record in steps[max(0, place + 1 - metrics.SMOOTHING) : place + 1]]
        assert smooth[place] == pytest.approx(sum(window) / len(window))


def test_guessing_has_its_line():
    """Catches a loss that nothing can be compared with."""
    _, layout = traces(page(records(), SETTINGS, 100))
    (line,) = layout["shapes"]
    assert line["y0"] == line["y1"] == pytest.approx(math.log(100))
    assert [note["text"] for note in layout["annotations"]] == ["guessing: ln 100 = 4.61"]


def test_a_long_run_stays_light_and_keeps_its_end():
    """Catches a page that grows with the run, and a last point that thinning drops."""
    for count in (metrics.MOST_POINTS, metrics.MOST_POINTS + 1, 2 * metrics.MOST_POINTS - 1, 7 * metrics.MOST_POINTS):
        x = list(range(count))
        kept, values = metrics._thinned(x, [2 * one for one in x])
        assert metrics.MOST_POINTS / 2 <= len(kept) <= metrics.MOST_POINTS + 1
        assert values == [2 * one for one in kept]
        assert (kept[0], kept[-1]) == (0, count - 1)
        assert kept == sorted(set(kept))


@pytest.mark.parametrize("found", [[], records(1), records(1, 1), [records(1, 1)[1]]])
def test_a_run_that_has_just_begun_has_a_page(found):
    """Catches an empty list that is asked for its last, a single point, and an evaluation without steps."""
    text = page(found, SETTINGS, 100)
    assert ("No step has been made yet." in text) == (not any("loss" in record for record in found))
    assert traces(text)[0].keys() >= {"training loss", "held-out loss", "learning rate"}


def test_the_summary_is_that_of_the_run():
    """Catches figures of another place in the run."""
    text = page(records(), SETTINGS, 100)
    assert "60 steps in 30 s. Loss 5.000 at first, 4.078 at last. Best loss on held-out text: 4.1562." in text


def test_settings_are_text():
    """Catches a file name that is taken for a part of the page."""
    wicked = '<script>alert("1")</script>'
    text = page([], {"data": [wicked, "b & c"], wicked: True}, 2)
    assert wicked not in text
    cells = Tags(text).cells
    assert cells == ["data", f"{wicked}, b & c", wicked, "True"]


def test_a_page_is_written_and_replaced(tmp_path):
    """Catches a folder that must be there beforehand, a page that grows, and another encoding."""
    path = tmp_path / "new" / "page.html"
    write = writer(path)
    assert not path.parent.exists()
    for data in ("é", "日"):
        write(records(), {"data": data}, 100)
        assert path.read_text(encoding="utf-8").count("<html") == 1
        assert data in path.read_text(encoding="utf-8")


@pytest.mark.parametrize("where", ["folder", "file/page.html"])
def test_a_place_for_no_page_is_refused_at_once(tmp_path, where):
    """Catches an hour of training before the first write fails."""
    (tmp_path / "folder").mkdir()
    (tmp_path / "file").write_text("mine")
    with pytest.raises(ValueError, match=r"^--metrics ") as error:
        writer(tmp_path / where)
    assert str(tmp_path / where) in str(error.value)


def test_a_missing_extra_is_named(tmp_path, monkeypatch):
    """Catches a name that pip does not know."""
    monkeypatch.setitem(sys.modules, "plotly.graph_objects", None)
    monkeypatch.setitem(sys.modules, "plotly", None)
    with pytest.raises(ImportError, match=r"pip install 'tinygpt\[viz\]'"):
        writer(tmp_path / "page.html")
