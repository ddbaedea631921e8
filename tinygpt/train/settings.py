"""All settings of a training run: the flags of `tinygpt train`, the keys of its config file, the fields of run.toml."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal, get_args, get_type_hints

from cyclopts import Parameter

from tinygpt.config import GPTConfig
from tinygpt.data.corpus import VALIDATION_FRACTION
from tinygpt.data.rules import parse_extensions
from tinygpt.kernels import registry

Target = Literal["qkv", "out", "up", "down"]
SEQ = 64  # tokens, of a model from scratch
# What --from takes from the model and its tokenizer.
SHAPE = ("layers", "embed", "heads", "kv_heads", "ffn", "rope", "rmsnorm", "swiglu", "bias", "tie", "tokenizer_type",
         "max_chars", "vocab_size", "pattern")  # fmt: skip
# Former names of settings, which files may still have.
RENAMED = {"held-out": "val-fraction"}
# Settings of one call and not of the run.
OF_A_CALL = ("resume", "config", "quiet", "metrics", "profile", "tensorboard", "watch", "watch_every")


@dataclass(kw_only=True)
class TrainSettings:
    """One field per flag; the text under a field is its help."""

    data: list[str] = field(default_factory=lambda: ["."])
    """Directories, files and globs to learn from."""
    out: str = "runs/tiny"
    """Directory to write: the model, metrics.jsonl, run.toml, checkpoints."""
    ext: str | None = None
    """Extensions to read in directories, as in .py,.go; a sensible set of source code by default."""
    val_fraction: Annotated[float, Parameter(alias="--held-out")] = VALIDATION_FRACTION
    """Share of the text in the validation split: whole files, or the end of a single one."""

    from_: str | None = None
    """Model directory to train further: its weights, shape and tokenizer are taken, and flags of these refused."""
    lora_rank: int | None = None
    """With --from: keep the weights and train low-rank adapters with so many columns, which takes far less memory."""
    lora_alpha: float | None = None
    """What the adapters learn is multiplied by alpha / rank; 2 x rank by default."""
    lora_targets: list[Target] | None = None
    """Layers of each block that have adapters: of attention qkv and out, of the MLP up and down; all by default."""

    layers: int = 2
    """Blocks."""
    embed: int = 64
    """Width of the model."""
    heads: int = 2
    """Attention heads; --embed must be a multiple."""
    seq: int | None = None
    """Context in tokens; 64 by default. With --from the length of sequences: 256 or the model's context, if shorter."""
    kv_heads: int | None = None
    """Key/value heads, fewer for grouped-query attention; as many as --heads by default."""
    ffn: int | None = None
    """Width inside the MLP; 4 x embed, with --swiglu 8/3 x embed up to a multiple of 64."""
    rope: bool = False
    """Rotary instead of learned positions."""
    rmsnorm: bool = False
    """RMS norm instead of layer norm."""
    swiglu: bool = False
    """SwiGLU instead of GELU."""
    bias: bool = True
    """Biases in linear layers and layer norms."""
    tie: bool = True
    """The output layer uses the token embedding."""
    dropout: float | None = None
    """Probability of dropping an element on the residual branches; 0 by default, with --from that of the model."""
    tokenizer_type: Literal["char", "bpe"] = "char"
    """Kind of tokenizer: one token per character, or byte pairs that are learnt from the training part."""
    max_chars: int = 1024
    """Of char: characters in the vocabulary at most; rarer ones are written as bytes."""
    vocab_size: int = 512
    """Of bpe: tokens in all, 256 bytes and a separator among them."""
    pattern: Literal["code", "gpt2", "gpt4", "qwen2", "smollm"] = "code"
    """Of bpe: what splits a text into words, which no token crosses; code keeps runs of spaces and tabs whole."""
    fim_rate: float = 0.0
    """Share of the training text that is rewritten for fill-in-the-middle; 0.5 is usual. See generate --prefix."""

    steps: int = 2000
    """Optimizer steps."""
    epochs: float | None = None
    """Passes over the training text, instead of --steps."""
    batch: int = 4
    """Sequences per forward pass."""
    grad_accum: int = 1
    """Forward passes per step; their gradients are averaged by tokens."""
    optimizer: Literal["adamw", "adam", "sgd"] = "adamw"
    """Optimizer; weight decay applies to adamw, momentum to sgd."""
    lr: float | None = None
    """Highest learning rate; by default 0.2 / width of the model, with --from 0.06 / width, with adapters 0.6."""
    min_lr: float | None = None
    """Learning rate at the end; a tenth of --lr by default."""
    warmup: int = 100
    """Steps until the learning rate is highest; at most a tenth of the run."""
    schedule: Literal["cosine", "linear", "constant"] = "cosine"
    """Way of the learning rate after warm-up."""
    betas: tuple[float, float] = (0.9, 0.95)
    """Decay of Adam's two running means."""
    weight_decay: float = 0.1
    """Of matrices and embeddings."""
    momentum: float = 0.9
    """Of sgd."""
    clip: float = 1.0
    """Largest norm of the gradient; 0 turns clipping off."""
    seed: int = 0
    """Of initial weights, split, order of the data and dropout."""

    eval_every: int = 200
    """Steps between evaluations on the validation split."""
    eval_tokens: int = 32768
    """Tokens per evaluation during the run; 0 takes all. The final one always takes all."""
    checkpoint_every: int = 500
    """Steps between checkpoints; the last two are kept."""
    samples: int = 3
    """Texts to print at the end."""
    sample_length: int = 200
    """Tokens in each."""
    metrics: str | None = None
    """Write a page of loss, learning rate, gradient and speed to this HTML file, again and again (extra: viz)."""
    tensorboard: str | None = None
    """Write the same figures for TensorBoard into this directory (extra: tensorboard)."""
    watch: str | None = None
    """Look at some of weights,gradients,activations of every layer now and then: watch.jsonl, and the page."""
    watch_every: int | None = None
    """Of --watch: steps between two looks; by default a hundredth of the run."""

    recompute: bool = False
    """Compute every block again for its gradient instead of keeping it: less memory, up to a third more time."""
    kernels: str | None = None
    """Rung of the kernels, as in blocked or blocked,softmax=naive."""
    precision: Literal["float32", "bfloat16"] = "float32"
    """Of the operands of products."""
    threads: int | Literal["auto"] = "auto"
    """Number of threads; auto: all cores that the machine grants, fewer while other programs use them."""
    resume: bool = False
    """Go on from the last checkpoint in --out, with its settings; flags given now override them."""
    config: str | None = None
    """TOML file with any of these settings; flags override it."""
    profile: bool = False
    """Print at the end what each kernel took of the steps, all but the first."""
    quiet: bool = False
    """Print errors only."""

    @property
    def length(self) -> int:
        """Tokens in a sequence."""
        return self.seq or SEQ

    @property
    def peak_lr(self) -> float:
        """The highest learning rate.

        By default in inverse proportion to the width: then the best rate of Adam moves least between models of
        different width (Yang et al. 2022, Tensor Programs V).
        """
        return 0.2 / self.embed if self.lr is None else self.lr

    def validate(self) -> None:
        """Raise ValueError, naming the flag, for a value out of range."""
        positive = ("layers", "embed", "heads", "seq", "batch", "grad_accum", "eval_every", "checkpoint_every")
        for name in (*positive, "kv_heads", "ffn", "max_chars", "lora_rank", "watch_every"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"{flag(name)} must be at least 1, got {value}")
        for name in ("steps", "warmup", "eval_tokens", "samples", "sample_length", "seed"):
            if getattr(self, name) < (name == "steps"):
                raise ValueError(f"{flag(name)} must be at least {int(name == 'steps')}, got {getattr(self, name)}")
        for name in ("lr", "weight_decay", "clip", "min_lr"):
            value = getattr(self, name)
            if value is not None and not (math.isfinite(value) and value >= 0):
                raise ValueError(f"{flag(name)} must be 0 or more, got {value}")
        if self.threads != "auto" and not (isinstance(self.threads, int) and self.threads >= 1):
            raise ValueError(f"--threads must be at least 1, got {self.threads}")
        if self.epochs is not None and not (math.isfinite(self.epochs) and self.epochs > 0):
            raise ValueError(f"--epochs must be more than 0, got {self.epochs}")
        if not 0 <= self.fim_rate <= 1:
            raise ValueError(f"--fim-rate must be at least 0 and at most 1, got {self.fim_rate}")
        if not 0 < self.val_fraction < 1:
            raise ValueError(f"--val-fraction must be more than 0 and less than 1, got {self.val_fraction}")
        fractions = [("dropout", self.dropout or 0.0), ("momentum", self.momentum)]
        fractions += [("betas", beta) for beta in self.betas]
        for name, value in fractions:
            if not 0 <= value < 1:
                raise ValueError(f"{flag(name)} must be at least 0 and less than 1, got {value}")
        if not self.data:
            raise ValueError("--data must name at least one file or directory")
        hints = get_type_hints(type(self))
        for name in ("tokenizer_type", "pattern", "optimizer", "schedule", "precision"):
            choices = get_args(hints[name])
            if getattr(self, name) not in choices:
                raise ValueError(f"{flag(name)} must be one of {', '.join(choices)}, got '{getattr(self, name)}'")
        if self.vocab_size < 257:
            raise ValueError(f"--vocab-size must be at least 257 (all bytes and a separator), got {self.vocab_size}")
        if self.ext is not None:
            try:
                parse_extensions(self.ext)
            except ValueError as error:
                raise ValueError(f"--ext: {error}") from None
        if self.watch is not None:
            from tinygpt.train.watch import kinds_of  # the model and all below it, which help does not need

            kinds_of(self.watch)
        if self.watch_every is not None and self.watch is None:
            raise ValueError("--watch-every needs --watch")
        self._validate_shape()
        self._validate_from()

    def _validate_from(self) -> None:
        for name in SHAPE if self.from_ is not None else ():
            if getattr(self, name) != type(self).__dataclass_fields__[name].default:
                raise ValueError(refused_with_from(name))
        if self.lora_rank is not None and self.from_ is None:
            raise ValueError("--lora-rank needs --from: adapters learn what is to be changed in a model that is there")
        for name in ("lora_alpha", "lora_targets"):
            if getattr(self, name) is not None and self.lora_rank is None:
                raise ValueError(f"{flag(name)} needs --lora-rank")
        if self.lora_alpha is not None and not (math.isfinite(self.lora_alpha) and self.lora_alpha > 0):
            raise ValueError(f"--lora-alpha must be more than 0, got {self.lora_alpha}")
        targets = get_args(Target)
        if self.lora_targets is not None and not (self.lora_targets and set(self.lora_targets) <= set(targets)):
            raise ValueError(f"--lora-targets must be among {', '.join(targets)}, got {' '.join(self.lora_targets)}")

    def _validate_shape(self) -> None:
        if self.embed % self.heads:
            raise ValueError(f"--embed {self.embed} must be a multiple of --heads {self.heads}")
        if self.kv_heads is not None and self.heads % self.kv_heads:
            raise ValueError(f"--heads {self.heads} must be a multiple of --kv-heads {self.kv_heads}")
        if self.rope and self.embed // self.heads % 2:
            raise ValueError(f"--embed / --heads must be even with --rope, got {self.embed // self.heads}")

    def model_config(self, vocab_size: int) -> GPTConfig:
        """The model that these settings describe."""
        return GPTConfig(
            vocab_size=vocab_size,
            block_size=self.length,
            n_layer=self.layers,
            n_head=self.heads,
            n_embd=self.embed,
            n_kv_head=self.kv_heads,
            ffn_dim=self.ffn,
            position="rope" if self.rope else "learned",
            norm="rmsnorm" if self.rmsnorm else "layernorm",
            activation="swiglu" if self.swiglu else "gelu",
            bias=self.bias,
            tie_embeddings=self.tie,
            dropout=self.dropout or 0.0,
        )

    def table(self) -> dict[str, Any]:
        """The settings as a TOML table under the names of the flags; what belongs to one call only is left out."""
        settings = {key(name): value for name, value in asdict(self).items() if value is not None}
        of_the_model = SHAPE if self.from_ is not None else ()
        for name in (*OF_A_CALL, *of_the_model, *(["steps"] if self.epochs is not None else [])):
            settings.pop(key(name), None)
        settings["betas"] = list(settings["betas"])
        # The run may go on from another folder.
        settings["data"] = [str(Path(one).expanduser().absolute()) for one in settings["data"]]
        if self.from_ is not None:
            settings["from"] = str(Path(self.from_).expanduser().absolute())
        return settings


def key(name: str) -> str:
    """The key of a field in a TOML table; `from_`, which Python cannot have without its last character, is from."""
    return name.strip("_").replace("_", "-")


def current(table: dict[str, Any]) -> dict[str, Any]:
    """A TOML table with former names of settings replaced by those of today."""
    return {RENAMED.get(key(name), name): value for name, value in table.items()}


def flag(name: str) -> str:
    """The flag of a field."""
    return "--" + key(name)


def refused_with_from(name: str) -> str:
    """Why a flag of the shape cannot be given together with --from."""
    return f"{flag(name)} cannot be given with --from: the model has its own shape and tokenizer"


def use_kernels(text: str) -> registry.Choice:
    """Choose the kernels that ``--kernels`` names; an error names the flag."""
    try:
        return registry.use_text(text)
    except ValueError as error:
        raise ValueError(f"--kernels: {str(error).removeprefix('[kernels] ')}") from None
