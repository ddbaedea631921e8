"""Tests that every rung takes the arguments of its op's record, by name and in order, because rungs are swapped."""

import inspect

import pytest

from tinygpt.kernels import registry
from tinygpt.kernels.spec import OPS

ALL = [(rung, op) for rung, op, _ in registry.functions()]


@pytest.mark.parametrize(("rung", "op"), ALL)
def test_arguments_are_those_of_the_record(rung, op):
    """Catches arguments of the same type in another order, and argument names that differ from the record."""
    assert tuple(inspect.signature(registry.function(op, rung)).parameters) == OPS[op].names


@pytest.mark.parametrize("op", OPS)
def test_every_op_has_the_rungs_naive_and_numpy(op):
    """Catches an op without a naive rung, which replaces all missing rungs, or without a numpy rung."""
    assert {"naive", "numpy"} <= set(registry.rungs(op))


def test_no_rung_for_an_unknown_op():
    """Catches a misspelt op in a RUNGS literal, whose function would never be called."""
    assert {op for _, op in ALL} <= OPS.keys()
