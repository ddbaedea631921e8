"""Base of all pages: one HTML file that opens from disk, needs no network and runs only its own scripts.

Design
- The content of a page is embedded as JSON and enters the document as text, never as markup.
- A content security policy lets the browser enforce this: nothing is loaded from elsewhere, and only scripts and styles
  with the listed hashes run. Pages with charts contain plotly.js, which sets styles and, for points in WebGL, compiles
  code at run time. These pages therefore allow both.
"""

from __future__ import annotations

import base64
import hashlib
import html
import json
import os
from abc import ABC, abstractmethod
from functools import cached_property
from importlib.resources import files
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from tinygpt.io.atomic import write_text


class Page(ABC):
    """A page that can be saved as a file; a notebook shows it below the cell.

    Attributes
    ----------
    template_name : str
        Name of the page's files in ``tinygpt/viz/templates``: ``NAME.html``, ``NAME.css``, ``NAME.js``.
    parts : tuple of str
        Names of further scripts, which run after ``NAME.js``.
    charts : bool
        True if the page needs plotly.js.
    height : int
        Height in a notebook, in pixels.
    """

    template_name: ClassVar[str]
    parts: ClassVar[tuple[str, ...]] = ()
    charts: ClassVar[bool] = False
    height: ClassVar[int] = 900

    @cached_property
    def html(self) -> str:
        """The page as HTML.

        Raises
        ------
        ImportError
            The page has charts and plotly is not installed; the message names the extra to install.
        ValueError
            The content does not fit a page.
        """
        name = self.template_name
        scripts = (*(("charts",) if self.charts else ()), name, *self.parts)
        script = "\n".join(template(f"{one}.js") for one in scripts)
        library = plotly_script() if self.charts else ""
        return page(self._heading(), template(f"{name}.html"), self._data(), script, template(f"{name}.css"), library)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the page to a file atomically; a missing parent folder is created.

        Raises
        ------
        ValueError
            `path` exists and is not a regular file, or the content does not fit a page.
        OSError
            The file cannot be written.
        """
        text = self.html
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        write_text(path, text)

    def _repr_html_(self) -> str:
        return frame(self.html, self.height)

    def __repr__(self) -> str:
        return f"<{type(self).__name__}: {self._heading()}>"

    @abstractmethod
    def _heading(self) -> str:
        """Return the title of the page."""

    @abstractmethod
    def _data(self) -> dict[str, Any]:
        """Return the data that the scripts of the page read."""


def page(title: str, body: str, data: Any, script: str, style: str, library: str = "") -> str:
    """Build a whole page, with the colours, theme switch and helpers that all pages share.

    Parameters
    ----------
    title : str
        Title of the page, as text.
    body : str
        HTML of the page. It must be trusted; untrusted content belongs in `data`.
    data : JSON-like
        Content of the page; the script has it as ``data``.
    script, style : str
        Appended to ``templates/page.js`` and ``templates/page.css``.
    library : str
        plotly.js or empty; runs before `script`.

    Returns
    -------
    str

    Raises
    ------
    ValueError
        `data` is not JSON (NaN, infinity, nested too deeply), or `script` or `style` would close its own element.
    """
    code, css = f"\n{template('page.js')}\n{script}\n", f"\n{template('page.css')}\n{style}\n"
    for name, text, end in (("script", code, "</script"), ("style", css, "</style")):
        if end in text.lower() or "<!--" in text:
            raise ValueError(f"[page] '{name}' must not contain {end} or <!--")
    policy = f"default-src 'none'; img-src data:; script-src {_hash(code)}; style-src {_hash(css)}; base-uri 'none'"
    if library:
        allowed = f"script-src {_hash(library)} {_hash(code)} 'unsafe-eval'; style-src 'unsafe-inline'"
        policy = f"default-src 'none'; img-src data: blob:; {allowed}; base-uri 'none'"
        library = f"<script>{library}</script>\n"
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="{policy}; form-action 'none'">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<link rel="icon" href="data:,">
<title>{html.escape(title)}</title>
<style>{css}</style>
</head>
<body>
{body}
<script type="application/json" id="data">{embed(data)}</script>
{library}<script>{code}</script>
</body>
</html>
"""


def embed(data: Any) -> str:
    r"""Encode JSON for a script element: ASCII, with ``<``, ``>`` and ``&`` escaped as ``\u003c`` etc.

    Parameters
    ----------
    data : JSON-like

    Returns
    -------
    str

    Raises
    ------
    ValueError
        A number is NaN or infinite, or the data is nested too deeply.
    """
    try:
        text = json.dumps(data, ensure_ascii=True, allow_nan=False, separators=(",", ":"))
    except RecursionError:
        raise ValueError("[page] 'data' is nested too deeply for JSON") from None
    for char in "<>&":
        text = text.replace(char, f"\\u{ord(char):04x}")
    return text


def template(name: str) -> str:
    """Return the text of a file in ``tinygpt/viz/templates``."""
    return (files("tinygpt.viz") / "templates" / name).read_text(encoding="utf-8")


def plotly_script() -> str:
    """Return plotly.js from the Python package.

    Raises
    ------
    ImportError
        plotly is not installed; the message names the extra to install.
    """
    try:
        from plotly.offline import get_plotlyjs
    except ImportError:
        raise ImportError("the page needs plotly: pip install 'tinygpt[viz]'") from None
    return get_plotlyjs()


def pack(values: npt.ArrayLike, dtype: str) -> str:
    """Encode numbers in base64, for ``unpack`` of ``templates/page.js``.

    Parameters
    ----------
    values : array-like
    dtype : str
        NumPy dtype, little-endian: ``<f4``, for example.

    Returns
    -------
    str
    """
    return base64.b64encode(np.ascontiguousarray(values, dtype).tobytes()).decode("ascii")


def frame(text: str, height: int = 900) -> str:
    """Wrap a page in a sandboxed iframe for notebooks, isolated from the page around it.

    Parameters
    ----------
    text : str
        HTML of the page.
    height : int
        Height in pixels.

    Returns
    -------
    str
    """
    css = f"width: 100%; height: {height}px; border: 0"
    return f'<iframe sandbox="allow-scripts allow-downloads" style="{css}" srcdoc="{html.escape(text)}"></iframe>'


def _hash(text: str) -> str:
    """Return the source expression that allows exactly this text (Content Security Policy level 2, section 4.2.5)."""
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"
