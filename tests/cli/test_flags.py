"""Library errors in terms of flags, and arguments that belong to no flag."""

import ast
import re
from dataclasses import dataclass, field
from pathlib import Path

import pytest

import tinygpt
from tinygpt import cli
from tinygpt.cli.flags import flag_names, in_flags


@dataclass
class Inner:
    """Options nested in others."""

    grad_accum: int = 1


@dataclass
class Options:
    """Options as a command defines them."""

    topk: int | None = None
    from_: str | None = None
    inner: Inner = field(default_factory=Inner)


@pytest.mark.parametrize(
    ("message", "want"),
    [
        ("[sample] 'top_k' must be 0 (all) or more, got -1", "--topk must be 0 (all) or more, got -1"),
        ("[train] 'grad_accum' must be 1", "--grad-accum must be 1"),
        ("[train] 'from' needs 'other'", "--from needs 'other'"),
        ("[kernels] unknown rung 'topk'; there are naive", "--kernels: unknown rung 'topk'; there are naive"),
        ("[set_num_threads] 'n' must be at least 1, got 0", "--threads must be at least 1, got 0"),
        ("[discover] no source file in 'topk'; give 'extensions' .c", "no source file in 'topk'; give --ext .c"),
        ("[Corpus] give more data or 'block_size' 7", "give more data or --seq 7"),
        ("[gap] train with 'fim_rate' 0.5", "train with --fim-rate 0.5"),
        ("topk.txt: 'topk' is missing", "topk.txt: 'topk' is missing"),
    ],
)
def test_arguments_become_flags(message, want):
    """Catches an argument name that is not a flag, and a message about a file that is changed."""
    assert in_flags(message, flag_names(["FILE", Options()])) == want


PACKAGE = Path(tinygpt.__file__).parent
FLAG = re.compile(r"(?<![\w-])--[a-z]")
# The alias of a flag, and a flag of another program.
FLAGS_IN_THE_LIBRARY = {("train/settings.py", "--held-out"), ("files/gguf_config.py", "--merge")}


def flags_in_texts(source):
    """List the flags in the strings of a module, docstrings left out."""
    tree = ast.parse(source)
    docstrings = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
    strings = (node for node in ast.walk(tree) if isinstance(node, ast.Constant) and isinstance(node.value, str))
    texts = [node.value for node in strings if id(node) not in docstrings]
    return [word for text in texts for word in text.split() if FLAG.match(word)]


def test_flags_in_texts_are_found():
    """Catches a search that finds nothing, or that takes a docstring for a message."""
    assert flags_in_texts('"""Say --no."""\nraise ValueError(f"give --seq {n}")') == ["--seq"]


def test_the_library_names_no_flag():
    """Catches a message with a flag for a caller of Python, who has arguments: cli/flags.py makes the flags."""
    files = [path for path in PACKAGE.rglob("*.py") if not path.is_relative_to(PACKAGE / "cli")]
    assert len(files) > 50
    found = {
        (path.relative_to(PACKAGE).as_posix(), flag)
        for path in files
        for flag in flags_in_texts(path.read_text("utf-8"))
    }
    assert found == FLAGS_IN_THE_LIBRARY


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (["generate", "def main"], "unexpected argument 'def main'; did you mean --prompt 'def main'?"),
        (["generate", "def", "main"], "unexpected argument 'def'; did you mean --prompt 'def main'?"),
        (["tokenize", "a"], "unexpected argument 'a'; did you mean --text a?"),
        (["read"], "FILE is missing; usage: tinygpt read FILE"),
        (["metrics"], "RUNS is missing; usage: tinygpt metrics RUNS"),
        (["import", "x"], "--out is required; see 'tinygpt import --help'"),
        (["generate", "--length"], "--length needs a value; see 'tinygpt generate --help'"),
    ],
)
def test_missing_and_extra_arguments_are_named_with_the_fix(capsys, arguments, line):
    """Catches an error that does not say which flag takes the text or the file."""
    assert cli.main(arguments) == 2
    assert capsys.readouterr() == ("", f"tinygpt: error: {line}\n")
