"""Small pictures for the cells of the tutorials: tables of shaded numbers, bars and graphs, as inline SVG.

They take their colours from the theme (_static/tinygpt.css), so that they are readable in light and dark. No script
runs.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from html import escape

import numpy as np
from IPython.display import HTML

LETTER = 7.3  # width of a letter of 12 pixels


def visible(token: str) -> str:
    """Write a token so that spaces and line ends can be seen."""
    return token.replace(" ", "␣").replace("\n", "↵").replace("\t", "⇥")


def _text(x: float, y: float, words: str, anchor: str = "middle", extra: str = "") -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}"{extra}>{escape(words)}</text>'


def grid(
    values: np.ndarray,
    rows: Sequence[str] | None = None,
    columns: Sequence[str] | None = None,
    title: str = "",
    digits: int | None = None,
    cell: int = 0,
    mask: np.ndarray | None = None,
) -> str:
    """Draw a matrix as SVG: positive entries blue, negative ones orange, deeper for larger ones.

    Parameters
    ----------
    values : array, shape (R, K)
    rows, columns : sequence of str, optional
        Labels on the left and on top; spaces and line ends are made visible.
    title : str
    digits : int, optional
        Write every number into its cell with this many digits behind the point.
    cell : int
        Width of a cell in pixels; chosen from the content by default.
    mask : bool array, shape (R, K), optional
        True where a cell stays empty.
    """
    values = np.asarray(values, float)
    R, K = values.shape
    top_label = max((len(one) for one in columns or [""]), default=0)
    width = cell or (max(18, 12 + round(LETTER * (digits + 3))) if digits is not None else 18)
    width = max(width, round(LETTER * top_label) + 6) if columns and not cell else width
    height = 24 if digits is not None else min(width, 18)
    left = 8 + round(LETTER * max((len(one) for one in rows or [""]), default=0))
    top = (18 if title else 0) + (16 if columns else 0) + 2
    scale = np.nanmax(np.abs(np.where(mask, 0, values) if mask is not None else values)) or 1.0
    parts = [_text(left, 12, title, "start", ' class="title"')] if title else []
    for j, name in enumerate(columns or ()):
        parts.append(_text(left + (j + 0.5) * width, top - 5, visible(name)))
    for i in range(R):
        if rows:
            parts.append(_text(left - 5, top + (i + 0.5) * height + 4, visible(rows[i]), "end"))
        for j in range(K):
            x, y = left + j * width, top + i * height
            hidden = mask is not None and mask[i, j]
            kind = "none" if hidden else "plus" if values[i, j] >= 0 else "minus"
            shade = 0 if hidden else 0.75 * abs(values[i, j]) / scale
            parts.append(
                f'<rect class="{kind}" x="{x}" y="{y}" width="{width - 1}" height="{height - 1}" '
                f'style="fill-opacity:{shade:.2f}"/>'
            )
            if digits is not None and not hidden:
                parts.append(_text(x + width / 2, y + height / 2 + 4, f"{values[i, j]:.{digits}f}"))
    W, H = left + K * width + 2, top + R * height + 2
    return (
        f'<svg viewBox="0 0 {W} {H}" style="width:{W}px" role="img" aria-label="{escape(title) or "matrix"}">'
        f"{''.join(parts)}</svg>"
    )


def figure(*drawings: str, caption: str = "") -> HTML:
    """Put drawings side by side; where there is no room, one below the other."""
    below = f"<figcaption>{escape(caption)}</figcaption>" if caption else ""
    return HTML(f'<figure class="picture"><div>{"".join(drawings)}</div>{below}</figure>')


def bars(
    values: Mapping[str, float],
    title: str = "",
    form: str = "{:.3f}",
    largest: float | None = None,
    log_from: float | None = None,
) -> str:
    """Draw one horizontal bar per name, with its number at the end; on a logarithmic axis from `log_from`, if given."""
    left = 12 + round(LETTER * max(map(len, values)))
    room, top = 260, 20 if title else 2
    scale = largest or max(values.values()) or 1.0
    parts = [_text(left, 13, title, "start", ' class="title"')] if title else []
    for i, (name, value) in enumerate(values.items()):
        share = value / scale if log_from is None else math.log(value / log_from) / math.log(scale / log_from)
        y, length = top + 20 * i, room * min(1.0, share)
        parts.append(_text(left - 6, y + 13, name, "end"))
        parts.append(f'<rect class="bar" x="{left}" y="{y + 2}" width="{max(length, 0.5):.1f}" height="15"/>')
        parts.append(_text(left + length + 5, y + 14, form.format(value), "start"))
    W, H = left + room + 12 + round(LETTER * max(len(form.format(v)) for v in values.values())), top + 20 * len(values)
    return (
        f'<svg viewBox="0 0 {W} {H}" style="width:{W}px" role="img" aria-label="{escape(title) or "bars"}">'
        f"{''.join(parts)}</svg>"
    )


def heat(matrices: Mapping[str, np.ndarray], digits: int = 2) -> HTML:
    """Draw named matrices side by side; a vector is drawn as a row."""
    return figure(*(grid(np.atleast_2d(values), title=name, digits=digits) for name, values in matrices.items()))


def graph(nodes: Mapping[str, tuple[float, float, float, float]], edges: Sequence[tuple[str, str]], words: str) -> HTML:
    """Draw a graph of computation: every node with its value and, below, the slope of the loss there.

    Parameters
    ----------
    nodes : mapping of str to (column, row, value, slope)
    edges : sequence of (from, to)
    words : str
        The picture in words.
    """
    wide, high, box = 132, 74, (104, 54)
    right = max(column for column, *_ in nodes.values()) * wide + box[0] + 2
    bottom = max(row for _, row, *_ in nodes.values()) * high + box[1] + 2
    parts = []
    for start, end in edges:
        (c0, r0, *_), (c1, r1, *_) = nodes[start], nodes[end]
        x0, y0 = c0 * wide + box[0], r0 * high + box[1] / 2
        x1, y1 = c1 * wide, r1 * high + box[1] / 2
        parts.append(f'<path d="M{x0} {y0} C{x0 + 16} {y0} {x1 - 16} {y1} {x1} {y1}"/>')
    for name, (column, row, value, slope) in nodes.items():
        x, y = column * wide + 1, row * high + 1
        parts.append(f'<rect class="box" x="{x}" y="{y}" width="{box[0]}" height="{box[1]}" rx="4"/>')
        parts.append(_text(x + 8, y + 17, name, "start"))
        parts.append(_text(x + 8, y + 33, f"{value:.4g}", "start", ' class="forward"'))
        parts.append(_text(x + 8, y + 48, f"slope {slope:.4g}", "start", ' class="back"'))
    return figure(
        f'<svg viewBox="0 0 {right} {bottom}" style="width:{right}px" role="img" aria-label="{escape(words)}">'
        f"{''.join(parts)}</svg>"
    )
