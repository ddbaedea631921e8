"""The metrics page as a file: it loads nothing, embeds its data, and matches the files of the run."""

import base64
import hashlib
import json
import re
import sys

import numpy as np
import pytest
from run_data import SETTINGS, WICKED, guessing, records, run, step, watch, write_run

from tinygpt.runs.read import RunData, read_run
from tinygpt.viz import curves, metrics
from tinygpt.viz.metrics import LivePage, page
from tinygpt.viz.watched import MOST_OF_ALL, MOST_SAMPLES, watched

from .page_data import Tags, json_of


def test_the_page_loads_nothing():
    """Catches a script, style sheet or font from the network, and a policy that lets other scripts run."""
    text = page(run()).html
    tags = Tags(text).tags
    assert {"html", "body", "script", "table"} <= {tag for tag, _ in tags}
    for tag, attributes in tags:
        assert tag not in ("iframe", "img", "object", "embed", "base")
        for name in ("src", "data", "srcset", "poster", "action"):
            assert name not in attributes, (tag, attributes)
        assert attributes.get("href", "data:,") == "data:,"
    style = re.search(r"<style>(.*?)</style>", text, re.DOTALL)[1]
    assert "url(" not in style
    assert "@import" not in style
    (policy,) = [one["content"] for tag, one in tags if tag == "meta" and "http-equiv" in one]
    assert policy.startswith("default-src 'none'; ")
    scripts = re.findall(r"<script>(.*?)</script>", text, re.DOTALL)
    assert len(scripts) == 2
    for script in scripts:
        assert f"'sha256-{base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()}'" in policy
    assert "'unsafe-inline'" not in policy.partition("script-src")[2].partition(";")[0]


def test_the_data_is_inside():
    """Catches a missing, truncated or wrong curve, and a mean over the wrong window."""
    (one,) = json_of(page(run()).html)["runs"]
    steps = [record for record in records() if "loss" in record]
    evaluations = [record for record in records() if "val_loss" in record]
    for name in metrics.CURVES:
        assert one["curves"][name]["step"] == [record["step"] + 1 for record in steps]
        assert one["curves"][name]["seconds"] == [record["seconds"] for record in steps]
        np.testing.assert_allclose(one["curves"][name]["y"], [record[name] for record in steps], rtol=1e-6)
    assert one["curves"]["val"]["step"] == [20, 40, 60]
    assert one["curves"]["val"]["seconds"] == [10.0, 20.0, 30.0]
    assert one["curves"]["val"]["y"] == [record["val_loss"] for record in evaluations]
    assert one["guessing"] == pytest.approx(guessing())
    assert one["clip"] == 1.0
    assert one["schedule"] == {"kind": "cosine", "warmup": 6, "seconds": 3.5}
    smooth, width = one["curves"]["loss_smooth"]["y"], json_of(page(run()).html)["window"]
    assert width == 5
    for place, reach in ((0, 0), (1, 1), (2, 2), (30, 2), (58, 1), (59, 0)):  # as many points before as after
        window = [record["loss"] for record in steps[place - reach : place + reach + 1]]
        assert smooth[place] == pytest.approx(sum(window) / len(window), rel=1e-6)


@pytest.mark.parametrize("width", [1, 2, 5, 6, 20, 1000])
@pytest.mark.parametrize("n", [0, 1, 2, 7, 60])
def test_a_running_mean_is_centred_and_depends_on_its_window_alone(n, width):
    """Catches a mean that lags, one that stays 0 after one huge value, and a sum that overflows."""
    values = np.random.default_rng(n).normal(size=n)
    values[n // 2 : n // 2 + 1] = 1e17
    found = curves.running_mean(values, width)
    for place in range(n):
        after = min((width - 1) // 2, place, n - 1 - place)
        before = min(after + 1 - width % 2, place)
        assert found[place] == pytest.approx(np.mean(values[place - before : place + after + 1]), rel=1e-9)
    np.testing.assert_allclose(curves.running_mean(np.full(n, 1.7e308), width), np.full(n, 1.7e308))


def test_the_facts_are_those_of_the_run():
    """Catches figures of the wrong step, and a mean changed by evaluations or by thinning."""
    (one,) = json_of(page(run(steps=50)).html)["runs"]
    losses = [record["loss"] for record in records(50) if "loss" in record]
    facts = one["facts"]
    assert (facts["steps"], facts["total"], facts["tokens"]) == (50, 60, 50 * 4 * 2 * 16)
    assert (facts["parameters"], facts["seconds"]) == (12345, 25.0)
    assert (facts["first"], facts["final"], facts["lowest"], facts["lowestStep"]) == (5, losses[-1], losses[-1], 50)
    assert facts["average"] == pytest.approx(sum(losses) / 50)
    assert (facts["best"], facts["bestStep"], facts["val"]) == (6 - 39 / 32, 40, 6 - 39 / 32)
    assert (facts["rate"], facts["peak"]) == (1024.5, 0.25)


@pytest.mark.parametrize("count", [1, 2, 4, 9, 10, 11, 999, 1000])
def test_thinning_keeps_peaks_and_ends(count):
    """Catches a page that grows with the run, a lost peak or last point, and points out of order."""
    values = np.random.default_rng(0).standard_normal(count)
    values[count // 3] = 50.0
    values[count // 2] = -50.0 if count > 4 else values[count // 2]
    keep = curves.thinned(values, 10)
    assert len(keep) <= 10
    assert keep.tolist() == sorted(set(keep.tolist()))
    assert (keep[0], keep[-1]) == (0, count - 1)
    assert values[keep].max() == values.max()
    assert values[keep].min() == values.min()
    assert len(keep) == count or count > 10


def test_a_long_run_is_thinned_and_the_page_says_so():
    """Catches a page with every point of a long run, a mean of the remaining points, and silent thinning."""
    losses = np.ones(20_000)
    losses[12_345] = 7.0
    lines = [step(i, loss=float(loss)) for i, loss in enumerate(losses)]
    data = json_of(page(run(records=lines)).html)
    (one,) = data["runs"]
    for curve in one["curves"].values():
        assert len(curve["y"]) <= metrics.MOST_POINTS
    assert max(one["curves"]["loss"]["y"]) == 7.0
    assert one["facts"]["average"] == pytest.approx(losses.mean())
    assert max(one["curves"]["loss_smooth"]["y"]) == pytest.approx(1 + 6 / data["window"], rel=1e-6)
    assert any("at most 2,000 points" in note for note in data["notes"])
    assert not any("points" in note for note in json_of(page(run()).html)["notes"])


@pytest.mark.parametrize("found", [[], records(1), records(1, 1), [records(1, 1)[1]]])
def test_a_run_that_has_just_begun_has_a_page(found):
    """Catches the last element of an empty list, a single point, and an evaluation without steps."""
    data = json_of(page(RunData("new", found)).html)
    assert ("No step has been recorded yet." in data["notes"]) == (not any("loss" in record for record in found))


def test_settings_are_text():
    """Catches a path, name or note used as markup, and text that is replaced as a template placeholder."""
    clean, wicked = run(), run(WICKED, settings={WICKED: [WICKED]}, notes=[WICKED])
    assert [tag for tag, _ in Tags(page(wicked).html).tags] == [tag for tag, _ in Tags(page(clean).html).tags]
    data = json_of(page(wicked).html)
    assert data["runs"][0]["settings"] == [[WICKED, WICKED]]
    assert (data["runs"][0]["name"], data["notes"]) == (WICKED, [WICKED])


def test_only_settings_that_differ_are_compared():
    """Catches a column equal in all runs, a setting that one run lacks, and the name of the directory."""
    other = SETTINGS | {"lr": 0.002, "out": "b", "new": [1, 2]}
    del other["rope"]
    data = json_of(page([run("a", settings=SETTINGS | {"out": "a"}), run("b", settings=other)]).html)
    assert data["differing"] == [
        {"name": "lr", "values": ["0.001", "0.002"]},
        {"name": "rope", "values": ["on", ""]},
        {"name": "new", "values": ["", "1, 2"]},
    ]


def test_a_file_alone_has_a_page(tmp_path):
    """Catches a page that needs the other files of the run directory."""
    path = tmp_path / "copy.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in records()))
    assert json_of(page(path).html)["runs"][0]["guessing"] is None


def test_notes_on_the_files_are_in_the_page(tmp_path):
    """Catches a truncated line that is dropped silently."""
    folder = write_run(tmp_path / "run")
    with (folder / "metrics.jsonl").open("a") as file:
        file.write('{"step": 60, "lo')
    found = read_run(folder)
    assert len(found.notes) == 1
    assert json_of(page(found).html)["notes"] == found.notes


def test_the_watch_records_are_inside():
    """Catches a tensor under the wrong layer, a figure of the wrong step, and a last record lost by thinning."""
    series = watched(watch(), {i: i / 2 for i in range(60)})
    assert {(one["kind"], one["layer"], one["part"]) for one in series} == {
        ("weights", "embeddings", "wte"),
        *(("weights", f"block {k}", part) for k in (0, 1) for part in ("attn.qkv", "mlp.up")),
        *(("activations", f"block {k}", "mlp") for k in (0, 1)),
    }
    (one,) = [one for one in series if (one["kind"], one["layer"]) == ("activations", "block 1")]
    assert one["step"] == [1, 11, 21, 31, 41, 51]
    assert one["seconds"] == [0, 5, 10, 15, 20, 25]
    assert one["dead"] == [0.125] * 6
    np.testing.assert_allclose(one["std"], [0.25 + (i - 1) / 64 for i in one["step"]])
    np.testing.assert_allclose(one["q"][-1], watch()[-1]["activations"]["blocks.1.mlp"]["q"], rtol=1e-6)
    long = watched(watch(10_000, 1), {})
    assert all(len(one["step"]) <= MOST_SAMPLES for one in long)
    assert sum(len(one["step"]) for one in long) <= MOST_OF_ALL
    assert all(one["step"][-1] == 10_000 for one in long)


def test_a_page_shows_itself_in_a_notebook():
    """Catches a page that can read the notebook around it, or that reloads inside it."""
    shown = metrics.MetricsPage([run(state="running")], 3.0)._repr_html_()
    assert shown.startswith('<iframe sandbox="allow-scripts allow-downloads"')
    assert "&quot;live&quot;:null" in shown


@pytest.mark.parametrize("count", [0, metrics.MOST_RUNS + 1])
def test_too_few_or_many_runs_are_refused(count):
    """Catches an empty page, and more runs than there are distinct colours."""
    with pytest.raises(ValueError, match=r"^\[metrics\] 'runs' must be 1 to "):
        page([run()] * count)


def test_many_runs_are_thinned():
    """Catches a page that grows with the number of runs."""
    lines = [step(i) for i in range(3000)]
    data = json_of(page([run(str(i), records=lines) for i in range(metrics.MOST_RUNS)]).html)
    points = sum(len(one["curves"]["loss"]["y"]) for one in data["runs"])
    assert points <= metrics.MOST_POINTS_OF_ALL


def test_a_live_page_is_written_and_replaced(tmp_path, monkeypatch):
    """Catches a missing folder that is not created, a page at every step, and one that never shows the end."""
    now = [0.0]
    monkeypatch.setattr(metrics.time, "monotonic", lambda: now[0])
    path = tmp_path / "new" / "page.html"
    write = LivePage(path)
    assert not path.parent.exists()

    def shown(records, state):
        write(records, state, lambda: run(data="é日"))
        return json_of(path.read_text(encoding="utf-8"))

    data = shown([], "running")
    assert data["live"]["seconds"] == metrics.LIVE_SECONDS[0]
    assert data["runs"][0]["state"] == "running"
    assert shown(records(), "running")["runs"][0]["facts"]["steps"] == 0  # before the next write is due
    now[0] = metrics.LIVE_SECONDS[0]
    assert shown(records(), "running")["runs"][0]["facts"]["steps"] == 60
    data = shown(records(10), "complete")  # the last page is written at once
    assert (data["live"], data["runs"][0]["state"], data["runs"][0]["facts"]["steps"]) == (None, "complete", 10)
    now[0] = 1e6
    assert shown(records(), "running")["live"]["seconds"] == metrics.LIVE_SECONDS[1]


def test_a_slow_page_is_written_less_often(tmp_path, monkeypatch):
    """Catches a page that takes more than 2 % of the run's time."""
    now = [0.0]
    monkeypatch.setattr(metrics.time, "monotonic", lambda: now[0])

    def costly():
        now[0] += 1.0
        return run()

    write = LivePage(tmp_path / "page.html")
    write([], "running", costly)
    assert write.next == pytest.approx(1 + 1 / metrics.LIVE_SHARE)
    assert metrics.LIVE_SHARE <= 0.02


@pytest.mark.parametrize("where", ["folder", "file/page.html"])
def test_a_path_that_cannot_be_written_is_refused_at_once(tmp_path, where):
    """Catches an hour of training before the first write fails."""
    (tmp_path / "folder").mkdir()
    (tmp_path / "file").write_text("mine")
    with pytest.raises(ValueError, match=r"^\[train\] 'metrics' ") as error:
        LivePage(tmp_path / where)
    assert str(tmp_path / where) in str(error.value)


def test_a_missing_extra_is_named(tmp_path, monkeypatch):
    """Catches an error that names an extra pip does not know."""
    monkeypatch.setitem(sys.modules, "plotly.offline", None)
    with pytest.raises(ImportError, match=r"'metrics' needs plotly: pip install 'tinygpt\[viz\]'"):
        LivePage(tmp_path / "page.html")
