r"""Formulas as MathML: a Sphinx renderer that converts TeX while the pages are built.

Browsers draw MathML themselves, so a page needs no script and no network. In a page, write

    inline  $x_t \in \mathbb{R}^C$          and a formula of its own     $$y = \frac{x - \mu}{\sigma}$$

    $$
    \begin{aligned}
    a &= b \\
    c &= d
    \end{aligned}
    $$ (name)                               with a number, if it has a name: {eq}`name` refers to it

Words in formulas: `\operatorname{softmax}` for functions and `\text{...}` for prose. A dollar sign is written `\$`.
A command that the converter does not know stops the build with the formula and its page, so that no reader finds raw
TeX. The converter is latex2mathml, in the extra `docs`.
"""

import html
import re

from docutils import nodes
from latex2mathml import exceptions
from latex2mathml.converter import convert
from sphinx.errors import ExtensionError

# Results that no browser draws as TeX would: a command taken as text, a bare &, a style outside MathML Core.
BROKEN = re.compile(r'<m[io][^>]*>(\\[A-Za-z]*|&)<|mathvariant="(?!normal")([a-z-]+)"')
FAILURES = (
    ValueError,
    IndexError,
    KeyError,
    StopIteration,
    *(one for one in vars(exceptions).values() if isinstance(one, type)),
)
# The same as TeX draws, in the words that the converter knows.
SYNONYMS = {r"\begin{aligned}": r"\begin{align*}", r"\end{aligned}": r"\end{align*}", r"\mathbb{1}": "𝟙"}

# Functions before an argument without brackets: TeX leaves a thin space there. Not as the base of an index.
SPACED = re.compile(r"(?<!<msub>)(?<!<msup>)(<mi>(?:ln|log|exp|tanh|sin|cos)</mi>)(?=<m(?:i|n|frac|sqrt|sub|sup)\b)")
NAMED = re.compile(r"<mo>([A-Za-z]{2,})</mo>")  # as an operator it would have wide spaces on both sides


def mathml(tex: str, display: str, where: str = "") -> str:
    """Return one formula as a <math> element; ExtensionError names the formula if it cannot be converted."""
    source = tex.strip()
    for name, known in SYNONYMS.items():
        source = source.replace(name, known)
    balance = source.replace(r"\{", "").replace(r"\}", "")
    if balance.count("{") != balance.count("}"):
        raise ExtensionError(f"{where}: unbalanced braces in the formula {tex!r}")
    try:
        result = convert(source, display=display)
    except FAILURES as error:
        raise ExtensionError(f"{where}: cannot convert the formula {tex!r}: {error!r}") from error
    broken = BROKEN.search(result)
    if broken:
        raise ExtensionError(f"{where}: cannot draw {broken[1] or broken[2]!r} in the formula {tex!r}")
    return SPACED.sub(r'\1<mspace width="0.17em"/>', NAMED.sub(r"<mi>\1</mi>", result))


def visit_inline(translator, node: nodes.math) -> None:
    """Write a formula within a line of text."""
    where = f"{translator.docnames[0] if translator.docnames else ''}:{node.line or ''}"
    translator.body.append(mathml(node.astext(), "inline", where))
    raise nodes.SkipNode


def visit_block(translator, node: nodes.math_block) -> None:
    """Write a formula of its own, with its number if it has a label."""
    where = f"{translator.docnames[0] if translator.docnames else ''}:{node.line or ''}"
    name = "".join(f' id="{html.escape(one)}"' for one in node["ids"][:1])
    number = f'<span class="eqno">({node["number"]})</span>' if node.get("number") else ""
    translator.body.append(f'<div class="formula"{name}>{mathml(node.astext(), "block", where)}{number}</div>\n')
    raise nodes.SkipNode


def setup(app) -> dict[str, bool]:
    """Register the renderer under the name `mathml`; docs/conf.py chooses it with html_math_renderer."""
    app.add_html_math_renderer("mathml", (visit_inline, None), (visit_block, None))
    return {"parallel_read_safe": True, "parallel_write_safe": True}
