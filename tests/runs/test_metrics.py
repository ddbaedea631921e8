"""metrics.jsonl: complete, torn and invalid lines, and bounded memory."""

import itertools
import json
import math
import tracemalloc

import pytest

from tinygpt.io.records import Records
from tinygpt.runs import metrics
from tinygpt.runs.metrics import MetricsLog, Progress, read_metrics, read_progress

RECORDS = [{"step": 0, "loss": 5.5}, {"step": 1, "loss": 5.25}, {"step": 1, "val_loss": 5.0}, {"step": 2, "loss": 4.5}]


@pytest.fixture
def path(tmp_path):
    """A metrics file with the records."""
    log = MetricsLog(tmp_path / "metrics.jsonl")
    for record in RECORDS:
        log.write(record)
    log.close()
    return tmp_path / "metrics.jsonl"


def test_records_come_back_one_per_line(path):
    """Catches a missing line end, a lost last record, and a format that is not JSON Lines."""
    assert read_metrics(path) == RECORDS
    assert [json.loads(line) for line in path.read_text().splitlines()] == RECORDS


def test_a_torn_last_line_is_dropped(path):
    """Catches a killed run that cannot be resumed or drawn because of its incomplete last line."""
    whole = path.read_bytes()
    start = whole.rindex(b'{"step"')
    for end in range(start, len(whole) - 1):
        path.write_bytes(whole[:end])
        assert read_metrics(path) == RECORDS[: 3 + (end == len(whole))]
    path.write_bytes(whole[:-1])  # only the line end is missing
    assert read_metrics(path) == RECORDS


@pytest.mark.parametrize(
    "line", ['{"step": 1', "5", "[]", "{}", '{"step": "1"}', '{"loss": 1.0}', "x", '{"step": 1.5}', '{"step": -2}']
)
def test_an_invalid_line_is_named(path, line):
    """Catches lines that are skipped silently, and an error without a line number."""
    lines = path.read_text().split("\n")
    path.write_text("\n".join([*lines[:1], line, *lines[1:]]))
    with pytest.raises(ValueError, match=r"line 2: ") as error:
        read_metrics(path)
    assert str(path) in str(error.value)
    assert "\n" not in str(error.value)


def test_a_file_that_is_not_text_is_named(path):
    """Catches an error that does not say which file is broken."""
    path.write_bytes(b'{"step": 0}\n\xff\xfe\n')
    with pytest.raises(ValueError, match="not UTF-8") as error:
        read_metrics(path)
    assert str(path) in str(error.value)


def test_the_score_of_a_given_model_is_read(path):
    """Catches a reader that refuses an evaluation before the first step, with which a run with --from begins."""
    given = {"step": -1, "val_loss": 5.0}
    path.write_text(json.dumps(given) + "\n" + path.read_text())
    assert read_metrics(path) == [given, *RECORDS]


def test_a_resumed_run_drops_the_steps_it_repeats(path):
    """Catches steps that are in the file twice, and an earlier evaluation that is lost."""
    with path.open("a") as file:
        file.write('{"step": 3, "lo')
    log = MetricsLog(path, keep_until=2)
    log.write({"step": 2, "loss": 4.25})
    log.close()
    assert read_metrics(path) == log.records == [*RECORDS[:3], {"step": 2, "loss": 4.25}]


def test_lines_can_be_read_during_the_run(tmp_path, monkeypatch):
    """Catches a file that stays empty until the end of the run."""
    log = MetricsLog(tmp_path / "metrics.jsonl")
    monkeypatch.setattr(metrics, "FLUSH_SECONDS", math.inf)
    log.write(RECORDS[0])
    assert read_metrics(tmp_path / "metrics.jsonl") == []
    log.flush()
    assert read_metrics(tmp_path / "metrics.jsonl") == RECORDS[:1]
    monkeypatch.setattr(metrics, "FLUSH_SECONDS", -1.0)
    log.write(RECORDS[1])
    assert read_metrics(tmp_path / "metrics.jsonl") == RECORDS[:2]
    log.close()


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_nan_and_infinity_are_refused(tmp_path, value):
    """Catches NaN and Infinity in the file, which are not JSON."""
    log = MetricsLog(tmp_path / "metrics.jsonl")
    with pytest.raises(ValueError, match="JSON"):
        log.write({"step": 0, "loss": value})
    log.close()
    assert (tmp_path / "metrics.jsonl").read_bytes() == b""
    assert log.records == []


@pytest.mark.parametrize("n", [1, 99, 100, 101, 5_000, 123_457])
def test_memory_is_bounded_and_peaks_stay(n):
    """Catches memory that grows with the steps, a lost peak or newest record, and steps out of order."""
    kept = metrics.Kept(100)
    losses = {n // 3: 99.0, n // 2: -7.0}
    norms = {2 * n // 3: 1e9}
    for step in range(n):
        kept.add({"step": step, "loss": losses.get(step, step % 13 / 13), "grad_norm": norms.get(step, 1.0)})
        if step % 50 == 49:
            kept.add({"step": step, "val_loss": 1.0})
    found = [record for record in kept.records if "loss" in record]
    assert [record["step"] for record in kept.records] == sorted(record["step"] for record in kept.records)
    assert len({record["step"] for record in found}) == len(found)
    assert (found[0]["step"], found[-1]["step"]) == (0, n - 1)
    assert {*losses, *norms} <= {record["step"] for record in found}
    assert len(found) == n if n <= 100 else 30 < len(found) <= 150
    assert len(kept.records) - len(found) == n // 50 if n <= 100 else len(kept.records) <= 300


def test_thinned_records_are_evenly_spaced():
    """Catches a beginning of the run that becomes sparser with every thinning."""
    kept = metrics.Kept(400)
    for step in range(100_000):
        kept.add({"step": step, "loss": 1.0, "grad_norm": 1.0})
    steps = [record["step"] for record in kept.records]
    gaps = [after - before for before, after in itertools.pairwise(steps)]
    assert max(gaps) <= 2 * kept.stretch


def test_a_long_file_is_read_piece_by_piece(tmp_path):
    """Catches a reader or a reopened log that holds the whole file in memory."""
    path, n = tmp_path / "metrics.jsonl", 40_000
    with path.open("w") as file:
        for step in range(n):
            file.write(json.dumps({"step": step, "loss": 1.0, "text": "x" * 200}) + "\n")
    tracemalloc.start()
    try:
        log = MetricsLog(path, n - 10, 100)
        log.close()
        assert tracemalloc.get_traced_memory()[1] < path.stat().st_size / 20
    finally:
        tracemalloc.stop()
    assert sum(1 for _ in Records(path)) == n - 10


def test_progress_is_that_of_all_records(path):
    """Catches the last loss in place of the best, a step too few, and a file without steps that fails."""
    assert read_progress(path) == Progress(3, None, 5.0)
    path.write_text('{"step": -1, "val_loss": 2.5}\n{"step": 4, "loss": 1, "seconds": 7}\n{"step": 4, "val_loss": 3}\n')
    assert read_progress(path) == Progress(5, 7, 2.5)
    path.write_text("")
    assert read_progress(path) == Progress()
    path.write_text('{"step": 0, "loss": 1, "seconds": "x"}\n{"step": 1, "loss": 1}\n')
    with pytest.raises(ValueError, match=r"line 1: 'seconds' must be a finite number"):
        read_progress(path)


def test_progress_takes_no_more_memory_for_a_long_file(tmp_path):
    """Catches a whole file of records in memory, which for a long run is gigabytes, to tell three numbers."""
    path = tmp_path / "metrics.jsonl"
    path.write_text("".join(f'{{"step": {i}, "loss": 1.5, "seconds": {i}}}\n' for i in range(20_000)))
    tracemalloc.start()
    try:
        assert read_progress(path) == Progress(20_000, 19_999)
        assert tracemalloc.get_traced_memory()[1] < path.stat().st_size / 10
    finally:
        tracemalloc.stop()


def test_a_last_line_cut_inside_a_character_is_dropped(path):
    """Catches a run that cannot be resumed because a kill cut its last line within a character."""
    path.write_bytes(path.read_bytes() + '{"step": 3, "note": "ä'.encode()[:-1])
    assert read_metrics(path) == RECORDS


def test_a_torn_line_after_the_last_needed_record_is_dropped(tmp_path):
    """Catches a run that cannot be resumed because a write after its checkpoint failed half-way; and a silent loss."""
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"step": 0, "loss": 5.0}\n{"step": 1, "lo{"step": 1, "loss": 4.0}\n')
    MetricsLog(path, keep_until=1).close()
    assert [record["step"] for record in read_metrics(path)] == [0]
    path.write_text('{"step": 0, "lo{"step": 0, "loss": 5.0}\n')
    with pytest.raises(ValueError, match="line 1"):
        MetricsLog(path, keep_until=1)
    MetricsLog(path, keep_until=0, owed=True).close()
    assert read_metrics(path) == []
