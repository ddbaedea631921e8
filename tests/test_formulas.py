"""Formulas of the documentation: TeX to MathML in docs/mathml.py."""

import importlib.util
import sys
from pathlib import Path

import pytest

pytest.importorskip("latex2mathml")
errors = pytest.importorskip("sphinx.errors")


@pytest.fixture(scope="module")
def mathml():
    path = Path(__file__).parents[1] / "docs" / "mathml.py"
    spec = importlib.util.spec_from_file_location("docs_mathml", path)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module.mathml


def test_aligned_lines_become_a_table_with_columns(mathml):
    """Catches the converter's own reading of `aligned`, which puts a raw & and one line on the page."""
    drawn = mathml(r"\begin{aligned} a &= b \\ c &= d \end{aligned}", "block")
    assert drawn.count("<mtr>") == 2
    assert drawn.count("<mtd") == 4
    assert 'display="block"' in drawn


@pytest.mark.parametrize(
    ("tex", "named"),
    [(r"\foo x", "foo"), (r"\frac{a", "braces"), (r"\frac", "convert"), ("a_", "convert"), ("a & b", "&"),
     (r"\boldsymbol{\theta}", "bold-italic")],
)  # fmt: skip
def test_what_a_browser_cannot_draw_stops_the_build(mathml, tex, named):
    """Catches raw TeX, a dropped argument and an unsupported style on a page that built without a warning."""
    with pytest.raises(errors.ExtensionError, match=named) as caught:
        mathml(tex, "inline", "page:3")
    assert "page:3" in str(caught.value)


@pytest.mark.parametrize("tex", [r"\{a\}", r"x_t \in \mathbb{R}^C", r"\operatorname{softmax}(x)_i", r"x < y \le z"])
def test_formulas_of_the_pages_are_accepted(mathml, tex):
    """Catches a check that refuses escaped braces, function names or an escaped less-than sign."""
    assert mathml(tex, "inline").startswith("<math")


def test_function_names_have_the_space_of_tex_and_indices_stay_whole(mathml):
    """Catches "ln4" without a space, a wide operator's space before a bracket, and a third child in an index."""
    assert "<mi>ln</mi><mspace" in mathml(r"\ln 4", "inline")
    assert "<mi>softmax</mi><mo" in mathml(r"\operatorname{softmax}(x)", "inline")
    assert "mspace" not in mathml(r"\log_2(x)", "inline")
