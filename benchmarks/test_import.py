"""Time until a user can do something: import, and the answer to --help."""

import subprocess
import sys

import pytest

PROGRAMS = {
    "import numpy": ["-c", "import numpy"],
    "import tinygpt": ["-c", "import numpy, tinygpt"],
    "import tinygpt, GPT": ["-c", "from tinygpt import GPT"],
    "tinygpt --help": ["-m", "tinygpt", "--help"],
}


@pytest.mark.parametrize("what", PROGRAMS)
def test_start(benchmark, what):
    benchmark.group = "start of a process"
    benchmark.extra_info.update(kind="start", op=what)
    done = benchmark.pedantic(
        subprocess.run, ([sys.executable, *PROGRAMS[what]],), {"capture_output": True}, rounds=7, warmup_rounds=1
    )
    assert done.returncode == 0
