"""Source line of a traced step: the statement of an operation that computes its value.

Line numbers written by hand would become wrong, and the line of the return statement says little, because the kernel
call is above it. So the statement is found in the syntax tree of the function.
"""

from __future__ import annotations

import ast
import inspect
import textwrap
from collections.abc import Callable, Iterator
from functools import cache
from typing import Any

CONSTRUCTORS = ("from_op", "plain")  # of Tensor: the first argument is the value


@cache
def statement(op: Callable[..., Any]) -> tuple[str, int]:
    """Find the statement that computes the result of `op`.

    Parameters
    ----------
    op : function
        An operation: it returns an array or a Tensor.

    Returns
    -------
    file : str
    line : int
        First line of the statement. If the result is returned as an expression, it is the last ``return``. If the
        result has a name, it is the statement that fills this name: a kernel call, or the assignment itself.
    """
    op = inspect.unwrap(op)
    code = op.__code__
    lines, first = inspect.getsourcelines(op)
    function = ast.parse(textwrap.dedent("".join(lines))).body[0]
    assert isinstance(function, ast.FunctionDef)
    statements = list(_statements(function.body))
    last = [one for one in statements if isinstance(one, ast.Return)][-1]
    name = _name(last.value)
    found = [one for one in statements if name and _writes(one, name)]
    # An array is allocated first and filled second; a name that is written once holds the value itself.
    chosen = found[1] if len(found) > 1 else found[0] if found else last
    return code.co_filename, first + chosen.lineno - 1


def _statements(body: list[ast.stmt]) -> Iterator[ast.stmt]:
    """Yield every statement in order, also inside loops and branches, except those of nested functions."""
    for one in body:
        if isinstance(one, (ast.For, ast.If, ast.With)):
            yield from _statements(one.body)
            yield from _statements(getattr(one, "orelse", []))
        elif not isinstance(one, ast.FunctionDef):
            yield one


def _name(value: ast.expr | None) -> str:
    """Return the variable that is returned: plain, reshaped, or as the value of a Tensor; "" for other expressions."""
    while isinstance(value, ast.Call) and isinstance(called := value.func, ast.Attribute):
        if called.attr in CONSTRUCTORS:
            value = value.args[0]
        elif called.attr == "reshape":
            value = called.value
        else:
            break
    return value.id if isinstance(value, ast.Name) else ""


def _writes(one: ast.stmt, name: str) -> bool:
    """Tell whether a statement assigns the variable, or passes it to a call whose result is unused: a kernel."""
    if isinstance(one, ast.Assign):
        written: list[ast.AST] = [part for target in one.targets for part in ast.walk(target)]
    elif isinstance(one, ast.Expr) and isinstance(one.value, ast.Call):
        written = [part for part in ast.walk(one.value) if isinstance(part, ast.Name)]
    else:
        written = []
    return any(isinstance(part, ast.Name) and part.id == name for part in written)
