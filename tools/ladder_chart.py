"""Draw the README's picture: training speed of every rung of the ladder, with NumPy and PyTorch beside it.

usage: python tools/ladder_chart.py      writes docs/figures/ladder.svg from docs/data/ladder.json

A test compares the committed picture with the output of this program.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from xml.sax.saxutils import escape

ROOT = Path(__file__).resolve().parent.parent
DATA = ROOT / "docs" / "data" / "ladder.json"
PICTURE = ROOT / "docs" / "figures" / "ladder.svg"
sys.path.insert(0, str(ROOT / "benchmarks"))

# The idea that each rung adds to the one before. The last two bars are for comparison.
IDEAS = {
    "naive": "textbook loops",
    "parallel": "+ threads",
    "blocked": "+ cache blocking",
    "simd": "+ vector registers",
    "numpy": "every op in NumPy",
    "PyTorch": "same model, eager",
}
LADDER = ("naive", "parallel", "blocked", "simd")
WIDTH, LEFT, RIGHT, TOP, ROW, BAR = 780, 278, 132, 78, 34, 22  # pixels

# The picture has its own background, so that it is readable on a page of any colour.
STYLE = """
    .card { fill: #ffffff; stroke: #d0d7de }
    .title { fill: #1f2328; font-size: 17px; font-weight: 600 }
    .name { fill: #1f2328; font-size: 14px; font-weight: 600 }
    .text { fill: #59636e; font-size: 12.5px }
    .value { fill: #1f2328; font-size: 13px }
    .rung { fill: #2f6fb3 }
    .peer { fill: #b0713a }
    .axis { stroke: #d0d7de }
    @media (prefers-color-scheme: dark) {
      .card { fill: #161b22; stroke: #3d444d }
      .title, .name, .value { fill: #f0f6fc }
      .text { fill: #a9b4c0 }
      .rung { fill: #539bf5 }
      .peer { fill: #d18f52 }
      .axis { stroke: #3d444d }
    }
"""


def speeds(results: dict[str, Any]) -> dict[str, float]:
    """Return tokens per second of one training step of the default model, by rung."""
    rows = [row for row in results["rows"] if row.get("op") == "step default"]
    return {row["rung"]: row["tokens"] / row["seconds"] for row in rows}


def bars(found: dict[str, float]) -> Iterator[str]:
    """Yield the SVG of one bar per rung: name and idea on the left, speed and factor over `naive` on the right."""
    fastest, slowest = max(found.values()), found["naive"]
    for i, name in enumerate(name for name in IDEAS if name in found):
        y = TOP + i * ROW + (10 if name not in LADDER else 0)  # a gap between the ladder and the bars for comparison
        width = (WIDTH - LEFT - RIGHT) * found[name] / fastest
        kind = "rung" if name in LADDER else "peer"
        label = "NumPy" if name == "numpy" else name
        factor = "" if name == "naive" else f'<tspan class="text" dx="10">{found[name] / slowest:.0f} x</tspan>'
        yield f'  <text class="name" x="20" y="{y + 16}">{label}</text>'
        yield f'  <text class="text" x="100" y="{y + 16}">{escape(IDEAS[name])}</text>'
        yield f'  <rect class="{kind}" x="{LEFT}" y="{y}" width="{width:.1f}" height="{BAR}" rx="2"/>'
        yield f'  <text class="value" x="{LEFT + width + 8:.1f}" y="{y + 16}">{found[name]:,.0f}{factor}</text>'


def picture(results: dict[str, Any]) -> str:
    """Return the picture as SVG text."""
    import report

    found = speeds(results)
    size = next(row["size"] for row in results["rows"] if row.get("op") == "step default")
    parts = size.split()  # such as "layers 2 width 64"
    words = ", ".join(f"{name} {value}" for name, value in zip(parts[::2], parts[1::2], strict=True))
    height = TOP + len(found) * ROW + 10 + 32
    told = ", ".join(f"{name} {speed:,.0f}" for name, speed in found.items())
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" width="{WIDTH}" height="{height}"'
        ' role="img" aria-labelledby="title told" font-family="system-ui, -apple-system, Segoe UI, sans-serif">',
        '  <title id="title">Training speed, rung by rung</title>',
        f'  <desc id="told">Tokens per second: {escape(told)}.</desc>',
        f"  <style>{STYLE}  </style>",
        f'  <rect class="card" x="0.5" y="0.5" width="{WIDTH - 1}" height="{height - 1}" rx="8"/>',
        '  <text class="title" x="20" y="32">Training speed, rung by rung: tokens per second</text>',
        f'  <text class="text" x="20" y="54">One step of the default model ({escape(words)})</text>',
        *bars(found),
        f'  <line class="axis" x1="{LEFT}" y1="{TOP - 6}" x2="{LEFT}" y2="{height - 36}"/>',
        f'  <text class="text" x="20" y="{height - 14}">{escape(report.machine(results))}</text>',
        "</svg>",
    ]
    return "\n".join(lines) + "\n"


def main() -> None:
    """Write the picture."""
    PICTURE.write_text(picture(json.loads(DATA.read_text())))


if __name__ == "__main__":
    main()
