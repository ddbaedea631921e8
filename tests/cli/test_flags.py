"""Library errors in the words of the command line, and words that no flag takes."""

from dataclasses import dataclass, field

import pytest

from tinygpt import cli
from tinygpt.cli.flags import flag_names, in_flags


@dataclass
class Inner:
    """Options inside others."""

    grad_accum: int = 1


@dataclass
class Options:
    """Options as a command has them."""

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
        ("topk.txt: 'topk' is missing", "topk.txt: 'topk' is missing"),
    ],
)
def test_arguments_become_flags(message, want):
    """Catches an argument name that a user of the command line cannot type, and words of a file that are changed."""
    assert in_flags(message, flag_names(["FILE", Options()])) == want


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
def test_what_is_missing_or_too_much_is_named_with_its_fix(capsys, arguments, line):
    """Catches a message that leaves the user to guess which flag takes the text, and how a file is named."""
    assert cli.main(arguments) == 2
    assert capsys.readouterr() == ("", f"tinygpt: error: {line}\n")
