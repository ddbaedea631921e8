"""Imports before the first answer: help and version must not load the model or its libraries."""

import json
import subprocess
import sys

import pytest

from tinygpt.cli.app import COMMANDS

PROGRAM = """
import json, sys
from tinygpt.cli import main
status = main(sys.argv[1:])
print(json.dumps([status, sorted(sys.modules)]), file=sys.stderr)
"""


def loaded(*arguments):
    """Run a command in a process of its own; return the names of the modules that it imported."""
    command = [sys.executable, "-c", PROGRAM, *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    status, modules = json.loads(done.stderr)
    assert status == 0
    assert done.stdout
    return set(modules)


@pytest.mark.parametrize("arguments", [["--help"], ["--version"]])
def test_an_answer_needs_no_model(arguments):
    """Catches a slow import at the top of a command module."""
    modules = loaded(*arguments)
    parts = {name for name in modules if name.startswith("tinygpt")}
    assert parts == {"tinygpt", "tinygpt.cli", "tinygpt.cli.app", "tinygpt.cli.flags"}
    assert not modules & {"numpy", "plotly", "safetensors", "tinygpt.model", *(f"tinygpt.cli.{c}" for c in COMMANDS)}


def test_help_of_generate_needs_no_model():
    """Catches a model or a plotting library loaded only to print help."""
    modules = loaded("generate", "--help")
    assert not modules & {"plotly", "safetensors", "tinygpt.model", "tinygpt.kernels", "tinygpt.files", "tinygpt.runs"}


def test_the_package_can_be_run_as_a_module():
    """Catches `python -m tinygpt` without effect or with a wrong exit status."""
    done = subprocess.run([sys.executable, "-m", "tinygpt", "nothing"], capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr.startswith("tinygpt: error: ")
