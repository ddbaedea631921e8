"""Wrong solutions as learners write them: exercise -> recognised mistake -> sources.

They are written apart from the mistakes in the package, in loops where those use NumPy and the other way round, so that
a mistake that recognises only itself is found.
"""

SOFTMAX_LOOP = """
import math
def softmax(x, out):
    total = 0
    for r in range(len(x)):
        {reset}
        for c in range(x.shape[1]):
            total += math.exp(x[r, c])
            {inside}
        for c in range(x.shape[1]):
            {after}
"""

WRONG = {
    "naive-softmax": {
        "running_total": [
            SOFTMAX_LOOP.format(reset="", inside="", after="out[r, c] = math.exp(x[r, c]) / total"),
        ],
        "partial_total": [
            SOFTMAX_LOOP.format(reset="total = 0", inside="out[r, c] = math.exp(x[r, c]) / total", after="pass"),
        ],
        "not_divided": [
            SOFTMAX_LOOP.format(reset="total = 0", inside="", after="out[r, c] = math.exp(x[r, c])"),
        ],
        "sum_of_everything": [
            "import numpy as np\ndef softmax(x, out):\n    np.exp(x, out=out)\n    out /= np.sum(out)\n",
        ],
        "sum_of_columns": [
            "import numpy as np\ndef softmax(x, out):\n    np.exp(x, out=out)\n    out /= np.sum(out, 0)\n",
        ],
        "base_2": [SOFTMAX_LOOP.format(reset="total = 0", inside="", after="pass").replace("math.exp", "2 **")
                   + "            out[r, c] = 2 ** x[r, c] / total\n"],
    },
    "stable-softmax": {
        "overflowing": [
            "import numpy as np\ndef softmax(x, out):\n    np.exp(x, out=out)\n    out /= out.sum(1)[:, None]\n",
        ],
        "overflowing_scalar": [SOFTMAX_LOOP.format(reset="total = 0", inside="",
                                                   after="out[r, c] = math.exp(x[r, c]) / total")],
        "one_maximum": [
            "import numpy as np\ndef softmax(x, out):\n    if x.size:\n        np.exp(x - np.max(x), out=out)\n"
            "        out /= out.sum(1)[:, None]\n",
        ],
        "epsilon": [
            "import numpy as np\ndef softmax(x, out):\n    if x.size:\n        e = np.exp(x - np.max(x, 1)[:, None])\n"
            "        out[:] = e / (e.sum(1)[:, None] + 1e-5)\n",
        ],
    },
    "block-matmul": {
        "last_term": [
            "def matmul(a, b, out):\n    for i in range(out.shape[0]):\n        for j in range(out.shape[1]):\n"
            "            out[i, j] = 0\n            for p in range(a.shape[1]):\n"
            "                out[i, j] = a[i, p] * b[p, j]\n",
        ],
        "lost_tail_of_k": [
            "def matmul(a, b, out):\n    out[:] = 0\n    for tile in range(a.shape[1] // 32):\n"
            "        here = slice(32 * tile, 32 * tile + 32)\n        out += a[:, here] @ b[here]\n",
        ],
        "only_the_last_tile": [
            "def matmul(a, b, out):\n    out[:] = 0\n    for p in range(0, a.shape[1], 16):\n"
            "        out[:] = a[:, p : p + 16] @ b[p : p + 16]\n",
        ],
        "not_cleared": [
            "def matmul(a, b, out):\n    for p in range(a.shape[1]):\n        out += a[:, p : p + 1] * b[p]\n"
        ],
    },
}  # fmt: skip
