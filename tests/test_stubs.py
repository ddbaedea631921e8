"""The stubs in tinygpt/core agree with the compiled modules, which a type checker cannot read."""

import ast
import importlib.util
import inspect
from pathlib import Path

import pytest

import tinygpt
from tinygpt.kernels import spec

STUBS = Path(tinygpt.__file__).parent / "core"
KERNELS = sorted({op.module for op in spec.OPS.values()})
SOURCES = Path(__file__).parents[1] / "csrc"
MODULES = sorted(path.stem for path in SOURCES.glob("*.pyx"))


def stub(module):
    """Functions, classes and variables of a stub: name -> definition."""
    tree = ast.parse((STUBS / f"{module}.pyi").read_text())
    functions = {node.name: node for node in tree.body if isinstance(node, (ast.FunctionDef, ast.ClassDef))}
    variables = {node.target.id: node for node in tree.body if isinstance(node, ast.AnnAssign)}
    return functions, {name: node for name, node in variables.items() if not name.startswith("_")}


def parameters(node):
    """Parameter names in order; assert that they are plain and that all types are annotated."""
    arguments = node.args
    assert [*arguments.posonlyargs, *arguments.kwonlyargs, arguments.vararg, arguments.kwarg] == [None, None]
    assert all(argument.annotation is not None for argument in arguments.args)
    assert node.returns is not None
    return tuple(argument.arg for argument in arguments.args)


def compiled(module):
    """The public functions and classes of a compiled module."""
    loaded = importlib.import_module(f"tinygpt.core.{module}")
    return {
        name: value
        for name, value in vars(loaded).items()
        if not name.startswith("_") and callable(value) and getattr(value, "__module__", None) == loaded.__name__
    }


def test_every_module_has_a_stub_and_vice_versa():
    """Catches a missing stub, and one whose module was removed."""
    assert sorted(path.stem for path in STUBS.glob("*.pyi")) == MODULES


@pytest.mark.parametrize("module", MODULES)
def test_a_stub_has_the_functions_of_its_module(module):
    """Catches a rung without a stub, a stub without a rung, and wrong names or order of arguments."""
    functions, variables = stub(module)
    there = compiled(module)
    assert there
    assert functions.keys() == there.keys()
    for name, node in functions.items():
        if isinstance(node, ast.FunctionDef):
            assert parameters(node) == tuple(inspect.signature(there[name]).parameters), name
    loaded = vars(importlib.import_module(f"tinygpt.core.{module}"))
    public = {name for name, value in loaded.items() if name.isupper() and isinstance(value, dict)}
    assert variables.keys() == public


@pytest.mark.parametrize("module", KERNELS)
def test_every_registered_rung_is_in_the_stub(module):
    """Catches a function registered under a name that the stub lacks."""
    functions, _ = stub(module)
    for rung, ops in importlib.import_module(f"tinygpt.core.{module}").RUNGS.items():
        for op in ops:
            assert f"{op}_{rung}" in functions


@pytest.mark.parametrize("op", spec.OPS)
def test_types_are_those_of_the_record(op):
    """Catches an array typed as a number, and None allowed or forbidden against the table of ops."""
    record = spec.OPS[op]
    functions, _ = stub(record.module)
    for name, node in functions.items():
        if name.rpartition("_")[0] != op:
            continue
        for arg, argument in zip(record.args, node.args.args, strict=False):
            written = ast.unparse(argument.annotation)
            assert ("Float32" in written) == (bool(arg.shape) and arg.dtype == "float32"), (name, arg.name)
            assert ("Int32" in written) == (bool(arg.shape) and arg.dtype == "int32"), (name, arg.name)
            assert ("None" in written) == (bool(arg.shape) and arg.optional), (name, arg.name)
        assert ast.unparse(node.args.args[-1].annotation) == "int"
        assert ast.unparse(node.returns) == ("float" if op == "squared_norm" else "None")


@pytest.mark.parametrize("module", KERNELS)
def test_the_tool_reproduces_the_stub(module):
    """Catches a stub changed by hand, and a tool that would write a different one."""
    file = Path(__file__).resolve().parent.parent / "tools" / "stubs.py"
    specification = importlib.util.spec_from_file_location("tools_stubs", file)
    tool = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(tool)
    written = ast.parse((STUBS / f"{module}.pyi").read_text())
    assert ast.dump(ast.parse(tool.stub(module))) == ast.dump(written)
