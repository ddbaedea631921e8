"""Write csrc/bpe/classes.h: the class of every code point, for the patterns that split a text into words.

usage: python tools/unicode_tables.py [--check]      --check compares with the file

The classes are those of one Unicode version. Python 3.14 has this version; other Pythons need the package unicodedata2
of this version.
"""

from __future__ import annotations

import importlib
import sys
import textwrap
from pathlib import Path
from types import ModuleType

HEADER = Path(__file__).resolve().parent.parent / "csrc" / "bpe" / "classes.h"
VERSION = "16.0.0"  # the version of Hugging Face tokenizers and tiktoken when this was written
CODE_POINTS = 0x110000
OTHER, LETTER, NUMBER, SPACE = range(4)
ROW = 256  # code points in a row of the table; at 2 bits each a row is a cache line
CONTROL_SPACES = {0x09, 0x0A, 0x0B, 0x0C, 0x0D, 0x85}  # White_Space that is not in category Z
LINE = 120

TEXT = """\
/* Classes of the code points of Unicode {version}: letter, number, space or other.

   Written by tools/unicode_tables.py from the general categories; do not edit.

   LETTER is \\p{{L}}, NUMBER is \\p{{N}}, SPACE is \\s (White_Space). Code point c has two bits, in row
   class_row[c / {row}] of class_bits: in byte c % {row} / 4, from bit 2 (c % 4) on. All from {limit:#x} on are
   OTHER. */
#ifndef TINYGPT_CLASSES_H
#define TINYGPT_CLASSES_H

#include <stdint.h>

#define UNICODE_VERSION "{version}"
#define CLASS_ROW {row}
#define CLASS_LIMIT {limit:#x}
enum {{ OTHER, LETTER, NUMBER, SPACE }};

/* The same for ASCII, one byte each. */
static const uint8_t ascii_class[128] = {{
{ascii}
}};

static const uint8_t class_row[CLASS_LIMIT / CLASS_ROW] = {{
{index}
}};

static const uint8_t class_bits[{n_rows} * CLASS_ROW / 4] = {{
{rows}
}};

#endif
"""


def database() -> ModuleType | None:
    """Return a module like unicodedata of the given Unicode version; None if there is none."""
    for name in ("unicodedata", "unicodedata2"):
        try:
            found = importlib.import_module(name)
        except ModuleNotFoundError:
            continue
        if found.unidata_version == VERSION:
            return found
    return None


def class_of(code: int, data: ModuleType) -> int:
    """Return the class of a code point; surrogates, which UTF-8 does not have, are OTHER like unassigned ones."""
    category = data.category(chr(code))
    if category[0] == "L":
        return LETTER
    if category[0] == "N":
        return NUMBER
    return SPACE if category[0] == "Z" or code in CONTROL_SPACES else OTHER


def packed(classes: list[int]) -> bytes:
    """Pack four classes into a byte, the first in the lowest bits."""
    return bytes(sum(classes[i + j] << 2 * j for j in range(4)) for i in range(0, len(classes), 4))


def wrapped(numbers: list[int] | bytes) -> str:
    """Format the numbers of an array, as many per line as fit."""
    text = ", ".join(map(str, numbers)) + ","
    return textwrap.fill(text, LINE, initial_indent="    ", subsequent_indent="    ")


def header(data: ModuleType) -> str:
    """Return the content of the header."""
    classes = [class_of(code, data) for code in range(CODE_POINTS)]
    last = max(code for code in range(CODE_POINTS) if classes[code] != OTHER)
    limit = (last // ROW + 1) * ROW
    numbers: dict[bytes, int] = {}  # row -> its number: most of the 4352 rows are equal to another
    index = [numbers.setdefault(packed(classes[i : i + ROW]), len(numbers)) for i in range(0, limit, ROW)]
    return TEXT.format(
        version=data.unidata_version,
        row=ROW,
        limit=limit,
        ascii=wrapped(classes[:128]),
        index=wrapped(index),
        n_rows=len(numbers),
        rows=wrapped(b"".join(numbers)),
    )


def main() -> None:
    """Write the header, or check it."""
    if sys.argv[1:] not in ([], ["--check"]):
        sys.exit(__doc__)
    data = database()
    if data is None:
        sys.exit(f"unicodedata is not of Unicode {VERSION}: use Python 3.14, or install unicodedata2=={VERSION}")
    text = header(data)
    if "--check" not in sys.argv[1:]:
        HEADER.write_text(text)
    elif not HEADER.exists() or HEADER.read_text() != text:
        sys.exit(f"{HEADER.name} is out of date, run 'python tools/unicode_tables.py'")


if __name__ == "__main__":
    main()
