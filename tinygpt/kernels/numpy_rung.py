"""The rung ``numpy``: every op in plain NumPy, with BLAS for matrix products.

It is registered through `kernels.register`, in the way a user registers a rung. It is also a readable specification:
compare a kernel with the function of the same name here. During a call, BLAS uses as many threads as the other rungs
would.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache, wraps
from typing import Any

import numpy as np

GELU_SCALE = np.float32(np.sqrt(2 / np.pi))
GELU_CUBIC = np.float32(0.044715)


@cache
def _blas() -> Any:
    """Find NumPy's BLAS. The search takes milliseconds, so the result is cached."""
    from threadpoolctl import ThreadpoolController

    return ThreadpoolController().select(user_api="blas")


def _with_blas(op: Callable[..., None]) -> Callable[..., None]:
    """Let BLAS use n_threads, the last argument of `op`, during a call, and restore its number of threads after it."""

    @wraps(op)
    def call(*arguments):
        blas, n_threads = _blas(), arguments[-1]
        if all(library.num_threads == n_threads for library in blas.lib_controllers):
            op(*arguments)
        else:
            with blas.limit(limits=n_threads):
                op(*arguments)

    return call


def _write(out: np.ndarray, value: Any, accumulate: bool = False) -> None:
    if accumulate:
        out += value
    else:
        out[...] = value


@_with_blas
def matmul(a, b, out, trans_a, trans_b, accumulate, bias, residual, activation, pre, n_threads):
    """out = activation(op(a) op(b) + bias) + residual."""
    a, b = (a.T if trans_a else a), (b.T if trans_b else b)
    if accumulate:
        out += a @ b
        return
    np.matmul(a, b, out=out)
    if bias is not None:
        out += bias
    if pre is not None:
        pre[...] = out
    if activation == 1:
        gelu(out, out, n_threads)
    if residual is not None:
        out += residual


def matmul_bfloat16(a, b, out, bias, residual, activation, n_threads):
    """out = activation(a w^T + bias) + residual, where b holds the upper halves of the floats w."""
    w = (b.astype(np.uint32) << 16).view(np.float32)
    matmul(a, w, out, False, True, False, bias, residual, activation, None, n_threads)


def matmul_int8(a, b, scales, out, bias, residual, activation, n_threads):
    """out = activation(a w^T + bias) + residual with w[j, p] = scales[j, p // 32] b[j, p]."""
    w = np.repeat(scales.view(np.float16).astype(np.float32), 32, axis=1)[:, : b.shape[1]] * b
    matmul(a, w, out, False, True, False, bias, residual, activation, None, n_threads)


def column_sum(x, out, accumulate, n_threads):
    """out[c] = sum over r of x[r, c]."""
    _write(out, x.sum(0), accumulate)


def softmax(x, out, n_threads):
    """y = exp(x - max) / sum exp(x - max)."""
    if x.size:
        np.exp(x - x.max(-1, keepdims=True), out=out)
        out /= out.sum(-1, keepdims=True)


def softmax_backward(dy, y, dx, n_threads):
    """dx = y (dy - sum(y dy))."""
    dx[...] = y * (dy - (y * dy).sum(-1, keepdims=True))


def layernorm(x, residual, weight, bias, out, total, mean, rstd, eps, n_threads):
    """out = (x - mean) rstd weight + bias, where x + residual replaces x if there is a residual."""
    if residual is not None:
        total[...] = x + residual
        x = total
    mean[...] = x.mean(-1)
    centred = x - mean[:, None]
    rstd[...] = 1 / np.sqrt((centred * centred).mean(-1) + np.float32(eps))
    out[...] = centred * rstd[:, None] * weight
    if bias is not None:
        out += bias


def layernorm_backward(dy, x, weight, mean, rstd, dtotal, dx, dweight, dbias, accumulate, n_threads):
    """dx = rstd (g - mean(g) - xhat mean(g xhat)) + dtotal, where g = dy weight."""
    xhat = (x - mean[:, None]) * rstd[:, None]
    g = dy * weight
    dx[...] = (g - g.mean(-1, keepdims=True) - xhat * (g * xhat).mean(-1, keepdims=True)) * rstd[:, None]
    if dtotal is not None:
        dx += dtotal
    _write(dweight, (dy * xhat).sum(0), accumulate)
    if dbias is not None:
        _write(dbias, dy.sum(0), accumulate)


def rmsnorm(x, residual, weight, out, total, rstd, eps, n_threads):
    """out = x rstd weight, where x + residual replaces x if there is a residual."""
    if residual is not None:
        total[...] = x + residual
        x = total
    rstd[...] = 1 / np.sqrt((x * x).mean(-1) + np.float32(eps))
    out[...] = x * rstd[:, None] * weight


def rmsnorm_backward(dy, x, weight, rstd, dtotal, dx, dweight, accumulate, n_threads):
    """dx = rstd (g - xhat mean(g xhat)) + dtotal, where g = dy weight."""
    xhat = x * rstd[:, None]
    g = dy * weight
    dx[...] = (g - xhat * (g * xhat).mean(-1, keepdims=True)) * rstd[:, None]
    if dtotal is not None:
        dx += dtotal
    _write(dweight, (dy * xhat).sum(0), accumulate)


def _gelu_tanh(x):
    return np.tanh(GELU_SCALE * (x + GELU_CUBIC * x * x * x))


def gelu(x, out, n_threads):
    """out = x/2 (1 + tanh(u)), where u = sqrt(2/pi) (x + 0.044715 x^3)."""
    out[...] = np.float32(0.5) * x * (1 + _gelu_tanh(x))


def gelu_backward(dy, x, dx, n_threads):
    """dx = dy ((1 + t)/2 + x/2 (1 - t^2) u'), where t = tanh(u)."""
    x = np.clip(x, np.float32(-100), np.float32(100))  # the slope is 1 or 0 beyond, and x^2 would overflow
    t = _gelu_tanh(x)
    slope = GELU_SCALE * (1 + 3 * GELU_CUBIC * x * x)
    dx[...] = dy * (np.float32(0.5) * (1 + t) + np.float32(0.5) * x * (1 - t * t) * slope)


def _sigmoid(x):
    with np.errstate(over="ignore"):  # exp(-x) = inf gives the right limit, 0
        return 1 / (1 + np.exp(-x))


def swiglu(x, out, n_threads):
    """out = gate sigmoid(gate) up."""
    F = out.shape[1]
    gate, up = x[:, :F], x[:, F:]
    out[...] = gate * _sigmoid(gate) * up


def swiglu_backward(dy, x, dx, n_threads):
    """dgate = dy up (s + gate s (1 - s)), dup = dy gate s, where s = sigmoid(gate)."""
    F = dy.shape[1]
    gate, up = x[:, :F], x[:, F:]
    s = _sigmoid(gate)
    dx[:, :F] = dy * up * (s + gate * s * (1 - s))
    dx[:, F:] = dy * gate * s


def add(a, b, out, n_threads):
    """out = a + b."""
    np.add(a, b, out=out)


def _mix(z):
    """Mix the bits of z, with the 64-bit finaliser of csrc/activation.pyx."""
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return z ^ (z >> np.uint64(31))


def _draw(state, n):
    """Return number n of the random stream that starts at `state`."""
    return _mix(state + (n + np.uint64(1)) * np.uint64(0x9E3779B97F4A7C15))


def dropout(x, residual, out, rate, key, site, sequence, T, n_threads):
    """out = residual + x keep / (1 - rate), with keep drawn from (key, site, sequence, position, column)."""
    R, C = x.shape
    r = np.arange(R, dtype=np.uint64)
    with np.errstate(over="ignore"):  # arithmetic modulo 2^64 is intended
        state = _draw(_mix(np.array([key], np.uint64)), np.uint64(site))
        state = _draw(_draw(state, np.uint64(sequence) + r // np.uint64(max(1, T))), r % np.uint64(max(1, T)))
        bits = _draw(state[:, None], np.arange(C, dtype=np.uint64)) >> np.uint64(32)
    keep = bits >= np.uint64(int(rate * 2**32 + 0.5))
    out[...] = np.where(keep, x * np.float32(1 / (1 - rate)), np.float32(0))
    if residual is not None:
        out += residual


def _heads(x, H):
    """Expand (B, S, G, D) to (B, H, S, D): query heads of a group share one key/value head."""
    return np.repeat(x, H // x.shape[2], axis=2).transpose(0, 2, 1, 3)


def _scores(q, k, scale):
    """Compute the scores (B, H, T, S), with -inf for keys after the query."""
    T, S = q.shape[1], k.shape[1]
    s = np.float32(scale) * (q.transpose(0, 2, 1, 3) @ _heads(k, q.shape[2]).transpose(0, 1, 3, 2))
    s[..., np.arange(S) > np.arange(S - T, S)[:, None]] = -np.inf
    return s


@_with_blas
def attention(q, k, v, out, lse, weights, scale, n_threads):
    """out = softmax(scale q k^T) v under the causal mask, with the whole T x S matrix in memory."""
    if not q.size:
        return
    s = _scores(q, k, scale)
    largest = s.max(-1)
    lse[...] = largest + np.log(np.exp(s - largest[..., None]).sum(-1))
    p = np.exp(s - lse[..., None])
    out[...] = (p @ _heads(v, q.shape[2])).transpose(0, 2, 1, 3)
    if weights is not None:
        weights[...] = p


@_with_blas
def attention_backward(dout, q, k, v, out, lse, dq, dk, dv, scale, n_threads):
    """dq, dk, dv of the formula, with the whole T x S matrix in memory; heads of a group are summed at the end."""
    if not k.size:
        return
    B, S, G, D = k.shape
    H = q.shape[2]
    p = np.exp(_scores(q, k, scale) - lse[..., None])
    do = dout.transpose(0, 2, 1, 3)
    delta = (dout * out).sum(-1).transpose(0, 2, 1)
    ds = np.float32(scale) * p * (do @ _heads(v, H).transpose(0, 1, 3, 2) - delta[..., None])
    dq[...] = (ds @ _heads(k, H)).transpose(0, 2, 1, 3)

    def of_group(x):
        return x.reshape(B, G, H // G, S, D).sum(2).transpose(0, 2, 1, 3)

    dk[...] = of_group(ds.transpose(0, 1, 3, 2) @ q.transpose(0, 2, 1, 3))
    dv[...] = of_group(p.transpose(0, 1, 3, 2) @ do)


def cross_entropy(logits, targets, losses, lse, n_threads):
    """losses = log sum exp(logits) - logit of the target; 0 where the target is negative."""
    if not logits.size:
        return
    largest = logits.max(-1)
    lse[...] = largest + np.log(np.exp(logits - largest[:, None]).sum(-1))
    losses[...] = np.where(targets >= 0, lse - logits[np.arange(len(targets)), np.maximum(targets, 0)], 0)


def cross_entropy_backward(logits, targets, lse, dlogits, scale, n_threads):
    """dlogits = (softmax(logits) - onehot(targets)) scale; 0 where the target is negative."""
    np.exp(logits - lse[:, None], out=dlogits)
    dlogits[np.arange(len(targets)), np.maximum(targets, 0)] -= 1
    dlogits *= np.where(targets >= 0, np.float32(scale), np.float32(0))[:, None]


def embedding(tokens, table, positions, start, out, n_threads):
    """out = table[tokens] + positions[start:start + T]."""
    x = table[tokens]
    if positions is not None:
        x = x + positions[start : start + tokens.shape[1]]
    out[...] = x.reshape(out.shape)


def embedding_backward(dy, tokens, dtable, dpositions, start, accumulate, accumulate_positions, n_threads):
    """dtable[v] = sum of the rows of dy whose token is v; dpositions = sum of dy over the sequences."""
    if not accumulate:
        dtable[...] = 0
    np.add.at(dtable, tokens.reshape(-1), dy)
    if dpositions is not None:
        if not accumulate_positions:
            dpositions[...] = 0
        B, T = tokens.shape
        dpositions[start : start + T] += dy.reshape(B, T, dy.shape[1]).sum(0)


def rope(x, out, cos, sin, inverse, n_threads):
    """out = (x1 cos - x2 sin, x2 cos + x1 sin), where x1 and x2 are the halves of the last axis."""
    E = cos.shape[1]
    cos, sin = cos[:, None], (-sin if inverse else sin)[:, None]
    x1, x2 = x[..., :E].copy(), x[..., E:].copy()  # out may be x
    out[..., :E] = x1 * cos - x2 * sin
    out[..., E:] = x2 * cos + x1 * sin


def squared_norm(x, n_threads):
    """Return the sum of squares, in float64."""
    return float(np.square(x, dtype=np.float64).sum())


def adamw(param, grad, m, v, lr, beta1, beta2, eps, weight_decay, step, grad_scale, n_threads):
    """Update param, m and v in place by one step of AdamW (Loshchilov & Hutter 2019, algorithm 2)."""
    f = np.float32
    g = grad * f(grad_scale)
    m[...] = f(beta1) * m + f(1 - beta1) * g
    v[...] = f(beta2) * v + f(1 - beta2) * g * g
    param -= f(lr * weight_decay) * param
    param -= f(lr / (1 - beta1**step)) * m / (np.sqrt(v / f(1 - beta2**step)) + f(eps))


FUNCTIONS = {
    fn.__name__: fn
    for fn in (
        matmul,
        matmul_bfloat16,
        matmul_int8,
        column_sum,
        softmax,
        softmax_backward,
        layernorm,
        layernorm_backward,
        rmsnorm,
        rmsnorm_backward,
        gelu,
        gelu_backward,
        swiglu,
        swiglu_backward,
        add,
        dropout,
        attention,
        attention_backward,
        cross_entropy,
        cross_entropy_backward,
        embedding,
        embedding_backward,
        rope,
        squared_norm,
        adamw,
    )
}
