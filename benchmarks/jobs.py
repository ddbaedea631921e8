"""The jobs measured against other libraries: models, shapes and costs. Nothing here computes or is compiled.

Operations are counted from the formulas: two for every weight and token, and four for every query, key and element of a
head, of which the causal mask leaves half. Backward has twice as many (Kaplan et al. 2020, section 2.1).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

Task = dict[str, Any]

WORD = 4  # bytes of a float32
UPDATE = 7 * WORD  # bytes that AdamW moves per parameter: reads four arrays, writes three


@dataclass(frozen=True)
class Model:
    """A GPT-2-style model with biases and a tied head, and the shape of its training batch."""

    vocab: int
    context: int
    layers: int
    heads: int
    width: int
    batch: int
    length: int

    @property
    def tokens(self) -> int:
        """Return the number of tokens in one step."""
        return self.batch * self.length

    def shapes(self) -> Iterator[tuple[str, tuple[int, ...]]]:
        """Yield name and shape of every parameter; matrices are (out, in), as in tinygpt."""
        C = self.width
        yield "wte.weight", (self.vocab, C)
        yield "wpe.weight", (self.context, C)
        for i in range(self.layers):
            yield from _vectors(f"blocks.{i}.norm1", C)
            yield from _linear(f"blocks.{i}.attn.qkv", 3 * C, C)
            yield from _linear(f"blocks.{i}.attn.out", C, C)
            yield from _vectors(f"blocks.{i}.norm2", C)
            yield from _linear(f"blocks.{i}.mlp.up", 4 * C, C)
            yield from _linear(f"blocks.{i}.mlp.down", C, 4 * C)
        yield from _vectors("norm", C)

    def parameters(self) -> int:
        """Return the number of parameters."""
        return sum(shape[0] * (shape[1] if len(shape) > 1 else 1) for _, shape in self.shapes())

    def multiplying(self) -> int:
        """Return the number of weights in matrix products: those of the blocks and of the head."""
        return 12 * self.layers * self.width**2 + self.vocab * self.width

    def layer_products(self) -> Iterator[tuple[str, int, int]]:
        """List the linear layers of a block: name, outputs, inputs."""
        C = self.width
        yield from (("qkv", 3 * C, C), ("out", C, C), ("up", 4 * C, C), ("down", C, 4 * C), ("head", self.vocab, C))

    def forward_flops(self, head_rows: int | None = None) -> int:
        """Count the operations of the matrix products in one forward pass; the head may act on fewer rows."""
        pairs = self.batch * self.length * (self.length + 1) // 2
        rows = self.tokens if head_rows is None else head_rows
        blocks = 12 * self.layers * self.width**2 * self.tokens
        return 2 * (blocks + self.vocab * self.width * rows) + 4 * self.layers * self.width * pairs

    def step_flops(self) -> int:
        """Count the operations of the matrix products in one training step."""
        return 3 * self.forward_flops()


def _vectors(name: str, width: int) -> Iterator[tuple[str, tuple[int, ...]]]:
    yield f"{name}.weight", (width,)
    yield f"{name}.bias", (width,)


def _linear(name: str, out: int, width: int) -> Iterator[tuple[str, tuple[int, ...]]]:
    yield f"{name}.weight", (out, width)
    yield f"{name}.bias", (out,)


MODELS = {
    "tiny": Model(259, 64, 2, 2, 64, 4, 64),
    "small": Model(65, 64, 4, 4, 128, 12, 64),
    "medium": Model(65, 256, 6, 6, 384, 16, 256),
    "gpt2": Model(50257, 1024, 12, 12, 768, 4, 64),
}
LENGTHS = (64, 256, 1024)  # lengths of the sequences of one model; every step has the same number of tokens
LENGTH_TOKENS = 1024


@dataclass(frozen=True)
class Job:
    """One task from end to end, and the contenders that run it."""

    name: str
    kind: str  # train, decode or prefill
    model: Model
    contenders: tuple[str, ...]
    new_tokens: int = 0  # tokens to decode

    def task(self, seconds: float) -> Task:
        """Return the task that a worker builds; a repetition lasts at least `seconds`."""
        return {"kind": self.kind, "model": asdict(self.model), "new_tokens": self.new_tokens, "seconds": seconds}

    def tokens(self) -> int:
        """Count the tokens of one repetition: trained on, read or generated."""
        return self.model.batch * self.new_tokens if self.kind == "decode" else self.model.tokens

    def flops(self) -> int:
        """Count the operations of the matrix products in one repetition."""
        if self.kind == "train":
            return self.model.step_flops()
        if self.kind == "prefill":
            return self.model.forward_flops(head_rows=self.model.batch)
        return 2 * self.model.multiplying() * self.tokens()

    def bytes(self) -> int:
        """Count the fewest bytes that one repetition moves, with no weights in a cache.

        Training: what AdamW reads and writes. Decoding: every weight that multiplies, once for each step.
        """
        if self.kind == "train":
            return UPDATE * self.model.parameters()
        return WORD * self.model.multiplying() * max(1, self.new_tokens)


TRAIN = ("tinygpt", "tinygpt numpy", "torch", "jax")
DECODE = ("tinygpt", "tinygpt numpy", "transformers")


def _resized(model: Model, batch: int, length: int) -> Model:
    return Model(model.vocab, max(model.context, length), model.layers, model.heads, model.width, batch, length)


def _all() -> Iterator[Job]:
    for name, model in MODELS.items():
        more = ("tinygpt bfloat16", "torch bfloat16") if name == "gpt2" else ()
        yield Job(f"train-{name}", "train", model, TRAIN + more)
    for length in LENGTHS:
        model = _resized(MODELS["small"], LENGTH_TOKENS // length, length)
        yield Job(f"length-{length}", "train", model, ("tinygpt", "torch"))
    yield Job("decode-tiny", "decode", _resized(MODELS["tiny"], 1, 8), DECODE, 48)
    yield Job("decode-gpt2", "decode", _resized(MODELS["gpt2"], 1, 32), DECODE, 16)
    yield Job("decode-gpt2-batch-8", "decode", _resized(MODELS["gpt2"], 8, 32), DECODE, 16)
    yield Job("prefill-gpt2", "prefill", _resized(MODELS["gpt2"], 1, 512), DECODE)


JOBS = {job.name: job for job in _all()}

# Tolerances of numbers that should be equal; bfloat16 has 8 bits.
LOSS = {"float32": (1e-3, 1e-2), "bfloat16": (1e-2, 5e-2)}  # for the first loss, and for the loss after one update
LOGITS = 1e-3  # relative to the largest logit


def precision(contender: str) -> str:
    """Return the precision of the operands of a contender's products."""
    return "bfloat16" if "bfloat16" in contender else "float32"


ROWS = (1, 16, 256, 768, 4096)
LARGE_VOCABULARY, MOST_LARGE_ROWS = 50257, 256
SQUARES = (512, 1024, 2048)
PRODUCT_CONTENDERS = (
    "tinygpt", "numpy", "torch", "torch onednn", "tinygpt bfloat16", "torch bfloat16", "torch bfloat16 from float32"
)  # fmt: skip


def products() -> list[Task]:
    """List the matrix products of forward, dX and dW in the linear layers of all models, each shape once.

    Notes
    -----
    With x (M, in), W (out, in), dy (M, out): forward is x W^T (NT), dX is dy W (NN), dW is dy^T x (TN).
    """
    found: dict[tuple[Any, ...], Task] = {}
    for name, model in MODELS.items():
        for layer, out, width in model.layer_products():
            for rows in ROWS:
                if out == LARGE_VOCABULARY and rows > MOST_LARGE_ROWS:
                    continue
                cases = {"NT": (rows, width, out), "NN": (rows, out, width), "TN": (out, rows, width)}
                for case, sizes in cases.items():
                    found.setdefault((case, *sizes), product(case, *sizes, f"{name} {layer}", rows))
    return list(found.values())


def product(case: str, M: int, K: int, N: int, layer: str, rows: int) -> Task:
    """Describe (M, K) times (K, N); `case` has N or T for each operand: stored as it is, or transposed."""
    sizes = {"case": case, "M": M, "K": K, "N": N, "layer": layer, "rows": rows}
    return {"kind": "product", **sizes, "flops": 2 * M * K * N}


def squares() -> list[Task]:
    """List square products, for the share of the peak."""
    return [product("NN", n, n, n, "square", n) for n in SQUARES]


ATTENTION_CONTENDERS = ("tinygpt", "torch")
ATTENTION_WORK = 2**28  # query-key pairs times head width
FEWEST_HEADS, MOST_HEADS = 4, 64  # at least 4, so that each thread has work


def attentions() -> list[Task]:
    """List tasks of causal attention, forward and backward; longer sequences have fewer batches and heads."""
    tasks = []
    for T in (64, 256, 1024, 4096):
        for D in (32, 64, 128):
            heads = max(FEWEST_HEADS, min(MOST_HEADS, ATTENTION_WORK // (T * T // 2 * D)))
            batch = max(1, heads // 8)
            sizes = {"B": batch, "T": T, "H": heads // batch, "D": D}
            pairs = sizes["B"] * sizes["H"] * T * (T + 1) // 2
            tasks.append({"kind": "attention", **sizes, "flops": 12 * pairs * D})
    return tasks


ROWWISE_CONTENDERS = ("tinygpt",)
ROWWISE = (
    "add", "gelu", "gelu_backward", "swiglu", "swiglu_backward", "dropout", "softmax", "softmax_backward", "layernorm",
    "layernorm_backward", "rmsnorm", "rmsnorm_backward", "cross_entropy", "cross_entropy_backward", "column_sum",
    "squared_norm", "adamw",
)  # fmt: skip
ROWWISE_WIDTH = 1024


def rowwise(megabytes: int = 64) -> list[Task]:
    """List ops that use each number once, on arrays of `megabytes` each."""
    rows = megabytes * 2**20 // (WORD * ROWWISE_WIDTH)
    return [{"kind": "rowwise", "op": op, "R": rows, "C": ROWWISE_WIDTH} for op in ROWWISE]
