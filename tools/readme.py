"""Fill the measured parts of README.md: transcripts of its commands, and the picture of the ladder.

usage: python tools/readme.py [--run]      without --run only the picture is drawn, from docs/data/ladder.json

A transcript is between <!-- name --> and <!-- /name -->. Its command runs in an export of the last commit, which
has the files of a fresh clone.
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
sys.path.insert(0, str(ROOT / "tools"))


def put(text: str, name: str, content: str) -> str:
    """Replace the part `name` of a text."""
    pattern = re.compile(rf"(<!-- {name} -->\n).*?(<!-- /{name} -->)", re.DOTALL)
    if not pattern.search(text):
        sys.exit(f"{README}: there is no part <!-- {name} -->")
    return pattern.sub(lambda found: f"{found[1]}{content}\n{found[2]}", text)


def transcript(command: list[str], folder: Path) -> str:
    """Run a command and return it with its output as a fenced block."""
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
    """Draw the picture; with --run, run the commands and write README.md."""
    import ladder_chart

    ladder_chart.main()
    if "--run" not in sys.argv[1:]:
        return
    text = README.read_text()
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
