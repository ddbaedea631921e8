"""Fill the measured parts of README.md: the transcripts, by running the commands, and the ladder, from docs/data.

usage: python tools/readme.py [--run]      without --run only the table of the ladder is written

A part stands between <!-- name --> and <!-- /name -->. The commands run in an export of the last commit, as in a clone.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
README = ROOT / "README.md"
sys.path.insert(0, str(ROOT / "benchmarks"))


def put(text: str, name: str, content: str) -> str:
    """`text` with the part `name` replaced."""
    pattern = re.compile(rf"(<!-- {name} -->\n).*?(<!-- /{name} -->)", re.DOTALL)
    if not pattern.search(text):
        sys.exit(f"{README}: there is no part <!-- {name} -->")
    return pattern.sub(lambda found: f"{found[1]}{content}\n{found[2]}", text)


def ladder() -> str:
    """The rungs of the product of two 512 x 512 matrices, and of a training step of the default model."""
    import report

    results = report.load(ROOT / "docs" / "data" / "ladder.json")
    matmul = report.ladder(results, "matmul", "M 512  K 512  N 512")
    step = report.ladder(results, "step default")
    return f"{matmul}\n\n{step}\n\n({report.machine(results)})"


def transcript(command: list[str], folder: Path) -> str:
    """A command and what it prints, as a fenced block."""
    shown = " ".join(f'"{word}"' if " " in word else word for word in command)
    environment = {**os.environ, "COLUMNS": "100"}
    done = subprocess.run(
        command, cwd=folder, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    if done.returncode:
        sys.exit(f"{shown}: exit status {done.returncode}\n{done.stdout}")
    lines = [line.rstrip() for line in done.stdout.splitlines()]
    return "```text\n" + "\n".join([f"$ {shown}", *lines]) + "\n```"


def main() -> None:
    """Write README.md."""
    text = put(README.read_text(), "ladder", ladder())
    if "--run" in sys.argv[1:]:
        with tempfile.TemporaryDirectory() as scratch:
            folder = Path(scratch, "tinygpt")
            folder.mkdir()
            archive = subprocess.run(["git", "archive", "HEAD"], cwd=ROOT, check=True, capture_output=True).stdout
            subprocess.run(["tar", "-x"], cwd=folder, input=archive, check=True)
            text = put(text, "train", transcript(["tinygpt", "train"], folder))
            text = put(text, "generate", transcript(["tinygpt", "generate", "--prompt", "def ", "--seed", "1"], folder))
    README.write_text(text)


if __name__ == "__main__":
    main()
