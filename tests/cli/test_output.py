"""Output of training: plain lines in a file, lines of the right width on a terminal."""

import io
import os
import pty
import re
import subprocess
import sys

import pytest
from rich.console import Console
from tiny_run import flags, tiny

from tinygpt import cli
from tinygpt.cli import console as module
from tinygpt.cli.console import ConsoleReport, harmless
from tinygpt.kernels.profile import Line

RECORD = {
    "step": 41,
    "epoch": 0.5,
    "loss": 12.345678,
    "lr": 6.2e-4,
    "grad_norm": 1.0,
    "tokens_per_s": 241_234.5,
    "gflops": 100.0,
    "peak_share": 0.38,
    "seconds": 8.4,
}
EVALUATION = {"step": 41, "val_loss": 11.876543, "val_bits_per_byte": 17.123}
LONG = "1,873,402 for training, vocabulary 374   validation: 21 files, 187,340 tokens and some more words on it"


def terminal(width):
    """A report on a terminal of the given width, and the file that receives its output."""
    file = io.StringIO()
    console = Console(
        file=file, force_terminal=True, width=width, highlight=False, soft_wrap=True, legacy_windows=False
    )
    return ConsoleReport(console), file


def plain(text):
    """Remove the terminal codes from a text."""
    return re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", text)


def drawn(report, width):
    """Render the live line."""
    console = Console(file=io.StringIO(), width=width, legacy_windows=False)
    console.print(report.progress.get_renderable())
    return console.file.getvalue()


def test_a_file_gets_plain_lines(sources, tmp_path, capsys, monkeypatch):
    """Catches colours, bars and carriage returns in a file."""
    monkeypatch.setattr(module, "PLAIN_SECONDS", -1.0)
    assert cli.main(["train", *flags(tiny(sources, tmp_path / "out", samples=1))]) == 0
    out, err = capsys.readouterr()
    assert err == ""
    assert "\x1b" not in out
    assert "\r" not in out
    assert len(re.findall(r"^training  step \d+/12  loss .*  0:00 left$", out, re.MULTILINE)) == 12
    assert len(re.findall(r"^eval      step (4|8|12)  val ", out, re.MULTILINE)) == 3


def test_a_file_gets_long_lines_whole(capsys):
    """Catches lines of a file cut or wrapped at a terminal width."""
    ConsoleReport().fact("tokens", LONG * 3)
    assert capsys.readouterr().out == f"tokens    {LONG * 3}\n"


def test_a_file_does_not_get_a_line_per_step(capsys):
    """Catches a log with a line for every step."""
    report = ConsoleReport()
    report.start(0, 100)
    for step in range(50):
        report.step(RECORD | {"step": step})
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize("width", [60, 80, 100, 120, 200])
def test_the_live_line_fits(width):
    """Catches a line that wraps or is cut, and figures left out although there is room."""
    report, _ = terminal(width)
    report.start(0, 2000)
    report.evaluation(EVALUATION, True)
    report.step(RECORD)
    (line,) = drawn(report, width).splitlines()
    assert len(line) <= width
    assert "…" not in line
    for figure, least in (("loss 12.346", 60), ("241k tok/s", 80), ("val 11.877", 80), ("38 % of peak", 120)):
        assert (figure in line) or width < least
    assert ("lr 6.2e-04" in line) == (width >= 120)
    assert re.match(rf"training  .{{{report.bar}}}    2 %  loss ", line)  # an empty bar is blank without colour
    report.stop()


def test_the_live_line_ends_with_the_last_evaluation():
    """Catches an outdated validation loss in the last line of a run."""
    report, file = terminal(120)
    report.start(0, 42)
    report.step(RECORD)
    report.evaluation(EVALUATION, True)
    report.stop()
    last = plain(file.getvalue()).strip().splitlines()[-1]
    assert "100 %  loss 12.346  val 11.877" in last
    assert re.search(r"  in 0:0\d\s*$", last)


@pytest.mark.parametrize("width", [60, 80, 120])
def test_facts_are_aligned(width):
    """Catches words cut at the edge of the terminal, and continuation lines under the label."""
    report, file = terminal(width)
    report.fact("tokens", LONG)
    report.note(LONG)
    lines = plain(file.getvalue()).splitlines()
    assert all(len(line) <= width for line in lines)
    assert " ".join(" ".join(line[10:] for line in lines).split()) == " ".join(f"{LONG} {LONG}".split())
    assert {line[:10] for line in lines} - {" " * 10} == {"tokens    ", "note      "}
    assert len(lines) == 2 * -(-len(LONG) // (width - 12))


def test_sampled_text_is_printed_literally(capsys):
    """Catches markup, emoji codes and highlighting applied to the text of a model."""
    text = "x = d[:heart:] + [bold] + '[/]' + 3.5\n\tpass :smile:"
    report, file = terminal(200)
    report.sample(1, text)
    ConsoleReport().sample(1, text)
    assert text.splitlines()[0] in capsys.readouterr().out
    assert text.splitlines()[0] in file.getvalue()
    assert ":smile:" in file.getvalue()


def test_sampled_text_cannot_move_the_cursor():
    """Catches a sampled escape sequence that reaches the terminal."""
    assert harmless("a\tb\n\x1b[2J\x07\x00\x7f\x9bé日\u200d") == "a\tb\n\\x1b[2J\\x07\\x00\\x7f\\x9bé日\u200d"
    report, file = terminal(80)
    report.sample(1, "a\x1b[2Jb\rc")
    assert "\\x1b[2Jb\\x0dc" in file.getvalue()


def test_the_final_evaluation_has_a_temporary_bar():
    """Catches a long evaluation without progress, and a bar left between the lines."""
    report, file = terminal(80)
    report.evaluating(1, 4)
    assert drawn(report, 80).startswith("eval      ━")
    report.fact("validation", "loss 1")
    assert plain(file.getvalue()).splitlines()[-1] == "validation  loss 1"
    ConsoleReport().evaluating(1, 4)  # draws nothing without a terminal


@pytest.mark.parametrize(
    ("rate", "shown"), [(0, "0"), (999, "999"), (1000, "1.0k"), (9_940, "9.9k"), (10_000, "10k"), (241_234, "241k")]
)
def test_rates_are_short(rate, shown):
    """Catches 0k for a slow machine."""
    assert module._rate(rate) == shown


@pytest.mark.parametrize(("seconds", "shown"), [(0, "0:00"), (61.9, "1:01"), (3600, "1:00:00"), (36_061, "10:01:01")])
def test_clocks_are_short(seconds, shown):
    """Catches 75 minutes shown as 75:00, and seconds without a leading zero."""
    assert module._clock(seconds) == shown


@pytest.mark.skipif(sys.platform == "win32", reason="there are no pseudo-terminals")
def test_a_terminal_gets_a_live_line(sources, tmp_path):
    """Catches a bar that is never drawn: only a process on a pseudo-terminal proves that it is."""
    leader, follower = pty.openpty()
    command = [sys.executable, "-m", "tinygpt", "train", *flags(tiny(sources, tmp_path / "out", steps=60))]
    environment = os.environ | {"TERM": "xterm", "COLUMNS": "80"}
    process = subprocess.Popen(command, stdout=follower, stderr=follower, stdin=follower, env=environment)
    os.close(follower)
    seen = b""
    while True:
        try:
            part = os.read(leader, 65536)
        except OSError:  # the process has closed its end
            break
        if not part:
            break
        seen += part
    os.close(leader)
    assert process.wait(timeout=60) == 0
    text = plain(seen.decode())
    assert "training  ━" in text
    assert "100 %" in text
    assert "\r" in text


def test_a_terminal_without_utf8_still_gets_its_text(sources, run, tmp_path):
    """Catches UnicodeEncodeError at the first bar of a run or the first accented letter of a text."""
    environment = os.environ | {"PYTHONIOENCODING": "ascii", "PYTHONUTF8": "0"}
    train = ["train", *flags(tiny(sources, tmp_path / "out", samples=1))]
    generate = ["generate", "--model", str(run), "--prompt", "é", "--length", "3", "--quiet"]
    for arguments in (train, generate):
        command = [sys.executable, "-m", "tinygpt", *arguments]
        done = subprocess.run(command, capture_output=True, env=environment, check=False)
        assert (done.returncode, done.stderr) == (0, b"")
        assert done.stdout.isascii()
    assert done.stdout.startswith(b"\\xe9")


LINES = [
    Line("cross_entropy_backward", "parallel", 1234, 12345.67, 10.0, 0.5, 4.0, 0.01, 20.0, 0.625),
    Line("matmul", "simd", 98765, 9876.5, 8.0, 0.4, 350.25, 0.7, 12.0, 0.5),
    Line("Python and the rest", "", 0, 2469.1, 2.0, 0.1),
]


@pytest.mark.parametrize("width", [60, 70, 80, 100, 120])
def test_the_profile_table_fits(width):
    """Catches names or figures cut or wrapped, and columns left out although there is room."""
    report, file = terminal(width)
    report.profile(LINES, 1234)
    title, head, *rows = plain(file.getvalue()).splitlines()
    assert title == "profile   1,234 steps of 20 ms"
    assert all(len(line) <= width and "…" not in line for line in (head, *rows))
    assert [row.split("  ")[0].split(" parallel")[0].split(" simd")[0] for row in rows] == [line.op for line in LINES]
    assert all(figure in row for figure, row in zip(("10.000", "8.000", "2.000"), rows, strict=True))
    assert ("12,345.7" in rows[0], "1,234" in rows[0], "20.0" in rows[0]) == (width >= 100, width >= 100, width >= 80)
    assert ("62 %" in rows[0], "70 %" in rows[1]) == (True, True)


def test_the_profile_table_in_a_file(capsys):
    """Catches colours or a limited width in a file, and a share of the peak that does not limit the op."""
    ConsoleReport().profile(LINES, 1)
    title, head, *rows = capsys.readouterr().out.splitlines()
    assert title == "profile   1 step of 20 ms"
    assert head.split("  ")[0] == "op"
    words = "op rung calls ms ms/step of step GFLOP/s of peak GB/s of memory"
    assert " ".join(head.split()) == words
    assert " ".join(rows[0].split()) == "cross_entropy_backward parallel 1,234 12,345.7 10.000 50.0 % 20.0 62 %"
    assert " ".join(rows[1].split()) == "matmul simd 98,765 9,876.5 8.000 40.0 % 350.2 70 %"
    assert " ".join(rows[2].split()) == "Python and the rest 2,469.1 2.000 10.0 %"
    for row, name in ((rows[0], "of memory"), (rows[1], "of peak")):
        assert row.rindex("%") == head.index(name) + len(name) - 1


def test_a_profile_without_measurements(capsys):
    """Catches an empty table or an error after a run of one step."""
    ConsoleReport().profile([], 0)
    assert capsys.readouterr().out == "note      --profile: there was no step after the first, which is not measured\n"


def test_the_profile_flag(sources, tmp_path, capsys):
    """Catches --profile without effect, output despite --quiet, and a table before the end of the run."""
    settings = flags(tiny(sources, tmp_path / "out", samples=1))
    assert cli.main(["train", *settings, "--profile", "--quiet"]) == 0
    assert capsys.readouterr().out == ""
    assert cli.main(["train", *settings, "--profile"]) == 0
    out = capsys.readouterr().out
    table = out[out.index("\nprofile   11 steps of ") : out.index("\nnext ")]
    assert "sample 1" not in table
    assert re.search(r"^matmul +\S+ +\d+ ", table, re.MULTILINE)
    assert table.splitlines()[-1].startswith("Python and the rest ")
    assert cli.main(["train", *settings]) == 0
    assert "profile" not in capsys.readouterr().out.replace(str(tmp_path), "")
