"""Library errors in terms of flags, and arguments that belong to no flag."""

from dataclasses import dataclass, field

import pytest

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
        ("topk.txt: 'topk' is missing", "topk.txt: 'topk' is missing"),
    ],
)
def test_arguments_become_flags(message, want):
    """Catches an argument name that is not a flag, and a message about a file that is changed."""
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
def test_missing_and_extra_arguments_are_named_with_the_fix(capsys, arguments, line):
    """Catches an error that does not say which flag takes the text or the file."""
    assert cli.main(arguments) == 2
    assert capsys.readouterr() == ("", f"tinygpt: error: {line}\n")
