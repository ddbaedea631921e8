"""Checks on what the package and its build may run or contact: no pickle, evaluated text, shell or unexpected network.

The search reads syntax trees, so it sees names in the source. A name that is assembled at run time is out of its reach;
the second test, which runs commands under an audit hook, does not depend on names.
"""

import ast
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from tiny_run import flags, tiny, write_sources

ROOT = Path(__file__).parents[1]
MODULES = {
    "load objects that run code": {"_pickle", "cloudpickle", "dill", "joblib", "marshal", "pickle", "shelve"},
    "speak over a network": {
        "_socket", "aiohttp", "asyncio.streams", "ftplib", "http", "httpx", "huggingface_hub", "imaplib", "poplib",
        "requests", "smtplib", "socket", "socketserver", "ssl", "telnetlib", "urllib", "urllib3", "uvicorn",
        "webbrowser", "websockets", "xmlrpc",
    },
    "start programs": {"_posixsubprocess", "multiprocessing", "pty", "subprocess"},
    "reach around the names": {"builtins", "code", "codeop", "runpy"},
}  # fmt: skip
BUILTINS = {"eval", "exec", "compile", "__import__"}
OS = re.compile(r"os\.(system|popen|fork\w*|posix_spawnp?|exec[lv]\w*|spawn[lv]\w*|startfile)")
# Keyword arguments that allow code or a shell where the call without them does not.
KEYWORDS = {"shell", "allow_pickle"}
# Every use, with its reason. A use that is gone must leave the table.
ALLOWED = {
    ("tinygpt/serve/run.py", "socket"): "`serve` listens on the address of --host, by default this machine alone",
    ("tinygpt/serve/run.py", "uvicorn"): "the web server of `serve`",
    ("tinygpt/distributed/communicator.py", "socket"): "the name of this machine, to count the ranks on it",
    ("tinygpt/runs/lock.py", "socket"): "the name of this machine, written into the lock of a run",
    ("tinygpt/gym/runner.py", "subprocess"): "`gym` runs the exercises that its user wrote, in processes with a limit",
    ("setup.py", "subprocess"): "asks the compiler for its version and whether OpenMP works",
    ("tools/readme.py", "subprocess"): "runs the commands of the README",
    ("tools/stubs.py", "subprocess"): "runs ruff and mypy on the stubs",
}
PACKAGE = sorted((ROOT / "tinygpt").rglob("*.py"))
FILES = [*PACKAGE, ROOT / "setup.py", *sorted((ROOT / "tools").rglob("*.py"))]
# Calls of C that start programs, load code or speak over a network.
C_CALLS = re.compile(r"\b(system|popen|fork|vfork|exec[lv][pe]*|posix_spawnp?|dlopen|socket|connect|fopen|open)\s*\(")


def forbidden(name):
    """Return the entry of MODULES that a dotted name is or lies in; None if there is none."""
    parts = name.split(".")
    heads = {".".join(parts[:n]) for n in range(1, len(parts) + 1)}
    return next((module for modules in MODULES.values() for module in sorted(modules) if module in heads), None)


def uses(text):
    """Every forbidden thing that a Python source names."""
    tree = ast.parse(text)
    found, of_os = set(), {"os": "os", "posix": "os"}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {forbidden(alias.name) for alias in node.names}
            of_os |= {alias.asname: "os" for alias in node.names if alias.name in ("os", "posix") and alias.asname}
        elif isinstance(node, ast.ImportFrom) and not node.level:
            names = [f"{node.module}.{alias.name}" for alias in node.names]
            found |= {forbidden(name) for name in names} | {name for name in names if OS.fullmatch(name)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Name) and node.id in BUILTINS:
            found.add(node.id)
        elif isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
            name = f"{of_os.get(node.value.id, node.value.id)}.{node.attr}"
            found |= {name} if OS.fullmatch(name) else set()
        elif isinstance(node, ast.keyword) and node.arg in KEYWORDS:
            off = isinstance(node.value, ast.Constant) and node.value.value is False
            found |= set() if off else {f"{node.arg}="}
        elif isinstance(node, ast.Call) and getattr(node.func, "attr", None) in ("import_module", "find_spec"):
            name = node.args[0].value if node.args and isinstance(node.args[0], ast.Constant) else ""
            found.add(forbidden(name))
    return found - {None}


def test_no_file_names_what_is_forbidden():
    """Catches a pickle, an eval, a shell, a started program or a network client that nobody has given a reason for."""
    found = {(file.relative_to(ROOT).as_posix(), use) for file in FILES for use in uses(file.read_text("utf-8"))}
    assert found == set(ALLOWED)


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("import pickle", {"pickle"}),
        ("def f():\n    from pickle import loads as tinygpt", {"pickle"}),
        ("import urllib.request as u", {"urllib"}),
        ("from asyncio import streams", {"asyncio.streams"}),
        ("importlib.import_module('marshal')", {"marshal"}),
        ("x = eval", {"eval"}),
        ("exec('1')\ncompile('1', '', 'eval')\n__import__('os')", {"exec", "compile", "__import__"}),
        ("import os as o\no.system('x')", {"os.system"}),
        ("from os import popen as p", {"os.popen"}),
        ("os.execvp('sh', [])\nos.fork()", {"os.execvp", "os.fork"}),
        ("run(x, shell=True)", {"shell="}),
        ("run(x, shell=y)", {"shell="}),
        ("np.load(x, allow_pickle=True)", {"allow_pickle="}),
        ("re.compile('x')\nnp.load(x, allow_pickle=False)\nmodel.eval()\nos.path.join('a')", set()),
        ("from tinygpt.io import socket_of\nimport picklery", set()),
    ],
)
def test_the_search_finds_what_is_planted(text, found):
    """Catches a search that an alias, an import within a function or a name that is only passed on escapes."""
    assert uses(text) == found


def calls(text):
    """Every call of C_CALLS in C or Cython, without the comments of C."""
    return C_CALLS.findall(re.sub(r"//[^\n]*|/\*.*?\*/", "", text, flags=re.DOTALL))


def test_no_kernel_starts_programs_or_opens_files():
    """Catches a call into the system from C or Cython; kernels compute on the memory that they are given."""
    sources = [path for path in sorted((ROOT / "csrc").rglob("*")) if path.suffix in (".h", ".pyx", ".pxd")]
    assert len(sources) > 20
    assert {path.name: found for path in sources if (found := calls(path.read_text("utf-8")))} == {}
    assert calls("x = popen(y); // system(1)\nreopen(z); /* fork()\n */ execlp (a)") == ["popen", "execlp"]


# Forbids sockets, programs and pickles, also those of libraries and of C code: the interpreter announces each of them.
# The name of this machine is allowed, because the lock of a run holds it.
OFFLINE = """
import sys
FORBIDDEN = ("socket.", "subprocess.", "os.system", "os.exec", "os.fork", "os.posix_spawn", "os.spawn", "pickle.")
def refuse(event, args):
    if event.startswith(FORBIDDEN) and event != "socket.gethostname":
        raise SystemExit(f"forbidden: {event} {args}")
sys.addaudithook(refuse)
"""


def offline(program, *arguments):
    """Run a program in a process that ends where it uses a socket, another program or a pickle."""
    command = [sys.executable, "-c", OFFLINE + program, *map(str, arguments)]
    environment = {**os.environ, "TINYGPT_NUM_THREADS": "1"}
    return subprocess.run(command, capture_output=True, text=True, env=environment, check=False)


COMMANDS = """
from tinygpt.cli import main
sources, out, page = sys.argv[1:4]
for command in (
    ["train", *sys.argv[4:]],
    ["generate", "--model", out, "--prompt", "def", "--length", "3"],
    ["eval", "--model", out, "--data", sources],
    ["visualize", "--model", out, "--prompt", "def", "--out", page],
    ["info", "--model", out],
):
    assert main(command) == 0, command
print("all ran")
"""


def test_commands_run_without_network_programs_or_pickles(tmp_path):
    """Catches a command, or a library under it, that contacts anybody, starts a program or reads a pickle."""
    sources, out = write_sources(tmp_path / "sources"), tmp_path / "run"
    done = offline(COMMANDS, sources, out, tmp_path / "page.html", *flags(tiny(sources, out)))
    assert done.stdout.endswith("all ran\n"), done.stderr
    assert (tmp_path / "page.html").is_file()


@pytest.mark.parametrize(
    "planted",
    [
        "import socket; socket.socket()",
        "import socket; socket.getaddrinfo('localhost', 80)",
        "import subprocess; subprocess.run(['true'])",
        "import os; os.system('true')",
        "import pickle, collections; pickle.loads(pickle.dumps(collections.OrderedDict()))",
    ],
)
def test_the_hook_stops_what_is_planted(planted):
    """Catches a hook that lets everything through, with which the test of the commands could not fail."""
    done = offline(planted + "; print('ran')")
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith("forbidden: ")
