"""A reader for the numbers that a trace page embeds."""

import base64

import numpy as np

from .page_data import json_of


def read_back(text):
    """Read the data of a page, and the values and gradients of each step.

    Returns the data and a dictionary from (step name, "values" or "gradient") to an array of shape (heads, rows,
    columns).
    """
    data = json_of(text)
    numbers = np.frombuffer(base64.b64decode(data["numbers"]), "<f4" if data["width"] == 4 else "<f2")
    found = {}
    for station in data["stations"]:
        shape = station["heads"], station["rows"], station["columns"]
        for key in ("values", "gradient"):
            if key in station:
                start, exponent = station[key]
                part = numbers[start : start + int(np.prod(shape))].astype(np.float64)
                found[station["name"], key] = part.reshape(shape) * 2.0**exponent
    return data, found
