"""The shell of a page: one HTML file that opens from disk, needs no network and runs no script but its own.

Design
- What a page shows travels as JSON and reaches the document as text, never as markup.
- The page's own policy says the same to the browser: nothing may be loaded from anywhere, and of scripts and styles
  only those whose hashes it names. Pages with charts carry plotly.js, which sets styles and, for points in WebGL,
  compiles code as it runs: these two are allowed there.
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
    """A page as an object: it is saved as a file, and a notebook shows it below the cell.

    Attributes
    ----------
    template_name : str
        Of the files in ``tinygpt/viz/templates``: ``NAME.html``, ``NAME.css``, ``NAME.js``.
    parts : tuple of str
        Scripts that follow ``NAME.js``, without the ending.
    charts : bool
        Whether plotly draws.
    height : int
        Pixels in a notebook.
    """

    template_name: ClassVar[str]
    parts: ClassVar[tuple[str, ...]] = ()
    charts: ClassVar[bool] = False
    height: ClassVar[int] = 900

    @cached_property
    def html(self) -> str:
        """The page.

        Raises
        ------
        ImportError
            It has charts, and plotly is not installed; the message names the extra.
        ValueError
            What it shows does not fit a page.
        """
        name = self.template_name
        scripts = (*(("charts",) if self.charts else ()), name, *self.parts)
        script = "\n".join(template(f"{one}.js") for one in scripts)
        library = plotly_script() if self.charts else ""
        return page(self._heading(), template(f"{name}.html"), self._data(), script, template(f"{name}.css"), library)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the page to a file, in one step; its folder is made if it is missing.

        Raises
        ------
        ValueError
            `path` is there and is not a regular file, or what the page shows does not fit it.
        OSError
            It cannot be written.
        """
        text = self.html
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        write_text(path, text)

    def _repr_html_(self) -> str:
        return frame(self.html, self.height)

    @abstractmethod
    def _heading(self) -> str:
        """What the browser calls the page."""

    @abstractmethod
    def _data(self) -> dict[str, Any]:
        """What the scripts of the page read."""


def page(title: str, body: str, data: Any, script: str, style: str, library: str = "") -> str:
    """A whole page, around what every page has: colours for light and dark, a switch, small helpers.

    Parameters
    ----------
    title : str
        Text.
    body : str
        HTML of our own; what comes from elsewhere belongs into `data`.
    data : JSON-like
        The script finds it as ``data``.
    script, style : str
        Follow ``templates/page.js`` and ``templates/page.css``.
    library : str
        plotly.js, or nothing; runs before `script`.

    Returns
    -------
    str

    Raises
    ------
    ValueError
        `data` holds a number that JSON has not (NaN, infinity), or `script` or `style` would end its own element.
    """
    code, looks = f"\n{template('page.js')}\n{script}\n", f"\n{template('page.css')}\n{style}\n"
    for name, text, end in (("script", code, "</script"), ("style", looks, "</style")):
        if end in text.lower() or "<!--" in text:
            raise ValueError(f"[page] '{name}' must not hold {end} or <!--")
    policy = f"default-src 'none'; img-src data:; script-src {_hash(code)}; style-src {_hash(looks)}; base-uri 'none'"
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
<style>{looks}</style>
</head>
<body>
{body}
<script type="application/json" id="data">{embed(data)}</script>
{library}<script>{code}</script>
</body>
</html>
"""


def embed(data: Any) -> str:
    r"""JSON that may stand in a script element: ASCII, with ``<``, ``>`` and ``&`` as ``\u003c`` and so on.

    Parameters
    ----------
    data : JSON-like

    Returns
    -------
    str

    Raises
    ------
    ValueError
        A number is NaN or infinite.
    """
    text = json.dumps(data, ensure_ascii=True, allow_nan=False, separators=(",", ":"))
    for char in "<>&":
        text = text.replace(char, f"\\u{ord(char):04x}")
    return text


def template(name: str) -> str:
    """The text of a file in ``tinygpt/viz/templates``."""
    return (files("tinygpt.viz") / "templates" / name).read_text(encoding="utf-8")


def plotly_script() -> str:
    """plotly.js, as the Python package carries it.

    Raises
    ------
    ImportError
        plotly is not installed; the message names the extra.
    """
    try:
        from plotly.offline import get_plotlyjs
    except ImportError:
        raise ImportError("the page needs plotly: pip install 'tinygpt[viz]'") from None
    return get_plotlyjs()


def pack(values: npt.ArrayLike, dtype: str) -> str:
    """Numbers in base64, as ``unpack`` of ``templates/page.js`` reads them.

    Parameters
    ----------
    values : array-like
    dtype : str
        Little-endian, as in ``<f4``.

    Returns
    -------
    str
    """
    return base64.b64encode(np.ascontiguousarray(values, dtype).tobytes()).decode("ascii")


def frame(text: str, height: int = 900) -> str:
    """A page inside another, for notebooks: it can neither reach what is around it nor be reached.

    Parameters
    ----------
    text : str
        The page.
    height : int
        In pixels.

    Returns
    -------
    str
    """
    looks = f"width: 100%; height: {height}px; border: 0"
    return f'<iframe sandbox="allow-scripts allow-downloads" style="{looks}" srcdoc="{html.escape(text)}"></iframe>'


def _hash(text: str) -> str:
    """The source expression of Content Security Policy (level 2, section 4.2.5) that lets this very text through."""
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"
