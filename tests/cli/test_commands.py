"""Every command on valid input."""

import ast
import dataclasses
import importlib
import inspect
import io
import re
import sys
import types
from dataclasses import replace

import pytest
from tiny_run import content, flags, tiny

import tinygpt
from tinygpt import cli, kernels, testing
from tinygpt.cli import app, bench
from tinygpt.core import matmul as compiled
from tinygpt.data.corpus import encode_documents
from tinygpt.data.discover import discover
from tinygpt.data.rules import EXTENSIONS
from tinygpt.evaluate import evaluate
from tinygpt.generate import stream_text
from tinygpt.runs import layout
from tinygpt.runs.metrics import read_metrics
from tinygpt.sampling import Sampler
from tinygpt.train.settings import DEFAULTS, KINDS
from tinygpt.viz.bench import Bar

# Command -> (module, options class).
OPTIONS = {
    "train": ("tinygpt.train.settings", "TrainSettings"),
    "generate": ("tinygpt.cli.generate_flags", "GenerateOptions"),
    "chat": ("tinygpt.cli.chat", "ChatOptions"),
    "complete": ("tinygpt.cli.complete", "CompleteOptions"),
    "serve": ("tinygpt.cli.serve", "ServeOptions"),
    "visualize": ("tinygpt.cli.visualize", "VisualizeOptions"),
    "trace": ("tinygpt.cli.trace", "TraceOptions"),
    "embeddings": ("tinygpt.cli.embeddings", "EmbeddingsOptions"),
    "eval": ("tinygpt.cli.eval", "EvalOptions"),
    "read": ("tinygpt.cli.read", "ReadOptions"),
    "import": ("tinygpt.cli.import_model", "ImportOptions"),
    "export": ("tinygpt.cli.export", "ExportOptions"),
    "metrics": ("tinygpt.cli.metrics", "MetricsOptions"),
    "bench": ("tinygpt.cli.bench", "BenchOptions"),
    "gym": ("tinygpt.cli.gym", "GymOptions"),
    "info": ("tinygpt.cli.info", "InfoOptions"),
}


def said(capsys, *arguments):
    """Run a command that must succeed; return its standard output and standard error."""
    assert cli.main(list(arguments)) == 0
    return capsys.readouterr()


def generate(capsys, run, *arguments):
    return said(capsys, "generate", "--model", str(run), "--length", "40", *arguments)


def test_quiet_training_prints_nothing(sources, tmp_path, capsys):
    """Catches a line printed despite --quiet, and a quiet run that does not train."""
    settings = tiny(sources, tmp_path / "quiet")
    assert said(capsys, "train", *flags(settings), "--quiet") == ("", "")
    assert said(capsys, "train", *flags(tiny(sources, tmp_path / "loud"))).out
    for name in ("model.safetensors", "tokenizer.json"):
        assert (tmp_path / "quiet" / name).read_bytes() == (tmp_path / "loud" / name).read_bytes()


def test_training_prints_its_progress(sources, tmp_path, capsys):
    """Catches a fact, an evaluation or a sample that is not printed."""
    out, err = said(
        capsys, "train", *flags(tiny(sources, tmp_path / "out", samples=2)), "--sample-length=20", "--lr=0.01"
    )
    assert err == ""
    labels = re.findall(r"^([a-z]+) {2,}\S", out, re.MULTILINE)
    assert labels[:4] == ["source", "tokens", "model", "machine"]
    assert labels.count("eval") == 3
    assert {"validation", "written"} <= set(labels)
    assert len(re.findall(r"^sample [12] ", out, re.MULTILINE)) == 2
    parameters = tinygpt.load(tmp_path / "out")[0].num_parameters()
    assert f"{parameters:,} parameters" in out


def test_a_page_is_written(sources, tmp_path, capsys):
    """Catches --metrics without effect, and a missing folder that is not created."""
    page = tmp_path / "out" / "pages" / "metrics.html"
    said(capsys, "train", *flags(tiny(sources, tmp_path / "out")), "--metrics", str(page))
    assert '"state":"complete"' in page.read_text()


def test_generation_continues_the_prompt(run, capsys):
    """Catches a text without its prompt, a text other than the model's, and statistics within the text."""
    out, err = generate(capsys, run, "--prompt", "def ", "--seed", "3")
    model, tokenizer = tinygpt.load(run)
    text = "".join(stream_text(model, tokenizer, "def ", 40, Sampler(0.8, seed=3)))
    assert out == f"def {text}\n"
    assert re.fullmatch(r"\[the context has 16 tokens.*\]\n\[\d+ tokens, [\d,]+ tokens/s, seed 3\]\n", err)


def test_the_text_is_streamed(run, capsys, monkeypatch):
    """Catches a text that is printed only at the end."""
    pieces = [""]
    write, flush = sys.stdout.write, sys.stdout.flush
    monkeypatch.setattr(sys.stdout, "write", lambda text: pieces.append(pieces.pop() + text) or write(text))
    monkeypatch.setattr(sys.stdout, "flush", lambda: pieces.append("") or flush())
    out, _ = generate(capsys, run, "--prompt", "def ", "--seed", "3")
    assert "".join(pieces) == out
    assert len([piece for piece in pieces if piece]) > 30


def test_the_seed_determines_the_text(run, capsys):
    """Catches a seed that is ignored, one that is not printed, and a default seed that is constant."""
    same = [generate(capsys, run, "--prompt", "d", "--seed", "5").out for _ in range(2)]
    assert same[0] == same[1]
    drawn = [generate(capsys, run, "--prompt", "d") for _ in range(3)]
    assert len({text.out for text in drawn}) > 1
    seed = re.search(r"seed (\d+)\]", drawn[0].err)[1]
    assert generate(capsys, run, "--prompt", "d", "--seed", seed).out == drawn[0].out


def test_temperature_0_is_the_same_on_every_rung(run, capsys):
    """Catches random draws at temperature 0, --kernels without effect, and a rung with other results."""
    texts = set()
    for rung in kernels.available()["matmul"]:
        out, err = generate(capsys, run, "--prompt", "def ", "--temp", "0", "--kernels", rung, "--quiet")
        assert kernels.selection()["matmul"] == rung
        assert err == ""
        texts.add(out)
    assert len(texts) == 1


def test_topk_1_and_a_tiny_topp_are_greedy(run, capsys):
    """Catches --topk and --topp that do not reach the sampler."""
    greedy = generate(capsys, run, "--prompt", "def ", "--temp", "0").out
    assert generate(capsys, run, "--prompt", "def ", "--temp", "1.5", "--topk", "1").out == greedy
    assert generate(capsys, run, "--prompt", "def ", "--temp", "1.5", "--topp", "1e-9").out == greedy
    assert generate(capsys, run, "--prompt", "def ", "--temp", "1.5", "--topk", "0", "--seed", "1").out != greedy


def test_min_p_and_penalties_reach_the_sampler(run, capsys):
    """Catches a flag that is parsed but not used."""
    greedy = generate(capsys, run, "--prompt", "def ", "--temp", "0").out
    assert generate(capsys, run, "--prompt", "def ", "--temp", "1.5", "--min-p", "1").out == greedy
    model, tokenizer = tinygpt.load(run)
    for flag in ("repetition_penalty", "presence_penalty", "frequency_penalty"):
        text = "".join(stream_text(model, tokenizer, "def ", 40, Sampler(0.0, **{flag: 30.0})))
        out = generate(capsys, run, "--prompt", "def ", "--temp", "0", f"--{flag.replace('_', '-')}", "30").out
        assert out == f"def {text}\n"
        assert out != greedy


def test_several_samples(run, capsys):
    """Catches samples in the wrong order or joined together, and a missing header, prompt or count."""
    options = ("--prompt", "def ", "--seed", "3")
    first = generate(capsys, run, *options).out
    three, err = generate(capsys, run, *options, "--num-samples", "3")
    texts = re.split(r"^--- sample \d of 3 ---\n", three, flags=re.MULTILINE)
    assert texts[0] == ""
    assert len(texts) == 4
    assert texts[1] == first
    assert all(text.startswith("def ") and text.endswith("\n") for text in texts[1:])
    assert len(set(texts)) == 4
    assert int(re.search(r"\[(\d+) tokens", err)[1]) <= 120
    two = generate(capsys, run, *options, "--num-samples", "2").out
    assert two.replace("of 2", "of 3") == "".join(three.partition("--- sample 3 of 3")[:1])


@pytest.mark.parametrize("prompt", ["def alpha_1(x):\n", "größer 日本\n", "-x", "--topk"])
def test_sources_of_a_prompt(run, tmp_path, capsys, monkeypatch, prompt):
    """Catches a file, a pipe or a leading dash that is not read, or read with the wrong encoding."""
    (tmp_path / "prompt.txt").write_text(prompt, encoding="utf-8")
    fixed = ("--temp", "0", "--quiet")
    texts = [
        generate(capsys, run, "--prompt", prompt, *fixed).out,
        generate(capsys, run, f"--prompt={prompt}", *fixed).out,
        generate(capsys, run, "--prompt-file", str(tmp_path / "prompt.txt"), *fixed).out,
    ]
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(prompt.encode()), encoding="utf-8"))
    texts.append(generate(capsys, run, "--prompt", "-", *fixed).out)
    assert texts[0].startswith(prompt)
    assert len(set(texts)) == 1


def test_without_a_prompt_a_document_begins(run, capsys):
    """Catches an empty prompt passed to the model, which needs at least one token."""
    model, tokenizer = tinygpt.load(run)
    text = "".join(stream_text(model, tokenizer, "", 40, Sampler(0.8, seed=3)))
    assert generate(capsys, run, "--seed", "3").out == f"{text}\n"


def test_a_length_of_0(run, capsys):
    """Catches one token too many."""
    assert said(capsys, "generate", "--model", str(run), "--prompt", "def", "--length", "0").out == "def\n"


def test_eval_prints_what_evaluate_returns(run, sources, capsys):
    """Catches a score of the wrong text or model, and figures under the wrong name."""
    model, tokenizer = tinygpt.load(run)
    documents, summary = discover([str(sources)], EXTENSIONS)
    for words, limit in (([], None), (["--max-tokens", "100"], 100)):
        score = evaluate(model, *encode_documents(documents, tokenizer), limit)
        out, err = said(capsys, "eval", "--model", str(run), "--data", str(sources), *words)
        assert out == (
            f"loss {score.loss:.4f}  perplexity {score.perplexity:.3f}  bits per byte {score.bits_per_byte:.4f}  "
            f"({score.tokens:,} tokens)\n"
        )
        assert re.fullmatch(re.escape(f"source    {summary.describe()}\n") + r"speed     [\d,]+ tokens/s\n", err)
    assert said(capsys, "eval", "--model", str(run), "--data", str(sources), "--quiet").err == ""


def test_info_shows_the_machine(capsys):
    """Catches a missing rung or limit, and a mark at a rung that is not selected."""
    with kernels.use("naive"):
        out, err = said(capsys, "info", "--threads", "1")
    assert err == ""
    facts = {line[:26].strip(): line[26:] for line in out.splitlines()}
    assert facts["tinygpt"] == tinygpt.__version__
    assert re.fullmatch(r"(gcc|clang) \d+\.\d+\.\d+|another compiler", facts["build"])
    assert facts["threads"].startswith("1  (OpenMP ")
    assert {"python", "processor", "ISA", "build", "OpenMP", "peak", "bandwidth"} <= facts.keys()
    assert ("emulated" in facts["bfloat16"]) == (not compiled.bfloat16_instructions())
    for op, rungs in kernels.available().items():
        assert facts[op].split() == ["[naive]" if rung == "naive" else rung for rung in rungs]


def test_info_shows_a_model(run, capsys):
    """Catches figures of the model or its run that are missing or under the wrong name."""
    out, _ = said(capsys, "info", "--model", str(run))
    facts = dict(re.split(r" {2,}", line.strip(), maxsplit=1) for line in out.splitlines())
    model, tokenizer = tinygpt.load(run)
    assert (facts["steps"], facts["schedule"], facts["keep-best"]) == ("60", "cosine", "off")
    assert facts["parameters"] == f"{model.num_parameters():,}"
    assert (facts["n_layer"], facts["n_embd"], facts["block_size"]) == ("1", "16", "16")
    assert (facts["n_kv_head"], facts["ffn_dim"]) == ("2", "64")
    assert facts["tokenizer"] == f"CharTokenizer, vocabulary {tokenizer.vocab_size}"
    assert re.fullmatch(r"60 steps, \d+ s", facts["trained"])
    losses = [record["val_loss"] for record in read_metrics(run / layout.METRICS) if "val_loss" in record]
    assert facts["validation loss"] == f"{min(losses):.4f}"


def test_info_shows_a_checkpoint(run, capsys):
    """Catches a failure on a directory that has a model but no training run."""
    out, _ = said(capsys, "info", "--model", str(layout.latest_checkpoint(run)))
    assert "parameters" in out
    assert "trained" not in out


def test_quiet_info_prints_nothing(run, capsys):
    """Catches a line printed despite --quiet."""
    assert said(capsys, "info", "--model", str(run), "--quiet") == ("", "")


@pytest.mark.parametrize(
    ("arguments", "size"),
    [(["--op", "softmax", "--sizes", "R=3", "C=5"], "R3 C5"), (["--op", "matmul", "--sizes", "8", "9"], "M9 K9 N9")],
)
def test_bench_times_every_rung(capsys, arguments, size):
    """Catches a missing rung or size."""
    out, err = said(capsys, "bench", *arguments, "--seconds", "0.01", "--threads", "1")
    assert err == ""
    assert size in out
    assert "1 thread," in out
    op = arguments[1]
    cases = out.count(f" {op} ")
    assert cases == len(arguments) - 3 - (op == "softmax")
    for rung in kernels.available()[op]:
        assert len(re.findall(rf" {rung} +[\d,]+ ", out)) == cases


def test_bench_has_bfloat16_for_matmul_alone(capsys):
    """Catches a bfloat16 row that is missing, under the wrong op, or compared with the float32 result."""
    out, _ = said(capsys, "bench", "--op", "matmul", "softmax", "--seconds", "0.001", "--threads", "1")
    matmul, softmax = out.split(" softmax ")
    assert len(re.findall(r" simd bf16 ", matmul)) == len(compiled.BFLOAT16)
    assert "bf16" not in softmax
    out, _ = said(capsys, "bench", "--op", "matmul", "--kernels", "naive", "--seconds", "0.001", "--threads", "1")
    assert "bf16" not in out


def test_bench_reports_the_share_of_the_limiting_peak(monkeypatch):
    """Catches a share of the wrong peak, a rate in the wrong unit, and an inverted speed-up.

    64 operations and 256 bytes in 2 s: 32 FLOP/s are a quarter of 128, 128 bytes/s are half of 256.
    """
    case = types.SimpleNamespace(flops=64, bytes=256)
    rate, share = bench._figures(case, 2.0, (128.0, 256.0))
    assert (rate.partition(" ")[2], share) == ("GB/s", "50 % mem")
    rate, share = bench._figures(case, 2.0, (40.0, 256.0))
    assert (rate.partition(" ")[2], share) == ("GFLOP/s", "80.0 % peak")
    assert bench._factor(2.0, 6.0, against=False) == "3.0 x"
    assert bench._factor(6.0, 2.0, against=True) == "3.00 x"
    assert bench._factor(2.0, None, against=True) == ""


def test_bench_marks_disturbed_times():
    """Catches a time disturbed by other programs that is printed without the mark ~."""
    bar = Bar("simd", 2e-6, "", "", "", ours=True, disturbed=True)
    assert bench._time(bar) == "~2"
    assert bench._time(replace(bar, disturbed=False)) == "2"


def test_bench_against_numpy(capsys, tmp_path):
    """Catches a library that is not compared, a ladder that is timed as well, and a factor the wrong way round."""
    arguments = ["--op", "layernorm", "--sizes", "R=300", "C=300", "--against", "numpy", "--threads", "1"]
    out, _ = said(capsys, "bench", *arguments, "--seconds", "0.02", "--html", str(tmp_path / "bench.html"))
    rows = [line.split() for line in out.splitlines() if " us" not in line and (" simd " in line or " numpy " in line)]
    assert len(rows) == 2
    assert "naive" not in out
    assert float(rows[1][-2]) > 1  # array code is several times slower than one fused pass
    assert re.search(r"numpy takes \d+\.\d\d x tinygpt's time \(geometric mean of 1\)", out)
    page = (tmp_path / "bench.html").read_text()
    assert "Kernel benchmark" in page
    assert '"rung":"numpy"' in page


def test_bench_takes_some_rungs(capsys):
    """Catches a list of rungs that is ignored, and an op timed with another op's rungs."""
    out, _ = said(capsys, "bench", "--op", "softmax", "add", "--kernels", "naive", "blocked", "--seconds", "0.001")
    assert re.findall(r" (softmax|add) ", out)
    for rung in ("parallel", "numpy"):
        assert f" {rung} " not in out
    rungs = kernels.available()
    wanted = sum(
        len({"naive", "blocked"} & set(rungs[op])) * len(testing.default_cases(op)) for op in ("softmax", "add")
    )
    assert len(re.findall(r" (naive|blocked) ", out)) == wanted


def test_bench_of_one_rung_shows_the_size(capsys):
    """Catches a size printed on the second line, which a single rung does not have."""
    out, _ = said(
        capsys, "bench", "--op", "softmax", "--sizes", "R=3", "C=5", "--kernels", "naive", "--seconds", "0.001"
    )
    assert re.search(r" softmax  R3 C5 +naive ", out)


def test_bench_takes_several_ops(capsys):
    """Catches a list of which only the first or last op is used."""
    out, _ = said(capsys, "bench", "--op", "add", "rope", "--seconds", "0.001", "--quiet")
    assert " add " in out
    assert " rope " in out
    assert "matmul" not in out


def test_commands_leave_no_files(run, sources, tmp_path, capsys, monkeypatch):
    """Catches a command that writes files although it should only read."""
    monkeypatch.chdir(tmp_path)
    before = content(run)
    generate(capsys, run, "--prompt", "d")
    said(capsys, "eval", "--model", str(run), "--data", str(sources))
    said(capsys, "info", "--model", str(run))
    said(capsys, "bench", "--op", "add", "--seconds", "0.001")
    assert content(run) == before
    assert list(tmp_path.iterdir()) == []


def documented(options):
    """Map each field of an options class and its bases to the docstring below the field."""
    found = {}
    for cls in reversed(options.__mro__[:-1]):
        (tree,) = ast.parse(inspect.getsource(cls)).body
        for field, text in zip(tree.body, tree.body[1:], strict=False):
            if isinstance(field, ast.AnnAssign) and isinstance(text, ast.Expr) and isinstance(text.value, ast.Constant):
                found[field.target.id] = text.value.value
    return found


def shown_default(field):
    """The default as help shows it; "None" for a required flag."""
    if field.default is field.default_factory is dataclasses.MISSING:
        return "None"
    value = field.default_factory() if field.default is dataclasses.MISSING else field.default
    if isinstance(value, bool):
        return "on" if value else "off"
    return " ".join(map(str, value)) if isinstance(value, (list, tuple)) else str(value)


@pytest.mark.parametrize("command", OPTIONS)
def test_help_lists_every_flag(capsys, monkeypatch, command):
    """Catches a flag without a description, a default that is not shown, and developer text in the help."""
    monkeypatch.setenv("COLUMNS", "400")
    out, err = said(capsys, command, "--help")
    assert err == ""
    assert re.match(rf"Usage: tinygpt {command} ", out)
    assert app.COMMANDS[command] in out
    module = importlib.import_module(OPTIONS[command][0])
    groups = list(KINDS.values()) if command == "train" else [getattr(module, OPTIONS[command][1])]
    texts = {name: text for group in groups for name, text in documented(group).items()}
    fields = [field for group in groups for field in dataclasses.fields(group)]
    assert texts.keys() == {field.name for field in fields}
    for field in fields:
        flag = f"--{field.name.strip('_').replace('_', '-')}"
        (line,) = [line for line in out.splitlines() if re.match(rf"\W*{flag} ", line)]
        assert " ".join(texts[field.name].split()) in line
        default = shown_default(field)
        assert ("[default:" in line) == (default != "None"), line
        assert default == "None" or f"[default: {default}]" in line


def test_help_shows_the_whole_docstring(capsys, monkeypatch):
    """Catches help that shows only the first line of a docstring."""
    monkeypatch.setenv("COLUMNS", "80")
    for command in OPTIONS:
        module, _, function = app.FUNCTIONS.get(command, f"{command}:{command}").partition(":")
        text = inspect.getdoc(getattr(importlib.import_module(f"tinygpt.cli.{module}"), function))
        assert text in said(capsys, command, "--help").out
        assert text.splitlines()[0] == app.COMMANDS[command]


def test_every_command_can_be_quiet():
    """Catches a command without --quiet."""
    for module, name in (place for command, place in OPTIONS.items() if command != "train"):
        assert "quiet" in {field.name for field in dataclasses.fields(getattr(importlib.import_module(module), name))}
    assert DEFAULTS["quiet"] is False


@pytest.mark.parametrize("arguments", [[], ["--help"], ["-h"]])
def test_help_lists_every_command(capsys, arguments):
    """Catches a command missing from the help."""
    out, _ = said(capsys, *arguments)
    assert all(f"{name} " in out and text in out for name, text in app.COMMANDS.items())


def test_the_version_is_printed(capsys):
    """Catches a version that differs from the package's."""
    assert said(capsys, "--version").out == f"{tinygpt.__version__}\n"
