"""Structure of the package: imports go down only, files and functions are short, and importing is cheap."""

import ast
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "tinygpt"
# The layers, from the bottom up. A module may import its own layer and those below.
LAYERS = [
    {"deprecated", "io"},
    {"core"},
    {"kernels", "memory", "packed", "tensor"},
    {"ops"},
    {"muon", "nn", "optim"},
    {"cache", "config", "model", "sampling"},
    {"decoding", "lora", "tracing"},
    {"tokenizers"},
    {"files"},
    {"data"},
    {"checkpoint", "runs"},
    {"chat", "completion", "evaluate", "generate"},
    {"gym", "serve", "train", "viz"},
    {"cli", "__main__"},
]
# Beside the layers: they import kernels, the layers below and each other. Only layers above `tensor` import them.
BESIDE = {"distributed", "reference", "testing"}
# Upward imports, each with its reason. None makes a cycle.
UPWARD = {
    ("tinygpt.model", "tinygpt.decoding"): "GPT.generate is a method of the public API, and runs the decoding loop",
}
MOST_UPWARD = 8
HEAVY = {"torch", "jax", "transformers", "tensorflow"}
MOST_LINES, MOST_LINES_OF_A_FUNCTION = 500, 60

PYTHON = sorted(PACKAGE.rglob("*.py"))
CYTHON = sorted((ROOT / "csrc").rglob("*.p[yx][xd]"))


def layer(part):
    """The layer of a top-level part of the package."""
    return next(i for i, parts in enumerate(LAYERS) if part in parts)


def part_of(module):
    """The top-level part that a dotted name belongs to; None for the package itself and its version."""
    head, _, rest = module.partition(".")
    part = rest.partition(".")[0]
    there = (PACKAGE / part).is_dir() or (PACKAGE / f"{part}.py").exists()
    return part if head == "tinygpt" and part and there else None


def public_names():
    """Map every public name to the module that `tinygpt.<name>` is loaded from."""
    import tinygpt

    return tinygpt._PARTS


def imported(tree, package):
    """Every module of tinygpt that a file imports, also inside functions."""
    names = public_names()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            above = package.split(".")[: len(package.split(".")) - node.level + 1] if node.level else []
            base = ".".join([*above, *([node.module] if node.module else [])])
            for alias in node.names:
                whole = f"{base}.{alias.name}"
                yield names.get(alias.name, whole) if base == "tinygpt" else whole


def name_of(path):
    """The dotted name of a file, and the package that its relative imports start from."""
    name = ".".join(path.relative_to(ROOT).with_suffix("").parts)
    package = name.rpartition(".")[0]
    return name.removesuffix(".__init__"), package


def arrows(source, path):
    """Every module of another part of the package that a file imports."""
    module, package = name_of(path)
    own = part_of(module)
    return {name for name in imported(ast.parse(source), package) if part_of(name) not in (None, own)}


def goes_up(own, part):
    """Return whether an import from part `own` to `part` goes up."""
    if own in BESIDE:
        return part not in BESIDE and layer(part) > layer("kernels")
    if part in BESIDE:
        return layer(own) <= layer("tensor")
    return layer(part) > layer(own)


def violations(source, path):
    """Upward imports without a reason, as text."""
    module, _ = name_of(path)
    own = part_of(module)
    up = {name for name in arrows(source, path) if goes_up(own, part_of(name))}
    return sorted(f"{module} imports {name}" for name in up if (module, module_of(name)) not in UPWARD)


def module_of(name):
    """The module of a dotted name: the name itself, or without the names defined in the module."""
    while name and not (ROOT / f"{name.replace('.', '/')}.py").exists():
        if (ROOT / name.replace(".", "/") / "__init__.py").exists():
            return name
        name = name.rpartition(".")[0]
    return name


def cycles(graph):
    """Groups of nodes that reach each other, in a graph given as node -> set of nodes."""

    def reach(start):
        seen, ahead = set(), [start]
        while ahead:
            for node in graph.get(ahead.pop(), ()):
                if node not in seen:
                    seen.add(node)
                    ahead.append(node)
        return seen

    reached = {node: reach(node) for node in graph}
    found = {frozenset({a, *(b for b in reached[a] if a in reached.get(b, ()))}) for a in graph if a in reached[a]}
    return sorted(sorted(group) for group in found)


def module_graph():
    """Module -> modules that it imports, also inside functions and under TYPE_CHECKING. The package itself is no node:
    it loads its parts by name on first use.
    """
    graph = {}
    for path in PYTHON:
        module, package = name_of(path)
        if module != "tinygpt":
            names = {module_of(name) for name in imported(ast.parse(path.read_text()), package) if part_of(name)}
            graph[module] = names - {module}
    return graph


def test_every_part_has_a_layer():
    """Catches a new module that has no layer."""
    parts = {path.stem for path in PACKAGE.iterdir() if path.suffix == ".py" or (path / "__init__.py").exists()}
    assert parts - {"__init__"} <= set().union(*LAYERS, BESIDE)


def test_no_cycles():
    """Catches two modules, or two parts of the package, that import each other, directly or not."""
    graph = module_graph()
    assert len(graph) > 100
    assert cycles(graph) == []
    parts = {}
    for module, names in graph.items():
        parts.setdefault(part_of(module), set()).update(part_of(name) for name in names)
    assert cycles({part: names - {part} for part, names in parts.items()}) == []


def test_cycles_are_found():
    """Catches a search that accepts any graph."""
    assert cycles({"a": {"b"}, "b": {"c"}, "c": {"b"}}) == [["b", "c"]]
    assert cycles({"a": {"b"}, "b": {"c"}, "c": {"a"}, "d": {"a"}}) == [["a", "b", "c"]]
    assert cycles({"a": {"b", "c"}, "b": {"c"}}) == []


def test_few_imports_go_up():
    """Catches an exception that is no longer needed, and too many exceptions."""
    graph = module_graph()
    assert len(UPWARD) <= MOST_UPWARD
    for module, name in UPWARD:
        assert name in graph[module], f"{module} no longer imports {name}: remove the exception"
        assert goes_up(part_of(module), part_of(name)), f"{module} -> {name} goes down: remove the exception"


@pytest.mark.parametrize("part", ["io", "reference"])
def test_independent_parts(part):
    """Catches an import that makes an independent part depend on the rest of the package."""
    others = {name for path in (PACKAGE / part).glob("*.py") for name in arrows(path.read_text(), path)}
    assert others == set()


@pytest.mark.parametrize(
    "path", [p for p in PYTHON if p != PACKAGE / "__init__.py"], ids=lambda p: str(p.relative_to(ROOT))
)
def test_imports_go_down(path):
    """Catches an import from a higher layer, also inside a function or under TYPE_CHECKING."""
    assert violations(path.read_text(), path) == []


def test_the_checker_finds_every_form_of_import():
    """Catches a checker that misses one of Python's forms of import."""
    path = PACKAGE / "ops" / "linear.py"
    wrong = [
        "import tinygpt.model",
        "import tinygpt.train.loop as loop",
        "from tinygpt import model",
        "from tinygpt import GPT",
        "from tinygpt.model import GPT",
        "from .. import nn",
        "from ..nn import Linear",
        "def f():\n    from tinygpt.optim import SGD",
        "if TYPE_CHECKING:\n    from tinygpt.cli import main",
    ]
    for source in wrong:
        assert violations(source, path), source
    right = [
        "from tinygpt.ops.shapes import rows",
        "from . import shapes",
        "from tinygpt import Tensor, memory",
        "import numpy",
    ]
    for source in [*right, "from tinygpt import __version__", "from tinygpt.core import cpu"]:
        assert not violations(source, path), source
    assert violations("from tinygpt.ops import add", PACKAGE / "tensor.py")
    assert violations("from tinygpt.tokenizers import load", PACKAGE / "kernels" / "edge.py")
    assert violations("from tinygpt.testing import check", PACKAGE / "kernels" / "edge.py")
    assert violations("from tinygpt.ops import add", PACKAGE / "testing" / "cases.py")
    assert violations("from tinygpt.runs import layout", PACKAGE / "files" / "transfer.py")
    assert violations("from tinygpt.decoding import stream", PACKAGE / "model.py") == []
    assert violations("from tinygpt.decoding import stream", PACKAGE / "nn.py")


def test_csrc_does_not_import_the_package():
    """Catches a csrc file that imports from the Python package, or from another csrc file."""
    assert CYTHON
    known = {"cython", "libc", "cpython"}
    for path in CYTHON:
        for line in path.read_text().splitlines():
            found = re.match(r"\s*(?:from|c?import)\s+([\w.]+)", line)
            if found and re.match(r"\s*(from\s+[\w.]+\s+)?c?import\s", line):
                assert found[1].split(".")[0] in known, f"{path.name}: {line.strip()}"


@pytest.mark.parametrize("folder", ["tinygpt", "csrc", "docs", "setup.py"])
def test_peers_stay_in_tests_and_benchmarks(folder):
    """Catches a dependency on PyTorch or similar libraries outside tests and benchmarks.

    `tinygpt bench --against torch` is a benchmark; one module holds PyTorch's functions for it.
    """
    files = [ROOT / folder] if folder.endswith(".py") else sorted((ROOT / folder).rglob("*.py"))
    for path in files:
        if path == PACKAGE / "testing" / "opponents.py":
            continue
        for node in ast.walk(ast.parse(path.read_text())):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            assert not {name.split(".")[0] for name in names} & HEAVY, path


def sources():
    """Every code file of the repository."""
    folders = ("tinygpt", "csrc", "tests", "benchmarks", "docs")
    kinds = {".py", ".pyx", ".pxd", ".h", ".pyi"}
    return sorted(
        path
        for folder in folders
        for path in (ROOT / folder).rglob("*")
        if path.suffix in kinds and "_build" not in path.parts
    )


@pytest.mark.parametrize("path", sources(), ids=lambda p: str(p.relative_to(ROOT)))
def test_files_are_small(path):
    """Catches a file of 500 lines or more."""
    assert len(path.read_text().splitlines()) < MOST_LINES


def lengths_of_python(source):
    """Name and length of every function, without decorators."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            yield node.name, node.end_lineno - node.lineno + 1


def lengths_of_cython(source):
    """Name and length of every top-level def and cdef function, up to its last indented line."""
    lines = source.splitlines()
    starts = [
        i for i, line in enumerate(lines) if re.match(r"(cp?def|def)\b.*\(", line) and not line.endswith((":  #",))
    ]
    for i in starts:
        header = i
        while not re.search(r":\s*(#.*)?$", lines[header]):  # the signature may span several lines
            header += 1
        end = header
        for j in range(header + 1, len(lines)):
            if lines[j] and not lines[j].startswith((" ", ")")):
                break
            end = j if lines[j].strip() else end
        yield re.search(r"(\w+)\s*\(", lines[i])[1], end - i + 1


def code(suffixes):
    return [path for path in sources() if path.suffix in suffixes]


@pytest.mark.parametrize("path", code({".py", ".pyx"}), ids=lambda p: str(p.relative_to(ROOT)))
def test_functions_are_short(path):
    """Catches a function of 60 lines or more."""
    lengths = lengths_of_python if path.suffix == ".py" else lengths_of_cython
    assert {name: n for name, n in lengths(path.read_text()) if n >= MOST_LINES_OF_A_FUNCTION} == {}


def test_lengths_are_counted():
    """Catches a count that misses functions or stops early."""
    body = "    x = 1\n\n" * 40
    assert dict(lengths_of_python(f"def f():\n{body}\nclass A:\n    def g(self):\n        pass\n")) == {"f": 80, "g": 2}
    text = (
        f"cdef int f(int x,\n           int y) noexcept nogil:\n{body}\ndef g(int x):   # IN\n    pass\n\nRUNGS = 1\n"
    )
    assert dict(lengths_of_cython(text)) == {"f": 81, "g": 2}
    found = {name for path in code({".pyx"}) for name, _ in lengths_of_cython(path.read_text())}
    assert {"matmul_naive", "matmul_blocked", "attend_tile", "micro_kernel", "mask_of"} <= found


def loaded_by(statement):
    """The modules loaded in a new process after one statement."""
    program = f"import sys, json; {statement}; print(json.dumps(sorted(sys.modules)))"
    plain = {k: v for k, v in os.environ.items() if not k.startswith("TINYGPT_")}
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=60, env=plain, check=True
    )
    return set(json.loads(done.stdout))


def test_import_is_lazy():
    """Catches a top-level import that makes `import tinygpt` load what a program may never use."""
    loaded = loaded_by("import tinygpt")
    mine = {name for name in loaded if name.split(".")[0] == "tinygpt"}
    assert mine == {"tinygpt"}
    assert not loaded & {"plotly", "cyclopts", "rich", "safetensors", "threadpoolctl", "tokenizers", *HEAVY}


def test_a_model_needs_no_command_line():
    """Catches a library that loads the command line, viewers or file formats."""
    loaded = loaded_by("import tinygpt; tinygpt.GPT; tinygpt.optim; tinygpt.kernels")
    assert "tinygpt.model" in loaded
    assert not {name for name in loaded if re.match(r"tinygpt\.(cli|train|viz|files|runs|data)\b", name)}
    assert not loaded & {"plotly", "cyclopts", "rich", *HEAVY}


def test_public_names():
    """Catches a public name without an object, and one that is loaded but not listed."""
    import tinygpt

    for name, module in tinygpt._PARTS.items():
        assert part_of(module) is not None, name
    assert set(tinygpt.__all__) <= {*tinygpt._PARTS, "__version__"}
    assert set(tinygpt.__all__) <= set(dir(tinygpt))
    with pytest.raises(AttributeError, match=r"^module 'tinygpt' has no attribute 'nothing'$"):
        tinygpt.nothing  # noqa: B018
