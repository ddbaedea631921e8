"""Startup of every page's kernel: make a failing command (``!tinygpt ...``) an error of its cell.

IPython itself gives commands a terminal and continues after an error. Here they get a pipe, as in a script, and an exit
status other than 0 is an error of the cell.
"""

import os
import subprocess

from IPython import get_ipython


def run_command(command: str) -> None:
    """Run a shell command, print what it wrote, and raise CalledProcessError if it failed."""
    command = get_ipython().var_expand(command)  # $name is a variable of the page
    done = subprocess.run(command, shell=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False)
    print(done.stdout, end="")
    done.check_returncode()


get_ipython().system = run_command
# ipykernel sets variables that request colours and a live display from every program.
for name in ("CLICOLOR", "CLICOLOR_FORCE", "FORCE_COLOR"):
    os.environ.pop(name, None)
