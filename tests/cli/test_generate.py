"""`tinygpt generate` beyond one prompt: stop strings, log-probabilities, many prompts, fill-in-the-middle."""

import json
import math
import sys

import pytest
from tiny_run import flags, tiny

import tinygpt
from tinygpt import cli
from tinygpt.cli.generate_flags import unescaped
from tinygpt.generate import stream_pieces, stream_text
from tinygpt.sampling import Sampler

FIXED = ("--seed", "3", "--length", "60")


@pytest.fixture(scope="module")
def filler(sources, tmp_path_factory):
    """A model trained for a few steps with fill-in-the-middle."""
    out = tmp_path_factory.mktemp("fim") / "run"
    assert cli.main(["train", *flags(tiny(sources, out, seq=32)), "--fim-rate", "0.5", "--quiet"]) == 0
    return out


def said(capsys, run, *arguments):
    assert cli.main(["generate", "--model", str(run), *arguments]) == 0
    return capsys.readouterr()


def refused(capsys, run, *arguments):
    assert cli.main(["generate", "--model", str(run), *arguments]) == 2
    out, err = capsys.readouterr()
    assert (out, err.count("\n")) == ("", 1)
    return err


def test_stop_strings(run, capsys):
    """Catches --stop without effect, one of several that is ignored, and an escape that is not decoded."""
    whole = said(capsys, run, *FIXED, "--prompt", "def ", "--quiet").out[4:-1]
    assert "\n" in whole
    line = said(capsys, run, *FIXED, "--prompt", "def ", "--quiet", "--stop", "zzz", "\\n").out
    assert line == f"def {whole.partition(chr(10))[0]}\n"
    middle = whole[3:6]
    for words in (["--stop", middle, "--stop", "zzz"], [f"--stop={middle}"]):
        assert (
            said(capsys, run, *FIXED, "--prompt", "def ", "--quiet", *words).out
            == f"def {whole[: whole.find(middle)]}\n"
        )


@pytest.mark.parametrize(
    ("text", "want"),
    [
        ("a b", "a b"),
        (r"\n\n", "\n\n"),
        (r"\\n", r"\n"),
        (r"\x41\u00e9\t\r", "Aé\t\r"),
        ("日\n", "日\n"),
        (r"\\\\", r"\\"),
    ],
)
def test_escapes(text, want):
    """Catches an unknown escape, and a backslash that cannot be written."""
    assert unescaped(text) == want


def test_alternative_flag_names(run, capsys):
    """Catches --temperature, --top-k and --top-p that are unknown or without effect."""
    greedy = said(capsys, run, *FIXED, "--temp", "0", "--quiet").out
    assert said(capsys, run, *FIXED, "--temperature", "0", "--quiet").out == greedy
    assert said(capsys, run, *FIXED, "--temp", "1.5", "--top-k", "1", "--quiet").out == greedy
    assert said(capsys, run, *FIXED, "--temp", "1.5", "--top-p", "1e-9", "--quiet").out == greedy
    assert said(capsys, run, *FIXED, "--temp", "1.5", "--quiet").out != greedy


def test_a_progress_bar_when_texts_go_to_a_file(run, tmp_path, capsys, monkeypatch):
    """Catches no progress for minutes, a bar mixed into the texts, and a bar outside a terminal."""
    (tmp_path / "prompts.txt").write_text("def a\nclass\nx\n")
    words = ("--prompts", str(tmp_path / "prompts.txt"), "--length", "4", "--num-samples", "2", "--seed", "1")
    plain = said(capsys, run, *words)
    assert "sampling" not in plain.err
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    out, err = said(capsys, run, *words)
    assert out == plain.out
    assert "sampling" in err
    assert "100%" in err
    assert said(capsys, run, *words, "--quiet").err == ""


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--stop", "a", ""], "--stop must not be empty"),
        (["--stop", r"a\d"], r"--stop a\d: \d is not an escape; write \\ for a backslash"),
        (["--stop", "a\\"], "is not an escape"),
        (["--stop", r"\ud800"], r"--stop \ud800: not UTF-8"),
        (["--stop"], "--stop must not be empty"),
        (["--prefix", "a", "--whole", "--logprobs", "1"], "--whole and --logprobs cannot both be given without --json"),
        (["--logprobs", "-1"], "--logprobs must be 0 or more, got -1"),
        (["--prompt", "a", "--prompts", "b"], "--prompt and --prompts cannot both be given"),
        (["--prompts", "nowhere.txt"], "nowhere.txt: No such file"),
        (["--prompt", "a", "--suffix", "b"], "--prompt and --suffix cannot both be given"),
        (["--suffix", "a", "--suffix-file", "b"], "--suffix and --suffix-file cannot both be given"),
        (["--whole"], "--whole needs --prefix or --suffix"),
        (["--prefix", "a"], "no fill-in-the-middle tokens such as <|fim_prefix|>: train with --fim-rate 0.5"),
    ],
)
def test_bad_input_is_one_line(run, capsys, arguments, message):
    """Catches a traceback, and an error that does not name the flag."""
    assert message in refused(capsys, run, *arguments)


def test_a_table_of_logprobs(run, capsys):
    """Catches figures of the wrong token, a line break within a token, and text among the figures."""
    out, err = said(capsys, run, "--prompt", "def ", "--seed", "3", "--length", "20", "--logprobs", "2")
    title, *rows = out.splitlines()
    assert title.split() == ["token", "logprob", "most", "likely"]
    model, tokenizer = tinygpt.load(run)
    sampler = Sampler(0.8, seed=3)
    pieces = list(stream_pieces(model, tokenizer, tokenizer.prompt("def ")[None], 20, sampler, top=2))
    pieces = [piece for piece in pieces if piece.token is not None]
    for row, piece in zip(rows, pieces, strict=True):
        (first, p), (second, q) = piece.top
        names = [tokenizer.token_text(token) for token in (piece.token, first, second)]
        assert row.split() == [names[0], f"{piece.logprob:.3f}", names[1], f"{p:.3f}", names[2], f"{q:.3f}"]
    assert "20 tokens" in err


def test_json_lines(run, capsys):
    """Catches lines that are not JSON, tokens that do not decode to the text, and a missing seed."""
    words = ("--prompt", "größer\n", "--seed", "3", "--length", "9", "--num-samples", "2", "--json")
    plain = [json.loads(line) for line in said(capsys, run, *words).out.splitlines()]
    lines = [json.loads(line) for line in said(capsys, run, *words, "--logprobs", "3").out.splitlines()]
    model, tokenizer = tinygpt.load(run)
    for sample, line in enumerate(lines):
        tokens = line.pop("tokens")
        assert line == plain[sample]
        assert line.keys() == {"index", "sample", "seed", "prompt", "text"}
        assert (line["index"], line["sample"], line["seed"], line["prompt"]) == (0, sample, 3, "größer\n")
        assert tokenizer.decode([token["id"] for token in tokens]) == line["text"]
        assert all(len(token["top"]) == 3 and token["logprob"] <= token["top"][0]["logprob"] for token in tokens)
        assert all(math.exp(token["logprob"]) <= 1 for token in tokens)
    assert lines[0]["text"] == "".join(stream_text(model, tokenizer, "größer\n", 9, Sampler(0.8, seed=3)))


PROMPTS = ["def a", "class ", "x = 1", "def b", "return"]


def test_many_prompts(run, tmp_path, capsys):
    """Catches prompts out of order or without their text, and texts that depend on the other prompts."""
    file = tmp_path / "prompts.txt"
    file.write_text("\n".join([PROMPTS[0], "", *PROMPTS[1:]]) + "\n")
    words = ("--seed", "5", "--length", "12", "--json")
    lines = [json.loads(line) for line in said(capsys, run, "--prompts", str(file), *words).out.splitlines()]
    assert [line["prompt"] for line in lines] == PROMPTS
    assert [line["index"] for line in lines] == list(range(5))
    model, tokenizer = tinygpt.load(run)
    for i, line in enumerate(lines):  # sampled alone, with the generator of prompt i
        ids = tokenizer.prompt(line["prompt"])[None]
        alone = stream_pieces(model, tokenizer, ids, 12, Sampler(0.8, seed=5, batch=[i]))
        assert "".join(piece.piece for piece in alone) == line["text"]
    out = said(capsys, run, "--prompts", str(file), "--seed", "5", "--length", "12").out
    want = "".join(f"--- prompt {i} of 5 ---\n{line['prompt']}{line['text']}\n" for i, line in enumerate(lines, 1))
    assert out == want


def test_prompts_of_equal_length_share_a_batch(run, tmp_path, capsys, monkeypatch):
    """Catches a forward pass per prompt instead of one per batch."""
    file = tmp_path / "prompts.txt"
    file.write_text("".join(f"def {c}\n" for c in "abcdefgh"))
    rows = []
    call = tinygpt.GPT.__call__
    monkeypatch.setattr(tinygpt.GPT, "__call__", lambda *a, **k: rows.append(len(a[1])) or call(*a, **k))
    said(capsys, run, "--prompts", str(file), "--length", "3", "--seed", "0")
    assert rows == [8, 8, 8]


def test_prompts_as_json(run, tmp_path, capsys):
    """Catches lost line breaks in a prompt, a failure on other keys, and two prompts with equal random draws."""
    file = tmp_path / "prompts.jsonl"
    file.write_text('{"prompt": "def a():\\n", "id": 7}\n\n{"prompt": ""}\n')
    words = ("--num-samples", "2", "--length", "3", "--seed", "0")
    lines = [json.loads(line) for line in said(capsys, run, "--prompts", str(file), *words, "--json").out.splitlines()]
    assert [(line["prompt"], line["sample"]) for line in lines] == [
        ("def a():\n", 0),
        ("def a():\n", 1),
        ("", 0),
        ("", 1),
    ]
    model, tokenizer = tinygpt.load(run)
    for i, line in enumerate(lines):  # prompt i has its own generator
        alone = stream_pieces(
            model, tokenizer, tokenizer.prompt(line["prompt"])[None], 3, Sampler(0.8, seed=0, batch=[i])
        )
        assert "".join(piece.piece for piece in alone) == line["text"]
    assert "--- prompt 2 of 2, sample 1 of 2 ---\n" in said(capsys, run, "--prompts", str(file), *words).out


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.jsonl", b'{"prompt": "a"}\n{"prompt": ', "a.jsonl: line 2: not JSON"),
        ("a.jsonl", b'\n["a"]', "a.jsonl: line 2: must be an object with a string 'prompt'"),
        ("a.jsonl", b'{"prompt": 1}', "a.jsonl: line 1: must be an object with a string 'prompt'"),
        ("a.jsonl", b'{"prompt": "\\ud800"}', "a.jsonl: line 1: 'prompt' has a lone surrogate"),
        ("a.jsonl", b"[" * 100_000, "a.jsonl: line 1: not JSON"),
        ("a.txt", b"\n \n", "a.txt: contains no prompt"),
        ("a.txt", b"\xef\xbb\xbf", "a.txt: contains no prompt"),
        ("a.txt", b"a\xff", "a.txt: not UTF-8"),
    ],
)
def test_invalid_prompt_files_are_refused(run, tmp_path, capsys, name, content, message):
    """Catches a file that is read in part, and an error without its line number."""
    (tmp_path / name).write_bytes(content)
    assert message in refused(capsys, run, "--prompts", str(tmp_path / name))


def test_a_full_context_is_reported_once(run, capsys):
    """Catches a text that loses its beginning silently, and a repeated warning."""
    _, err = said(capsys, run, "--prompt", "def ", "--length", "60", "--seed", "1")
    assert err.count("the context has 16 tokens: whenever it is full, the text continues from its newest 8 tokens") == 1
    _, err = said(capsys, run, "--prompt", "def ", "--length", "13", "--seed", "1")
    assert err.count("\n") == 1
    _, err = said(capsys, run, "--prompt", "x" * 20, "--length", "1", "--seed", "1")
    assert "[beginning of the prompt truncated: the model sees 16 tokens (4 dropped)]\n" in err


def test_warnings_come_before_the_text(run, capsys, monkeypatch):
    """Catches a warning that a reader sees only after a long text."""
    monkeypatch.setattr(sys, "stderr", sys.stdout)  # one stream keeps the order of both
    assert cli.main(["generate", "--model", str(run), "--prompt", "def ", "--length", "60", "--seed", "1"]) == 0
    out = capsys.readouterr().out
    assert 0 <= out.find("[the context has 16 tokens") < out.find("def ")


def test_a_gap_is_filled(filler, tmp_path, capsys):
    """Catches a middle with its surroundings, ignored files, and a prompt unlike the trained format."""
    model, tokenizer = tinygpt.load(filler)
    pre, suf, mid = (tokenizer.special_tokens[f"<|fim_{name}|>"] for name in ("prefix", "suffix", "middle"))
    ids = [pre, *tokenizer.encode("def "), suf, *tokenizer.encode("(x):"), mid]
    tokens = stream_pieces(model, tokenizer, [ids], 9, Sampler(0))
    middle = "".join(piece.piece for piece in tokens)
    words = ("--temp", "0", "--length", "9", "--quiet")
    assert said(capsys, filler, "--prefix", "def ", "--suffix", "(x):", *words).out == f"{middle}\n"
    (tmp_path / "p").write_text("def ")
    (tmp_path / "s").write_text("(x):")
    files = ("--prefix-file", str(tmp_path / "p"), "--suffix-file", str(tmp_path / "s"))
    assert said(capsys, filler, *files, *words).out == f"{middle}\n"
    whole = said(capsys, filler, *files, *words, "--whole").out
    assert whole == f"def {middle}(x):\n"
    line = json.loads(said(capsys, filler, *files, *words, "--json").out)
    assert (line["prompt"], line["text"], line["suffix"]) == ("def ", middle, "(x):")


def test_a_resumed_run_has_the_same_text(filler, capsys):
    """Catches gaps drawn again differently after --resume, and a --fim-rate that the run forgets."""
    capsys.readouterr()
    assert cli.main(["train", "--resume", "--out", str(filler), "--steps", "13", "--threads", "1"]) == 0
    out = capsys.readouterr().out
    assert "resuming at step 12 of 13" in out
    assert "changed" not in out


def test_truncated_text_around_a_gap_is_reported(filler, capsys):
    """Catches a prefix truncated silently, and a middle so long that the prompt leaves the context."""
    _, err = said(capsys, filler, "--prefix", "x" * 50, "--suffix", "y", "--length", "200", "--seed", "1")
    assert "text far from the gap truncated: the model sees 32 tokens (" in err
    assert "whenever it is full" not in err
