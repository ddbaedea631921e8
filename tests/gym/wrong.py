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
    "autograd-mul": {
        "exchanged": ["""
def mul(a, b):
    def backward(dout):
        da, db = dout * a, dout * b
        for axis in range(da.ndim):
            if b.ndim == da.ndim and b.shape[axis] == 1:
                db = db.sum(axis, keepdims=True)
        return da, db
    return a * b, backward
"""],
        "not_summed": ["""
def mul(a, b):
    return a * b, lambda dout: (b * dout, a * dout)
"""],
        "only_dout": ["""
def mul(a, b):
    return a * b, lambda dout: (dout.copy(), dout.copy())
"""],
        "without_dout": ["""
def mul(a, b):
    return a * b, lambda dout: (b.copy(), a.copy())
"""],
    },
    "bpe-merge": {
        "behind_the_end": ["""
from collections import Counter
def merge_step(tokens, new):
    counts = Counter(zip(tokens, tokens[1:]))
    best = min(counts, key=lambda pair: (-counts[pair], pair))
    merged, i = [], 0
    while i < len(tokens):
        if tokens[i] == best[0] and tokens[i + 1] == best[1]:
            merged.append(new)
            i += 1
        else:
            merged.append(tokens[i])
        i += 1
    return best, merged
"""],
        "first_of_equals": ["""
def merge_step(tokens, new):
    counts = {}
    for pair in zip(tokens, tokens[1:]):
        counts[pair] = counts.get(pair, 0) + 1
    best = max(counts, key=counts.get)
    merged = []
    for token in tokens:
        if merged and (merged[-1], token) == best:
            merged[-1] = new
        else:
            merged.append(token)
    return best, merged
"""],
        "last_token_lost": ["""
def merge_step(tokens, new):
    pairs = list(zip(tokens, tokens[1:]))
    best = min(set(pairs), key=lambda pair: (-pairs.count(pair), pair))
    merged, skip = [], False
    for pair in pairs:
        if skip:
            skip = False
            continue
        skip = pair == best
        merged.append(new if skip else pair[0])
    return best, merged
"""],
        "right_token_kept": ["""
def merge_step(tokens, new):
    pairs = list(zip(tokens, tokens[1:]))
    best = min(set(pairs), key=lambda pair: (-pairs.count(pair), pair))
    return best, [new if pair == best else pair[0] for pair in pairs] + tokens[-1:]
"""],
    },
    "top-p": {
        "without_the_crossing_token": ["""
import numpy as np
def top_p(probabilities, p, u):
    kept, total = [], 0.0
    for token in np.argsort(-probabilities, kind="stable"):
        if kept and total + probabilities[token] > p:
            break
        kept.append(token)
        total += probabilities[token]
    end = 0.0
    for token in kept:
        end += probabilities[token] / total
        if u < end:
            return int(token)
    return int(kept[-1])
"""],
        "not_scaled": ["""
import numpy as np
def top_p(probabilities, p, u):
    total = 0.0
    for token in np.argsort(-probabilities, kind="stable"):
        total += probabilities[token]
        if u < total or total >= p:
            return int(token)
"""],
        "always_the_best": ["""
def top_p(probabilities, p, u):
    return max(range(len(probabilities)), key=lambda token: probabilities[token])
"""],
        "place_in_the_order": ["""
import numpy as np
def top_p(probabilities, p, u):
    x = np.sort(probabilities)[::-1]
    x = x[: np.searchsorted(np.cumsum(x), p) + 1]
    return int(np.searchsorted(np.cumsum(x) / x.sum(), u, side="right"))
"""],
    },
    "attention-bug": {
        "one_left_over_keys": ["""
import numpy as np
def attention(q, k, v, scale):
    out = np.zeros((len(q), v.shape[1]), np.float32)
    for t in range(len(q)):
        scores = scale * (k[: t + 1] @ q[t])
        powers = np.exp(scores - scores.max())
        out[t] = powers / powers.sum() @ v[: t + 1]
    return out
"""],
        "without_mask": ["""
import numpy as np
def attention(q, k, v, scale):
    scores = q @ k.T * np.float32(scale)
    powers = np.exp(scores - scores.max())
    return powers / powers.sum(-1, keepdims=True) @ v
"""],
        "one_too_many": ["""
import numpy as np
def attention(q, k, v, scale):
    rows = []
    for t in range(len(q)):
        end = min(len(k), len(k) - len(q) + t + 2)
        scores = np.float32(scale) * (k[:end] @ q[t])
        powers = np.exp(scores - scores.max())
        rows.append(powers @ v[:end] / powers.sum())
    return np.array(rows)
"""],
    },
    "online-softmax": {
        "not_rescaled": ["""
import numpy as np
def max_and_sum(blocks):
    top, total = -np.inf, 0.0
    for block in blocks:
        if not np.isfinite(block).any():
            continue
        top = max(top, block.max())
        for score in block:
            total += np.exp(score - top)
    return top, total
"""],
        "starts_at_0": ["""
import math
def max_and_sum(blocks):
    top, total = 0.0, 0.0
    for block in blocks:
        for score in block.tolist():
            if score > top:
                total *= math.exp(top - score)
                top = score
            total += math.exp(score - top)
    return top, total
"""],
        "read_twice": ["""
import numpy as np
def max_and_sum(blocks):
    top = -np.inf
    for block in blocks:
        top = max(top, block.max())
    total = 0.0
    for block in blocks:
        total += np.exp(block - top).sum()
    return top, total
"""],
        "masked_block": ["""
import numpy as np
def max_and_sum(blocks):
    top, total = np.float32(-np.inf), np.float32(0)
    for block in blocks:
        before, top = top, np.maximum(top, block.max())
        total *= np.exp(before - top)
        total += np.exp(block - top).sum()
    return top, total
"""],
    },
    "vectorise-gelu": {
        "without_half": ["""
import math
def gelu(x, out):
    for i in range(len(x)):
        z = float(x[i])
        out[i] = z * (1 + math.tanh(0.797884561 * (z + 0.044715 * z ** 3)))
"""],
        "sigmoid_of_u": ["""
import math
def gelu(x, out):
    for i, z in enumerate(x.tolist()):
        out[i] = z * (0.5 + 0.5 * math.tanh(0.5 * 0.797884561 * (z + 0.044715 * z ** 3)))
"""],
        "without_tail": ["""
import numpy as np
def gelu(x, out):
    for i in range(0, len(x) - 15, 16):
        z = x[i : i + 16]
        out[i : i + 16] = z / (1 + np.exp(-2 * np.float32(0.797884561) * (z + np.float32(0.044715) * z ** 3)))
"""],
    },
    "fuse-bias-gelu": {
        "without_bias": ["""
import numpy as np
def bias_gelu(z, bias, out):
    out[:] = z / (1 + np.exp(-2 * np.float32(0.797884561) * (z + np.float32(0.044715) * z ** 3)))
"""],
        "bias_afterwards": ["""
import numpy as np
def bias_gelu(z, bias, out):
    out[:] = z / (1 + np.exp(-2 * np.float32(0.797884561) * (z + np.float32(0.044715) * z ** 3)))
    out += bias
"""],
        "without_gelu": ["""
def bias_gelu(z, bias, out):
    for r in range(len(z)):
        for c in range(z.shape[1]):
            out[r, c] = z[r, c] + bias[c]
"""],
    },
    "pack-panel": {
        "without_the_rest": ["""
import numpy as np
def pack(b, width):
    return np.array([b[:, i * width : (i + 1) * width] for i in range(b.shape[1] // width)], np.float32)
"""],
        "not_exchanged": ["""
import numpy as np
def pack(b, width):
    panel = np.zeros((b.shape[0], -(-b.shape[1] // width), width), np.float32)
    for p in range(b.shape[0]):
        for j in range(b.shape[1]):
            panel[p, j // width, j % width] = b[p, j]
    return panel
"""],
        "columns_first": ["""
import numpy as np
def pack(b, width):
    K, N = b.shape
    flat = np.zeros(-(-N // width) * width * K, np.float32)
    for j in range(N):
        flat[j * K : (j + 1) * K] = b[:, j]
    return flat.reshape(-(-N // width), K, width)
"""],
    },
    "attention-backward": {
        "without_scale": ["""
import numpy as np
def attention_backward(dout, q, k, v, weights, scale):
    ds = np.zeros_like(weights)
    for t in range(len(q)):
        dw = v @ dout[t]
        ds[t] = weights[t] * (dw - weights[t] @ dw)
    return ds @ k, ds.T @ q, weights.T @ dout
"""],
        "without_sum": ["""
def attention_backward(dout, q, k, v, weights, scale):
    ds = weights * (dout @ v.T) * scale
    return ds @ k, ds.T @ q, weights.T @ dout
"""],
        "without_softmax": ["""
def attention_backward(dout, q, k, v, weights, scale):
    ds = dout @ v.T
    return scale * ds @ k, scale * ds.T @ q, weights.T @ dout
"""],
    },
    "beat-blocked": {
        "not_cleared": [
            "def matmul(a, b, out):\n    for p in range(a.shape[1]):\n        out += a[:, p : p + 1] * b[p]\n"
        ],
        "lost_columns": ["""
def matmul(a, b, out):
    out[:] = 0
    for j in range(0, b.shape[1] - 31, 32):
        out[:, j : j + 32] = a @ b[:, j : j + 32]
"""],
        "lost_rows": ["""
def matmul(a, b, out):
    out[:] = 0
    for i in range(0, len(a) - 5, 6):
        out[i : i + 6] = a[i : i + 6] @ b
"""],
    },
}  # fmt: skip
