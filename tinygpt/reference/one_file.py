"""Train a GPT and generate text with it, in one file of plain NumPy.

    python one_file.py shakespeare.txt

This is the whole algorithm: a model, its gradient written by hand, Adam, and a training loop. Everything else in this
package makes it faster, safer or more comfortable. Read `gpt.py` first; it explains the forward pass in small steps.

Each function is followed by its gradient. Then the model is put together, and the optimizer and the loop come last.

A gradient has the name of its value with a d in front: ``dx`` is the derivative of the loss with respect to ``x``, and
has the shape of ``x``. Each ``..._backward`` takes the gradient of an output and returns the gradients of the inputs.

Letters: B sequences in a batch, T tokens in each, N = B T, C width of the model, H heads, D = C / H, V vocabulary.

References
----------
Vaswani et al. 2017, Attention Is All You Need; Radford et al. 2019, Language Models are Unsupervised Multitask Learners
(GPT-2); Kingma and Ba 2015, Adam.
"""

import math
import sys
from pathlib import Path

import numpy as np

STEPS = 1000


def softmax(x):
    """Turn scores into probabilities: positive numbers with sum 1 along the last axis."""
    e = np.exp(x - x.max(axis=-1, keepdims=True))  # the maximum cancels in the ratio, and exp cannot overflow
    return e / e.sum(axis=-1, keepdims=True)


def linear(x, weight, bias):
    """Compute each output as a weighted sum of the inputs: (N, in) and (out, in) give (N, out)."""
    return x @ weight.T + bias


def linear_backward(dy, x, weight):
    """Return dx (N, in), dweight (out, in), dbias (out,)."""
    # y[n, o] = sum_i x[n, i] weight[o, i]: each weight is used in every row, so its gradient is a sum over the rows.
    return dy @ weight, dy.T @ x, dy.sum(axis=0)


def gelu(x):
    """Pass large inputs and suppress negative ones: a smooth step (tanh form)."""
    return 0.5 * x * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))


def gelu_backward(dy, x):
    """Return dx: the product rule on x/2 and 1 + t, where t = tanh(u) has the derivative (1 - t^2) du/dx."""
    t = np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3))
    du = math.sqrt(2 / math.pi) * (1 + 3 * 0.044715 * x**2)
    return dy * (0.5 * (1 + t) + 0.5 * x * (1 - t**2) * du)


def layernorm(x, weight, bias):
    """Shift and scale every row to mean 0 and variance 1, then apply a learned scale and shift.

    Returns the result and, for the gradient, the normalised rows (N, C) and 1 / standard deviation (N, 1).
    """
    rstd = 1 / np.sqrt(x.var(axis=-1, keepdims=True) + 1e-5)
    xhat = (x - x.mean(axis=-1, keepdims=True)) * rstd
    return xhat * weight + bias, xhat, rstd


def layernorm_backward(dy, xhat, rstd, weight):
    """Return dx (N, C), dweight (C,), dbias (C,)."""
    dxhat = dy * weight
    # Adding a constant to a row, or scaling it, does not change xhat. So dx has no component in these two directions:
    # the mean of dxhat and its component along xhat are subtracted.
    along = (dxhat * xhat).mean(axis=-1, keepdims=True)
    dx = rstd * (dxhat - dxhat.mean(axis=-1, keepdims=True) - xhat * along)
    return dx, (dy * xhat).sum(axis=0), dy.sum(axis=0)


def attention(q, k, v):
    """Give every token an average of its own and all earlier values, weighted by how well its query matches their keys.

    q, k, v and the result are (B, H, T, D). Also returns the weights of the average, `shares` (B, H, T, T).
    """
    T, D = q.shape[-2:]
    scores = q @ k.swapaxes(-1, -2) / math.sqrt(D)
    future = np.triu(np.ones((T, T), bool), k=1)  # True where the key is later than the query
    shares = softmax(np.where(future, -np.inf, scores))
    return shares @ v, shares


def attention_backward(dout, q, k, v, shares):
    """Return dq, dk, dv, each (B, H, T, D)."""
    dv = shares.swapaxes(-1, -2) @ dout
    dshares = dout @ v.swapaxes(-1, -2)
    # Softmax: shares have sum 1, so only the difference from the average of dshares counts. Future shares are 0.
    dscores = shares * (dshares - (shares * dshares).sum(axis=-1, keepdims=True)) / math.sqrt(q.shape[-1])
    return dscores @ k, dscores.swapaxes(-1, -2) @ q, dv


def split_heads(x, B, H):
    """Turn (N, C) into (B, H, T, D): every head has D columns of its own."""
    return x.reshape(B, -1, H, x.shape[1] // H).swapaxes(1, 2)


def join_heads(x):
    """Turn (B, H, T, D) back into (N, C)."""
    B, H, T, D = x.shape
    return x.swapaxes(1, 2).reshape(B * T, H * D)


def new_weights(rng, vocabulary, context, layers, width):
    """Draw the initial weights: small random matrices, scales of 1, shifts of 0."""
    matrices = {"wte": (vocabulary, width), "wpe": (context, width)}
    norms = ["norm"]
    for i in range(layers):
        matrices |= {f"blocks.{i}.attn.qkv": (3 * width, width), f"blocks.{i}.attn.out": (width, width)}
        matrices |= {f"blocks.{i}.mlp.up": (4 * width, width), f"blocks.{i}.mlp.down": (width, 4 * width)}
        norms += [f"blocks.{i}.norm1", f"blocks.{i}.norm2"]
    w = {}
    for name, shape in matrices.items():
        # Each block adds twice to the residual stream. Smaller output matrices keep its size independent of the depth.
        shrink = math.sqrt(2 * layers) if name.endswith(("attn.out", "mlp.down")) else 1
        w[f"{name}.weight"] = rng.normal(0, 0.02 / shrink, shape)
        if name.startswith("blocks"):
            w[f"{name}.bias"] = np.zeros(shape[0])
    for name in norms:
        w[f"{name}.weight"], w[f"{name}.bias"] = np.ones(width), np.zeros(width)
    return w


def layers_of(w):
    """Count the blocks of a model."""
    return sum(name.endswith("norm1.weight") for name in w)


def forward(w, tokens, H):
    """Compute the logits (N, V) of tokens (B, T), and keep what the gradient needs."""
    B, T = tokens.shape
    kept: dict[str, tuple] = {}
    x = (w["wte.weight"][tokens] + w["wpe.weight"][:T]).reshape(B * T, -1)  # the residual stream, (N, C)
    for i in range(layers_of(w)):
        b = f"blocks.{i}"
        n1, *norm1 = layernorm(x, w[f"{b}.norm1.weight"], w[f"{b}.norm1.bias"])
        qkv = linear(n1, w[f"{b}.attn.qkv.weight"], w[f"{b}.attn.qkv.bias"])  # (N, 3 C)
        q, k, v = (split_heads(part, B, H) for part in np.split(qkv, 3, axis=1))
        mixed, shares = attention(q, k, v)
        mixed = join_heads(mixed)
        x = x + linear(mixed, w[f"{b}.attn.out.weight"], w[f"{b}.attn.out.bias"])
        n2, *norm2 = layernorm(x, w[f"{b}.norm2.weight"], w[f"{b}.norm2.bias"])
        up = linear(n2, w[f"{b}.mlp.up.weight"], w[f"{b}.mlp.up.bias"])  # (N, 4 C)
        x = x + linear(gelu(up), w[f"{b}.mlp.down.weight"], w[f"{b}.mlp.down.bias"])
        kept[b] = n1, norm1, q, k, v, shares, mixed, n2, norm2, up
    y, *norm = layernorm(x, w["norm.weight"], w["norm.bias"])
    kept["end"] = y, norm
    return y @ w["wte.weight"].T, kept


def loss_and_gradients(w, tokens, targets, H):
    """Return the mean loss in nats and the gradient of every weight, by name.

    The loss of a token is -log(probability that the model gave to the next one). tokens and targets are (B, T).
    """
    B, T = tokens.shape
    logits, kept = forward(w, tokens, H)
    probabilities, n = softmax(logits), np.arange(B * T)
    loss = -np.log(probabilities[n, targets.reshape(-1)]).mean()

    dlogits = probabilities.copy()
    dlogits[n, targets.reshape(-1)] -= 1  # gradient of softmax and logarithm together: predicted minus true probability
    dlogits /= B * T
    y, norm = kept["end"]
    g = {"wte.weight": dlogits.T @ y}

    def back(name, dy, x):
        """Return the gradient of a projection's input, and store those of its weight and bias."""
        dx, g[f"{name}.weight"], g[f"{name}.bias"] = linear_backward(dy, x, w[f"{name}.weight"])
        return dx

    def back_norm(name, dy, xhat, rstd):
        """Return the gradient of a norm's input, and store those of its weight and bias."""
        dx, g[f"{name}.weight"], g[f"{name}.bias"] = layernorm_backward(dy, xhat, rstd, w[f"{name}.weight"])
        return dx

    dx = back_norm("norm", dlogits @ w["wte.weight"], *norm)
    for i in reversed(range(layers_of(w))):
        b = f"blocks.{i}"
        n1, norm1, q, k, v, shares, mixed, n2, norm2, up = kept[b]
        # x + f(x): the gradient of x is the gradient of the sum, plus what comes back through f.
        dup = gelu_backward(back(f"{b}.mlp.down", dx, gelu(up)), up)
        dx = dx + back_norm(f"{b}.norm2", back(f"{b}.mlp.up", dup, n2), *norm2)
        dmixed = split_heads(back(f"{b}.attn.out", dx, mixed), B, H)
        dqkv = np.concatenate([join_heads(d) for d in attention_backward(dmixed, q, k, v, shares)], axis=1)
        dx = dx + back_norm(f"{b}.norm1", back(f"{b}.attn.qkv", dqkv, n1), *norm1)
    np.add.at(g["wte.weight"], tokens.reshape(-1), dx)  # the table is used twice: as embedding and for the logits
    g["wpe.weight"] = np.zeros_like(w["wpe.weight"])
    g["wpe.weight"][:T] = dx.reshape(B, T, -1).sum(axis=0)
    return loss, g


def adam(w, g, m, v, step, lr, beta1=0.9, beta2=0.95, eps=1e-8):
    """Move every weight against its gradient, in place; `step` counts from 1.

    m and v are running means of the gradient and of its square. A step is lr m / sqrt(v), which is about lr for
    gradients of any size. The division by 1 - beta^step corrects for the start of both means at 0.
    """
    for name in w:
        m[name] = beta1 * m[name] + (1 - beta1) * g[name]
        v[name] = beta2 * v[name] + (1 - beta2) * g[name] ** 2
        w[name] -= lr * (m[name] / (1 - beta1**step)) / (np.sqrt(v[name] / (1 - beta2**step)) + eps)


def train(w, text, H, steps, batch=8, lr=3e-3, seed=0):
    """Train on an array of tokens; yields the loss of every step."""
    rng, T = np.random.default_rng(seed), len(w["wpe.weight"])
    m, v = ({name: np.zeros_like(x) for name, x in w.items()} for _ in range(2))
    for step in range(1, steps + 1):
        starts = rng.integers(0, len(text) - T, batch)
        windows = text[starts[:, None] + np.arange(T + 1)]  # (B, T + 1): the targets are the inputs shifted by one
        loss, g = loss_and_gradients(w, windows[:, :-1], windows[:, 1:], H)
        adam(w, g, m, v, step, lr)
        yield loss


def sample(w, tokens, H, count, rng):
    """Continue a list of tokens by `count` more: predict, draw one, append it, repeat."""
    tokens = list(tokens)
    for _ in range(count):
        context = np.array([tokens[-len(w["wpe.weight"]) :]])
        tokens.append(int(rng.choice(len(w["wte.weight"]), p=softmax(forward(w, context, H)[0][-1]))))
    return tokens


def main():
    """Train on the text file named on the command line, one token per character, and print a sample."""
    text = Path(sys.argv[1]).read_text(encoding="utf-8")
    letters = sorted(set(text))
    tokens = np.array([letters.index(letter) for letter in text])
    rng = np.random.default_rng(0)
    w = new_weights(rng, len(letters), context=32, layers=2, width=48)
    for step, loss in enumerate(train(w, tokens, H=4, steps=STEPS)):
        if step % (STEPS // 10) == 0:
            print(f"step {step:5}   loss {loss:.3f}")
    print("".join(letters[token] for token in sample(w, tokens[:1], 4, 300, rng)))


if __name__ == "__main__":
    main()
