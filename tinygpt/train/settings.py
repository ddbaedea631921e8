"""Settings of a training run: the flags of `tinygpt train`, the keys of its config file and of run.toml.

They form six groups (corpus, model, optimisation, output, machine, distributed), one dataclass each. Flags and
keys are flat: a field `grad_accum` of any group is the flag --grad-accum and the key grad-accum. The text under a field
is its help.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Annotated, Any, Literal, get_args, get_type_hints

from cyclopts import Group, Parameter

from tinygpt.config import GPTConfig
from tinygpt.data.corpus import VALIDATION_FRACTION
from tinygpt.data.rules import parse_extensions
from tinygpt.train.pace import interval

Target = Literal["qkv", "out", "up", "down"]
RATE, MUON_RATE = 0.2, 0.8  # peak learning rate times width; docs/data/optimizers.json has the rates that were tried
SEQ = 64  # tokens; context of a model from scratch
# Settings that a model given with 'from' brings along: its shape and its tokenizer.
SHAPE = ("layers", "embed", "heads", "kv_heads", "ffn", "rope", "rmsnorm", "swiglu", "bias", "tie", "tokenizer_type",
         "max_chars", "vocab_size", "pattern")  # fmt: skip
# Settings of one call, which run.toml does not keep.
OF_A_CALL = ("resume", "config", "quiet", "max_minutes")
# Paths outside of the run directory that a run writes to. Another run with the same settings must not write there.
PLACES = ("metrics", "tensorboard")
# Former names of settings, which files may still have.
RENAMED = {"held-out": "val-fraction"}


@dataclass(kw_only=True)
class CorpusSettings:
    """Text to learn from, its validation split and its tokenizer."""

    data: list[str] = field(default_factory=lambda: ["."])
    """Directories, files and globs to train on."""
    ext: str | None = None
    """Extensions to read in directories, as in .py,.go. Default: source code of common languages."""
    val_fraction: Annotated[float, Parameter(alias="--held-out")] = VALIDATION_FRACTION
    """Fraction of the text in the validation split: whole files, or the end of a single file."""
    tokenizer_type: Literal["char", "bpe"] = "char"
    """Tokenizer: one token per character, or byte-pair encoding learned from the training split; GGUF needs bpe."""
    max_chars: int = 1024
    """Largest number of characters in the vocabulary of --tokenizer-type char; rarer ones are written as bytes."""
    vocab_size: int = 512
    """Vocabulary of --tokenizer-type bpe in tokens, including 256 bytes and a separator."""
    pattern: Literal["code", "gpt2", "gpt4", "qwen2", "smollm"] = "gpt2"
    """Pre-tokenizer of bpe: splits text into words that no token crosses; code keeps indentation whole, has no GGUF."""
    fim_rate: float = 0.0
    """Fraction of the training text rewritten for fill-in-the-middle; 0.5 is usual. See generate --prefix."""

    def validate(self) -> None:
        """Raise ValueError, naming the argument, for a value out of range."""
        if not self.data:
            raise ValueError("[train] 'data' must name at least one file or directory")
        if self.ext is not None:
            try:
                parse_extensions(self.ext)
            except ValueError as error:
                raise ValueError(f"[train] 'ext': {error}") from None
        if not 0 < self.val_fraction < 1:
            raise ValueError(f"[train] 'val_fraction' must be more than 0 and less than 1, got {self.val_fraction}")
        _at_least(self, 1, "max_chars")
        if self.vocab_size < 257:
            raise ValueError(
                f"[train] 'vocab_size' must be at least 257 (256 bytes and a separator), got {self.vocab_size}"
            )
        if not 0 <= self.fim_rate <= 1:
            raise ValueError(f"[train] 'fim_rate' must be at least 0 and at most 1, got {self.fim_rate}")
        _among_choices(self, "tokenizer_type", "pattern")


@dataclass(kw_only=True)
class ModelSettings:
    """Shape of a model from scratch, or the model to train further and its adapters."""

    from_: str | None = None
    """Model directory to train further. Its weights, shape and tokenizer are used; flags for these are refused."""
    lora_rank: int | None = None
    """Train low-rank adapters of this rank and freeze the weights of --from, which takes far less memory."""
    lora_alpha: float | None = None
    """Scale of the adapters: their output is multiplied by alpha / rank. Default: 2 x rank."""
    lora_targets: list[Target] | None = None
    """Layers of each block that get adapters: qkv and out of attention, up and down of the MLP. Default: all."""
    layers: int = 2
    """Number of transformer blocks."""
    embed: int = 64
    """Width of the residual stream; must be a multiple of --heads."""
    heads: int = 2
    """Number of attention heads."""
    seq: int | None = None
    """Context in tokens. Default: 64; with --from, 256 or the model's context if that is shorter."""
    kv_heads: int | None = None
    """Number of key/value heads; fewer than --heads means grouped-query attention. Default: --heads."""
    ffn: int | None = None
    """Width of the MLP. Default: 4 x embed; with --swiglu, 8/3 x embed rounded up to a multiple of 64."""
    rope: bool = False
    """Use rotary positions instead of learned ones."""
    rmsnorm: bool = False
    """Use RMSNorm instead of LayerNorm."""
    swiglu: bool = False
    """Use SwiGLU instead of GELU."""
    bias: bool = True
    """Use biases in linear layers and LayerNorm."""
    tie: bool = True
    """Share the token embedding with the output layer."""
    dropout: float | None = None
    """Dropout probability on embeddings and residual branches. Default: 0; with --from, that of the model."""

    @property
    def length(self) -> int:
        """Tokens in a training sequence."""
        return self.seq or SEQ

    def validate(self) -> None:
        """Raise ValueError, naming the argument, for a value out of range or values that do not fit together."""
        _at_least(self, 1, "layers", "embed", "heads", "seq", "kv_heads", "ffn", "lora_rank")
        _below_one(self, "dropout")
        if self.embed % self.heads:
            raise ValueError(f"[train] 'embed' {self.embed} must be a multiple of 'heads' {self.heads}")
        if self.kv_heads is not None and self.heads % self.kv_heads:
            raise ValueError(f"[train] 'heads' {self.heads} must be a multiple of 'kv_heads' {self.kv_heads}")
        if self.rope and self.embed // self.heads % 2:
            raise ValueError(f"[train] 'embed' / 'heads' must be even with 'rope', got {self.embed // self.heads}")
        if self.lora_rank is not None and self.from_ is None:
            raise ValueError("[train] 'lora_rank' needs 'from': adapters change a model that is already trained")
        for name in ("lora_alpha", "lora_targets"):
            if getattr(self, name) is not None and self.lora_rank is None:
                raise ValueError(f"[train] '{name}' needs 'lora_rank'")
        if self.lora_alpha is not None and not (math.isfinite(self.lora_alpha) and self.lora_alpha > 0):
            raise ValueError(f"[train] 'lora_alpha' must be more than 0, got {self.lora_alpha}")
        targets = get_args(Target)
        if self.lora_targets is not None and not (self.lora_targets and set(self.lora_targets) <= set(targets)):
            given = " ".join(self.lora_targets) or "none"
            raise ValueError(f"[train] 'lora_targets' must be among {', '.join(targets)}, got {given}")

    def config(self, vocab_size: int) -> GPTConfig:
        """Return the config of a model from scratch with this vocabulary."""
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


@dataclass(kw_only=True)
class OptimisationSettings:
    """Length of the run, batches, optimizer and learning rate."""

    steps: int = 2000
    """Number of optimizer steps."""
    epochs: float | None = None
    """Passes over the training split, instead of --steps."""
    tokens: int | None = None
    """Number of tokens to train on, instead of --steps; rounded up to whole steps."""
    batch: int = 4
    """Number of sequences in each forward pass."""
    grad_accum: int = 1
    """Number of forward passes per step; their gradients are averaged."""
    optimizer: Literal["adamw", "muon", "adam", "sgd"] = "adamw"
    """Optimizer; --weight-decay applies to adamw and muon, --momentum to sgd. Muon orthogonalises updates of layers."""
    lr: float | None = None
    """Peak learning rate. Default: 0.2/width from scratch (muon: 0.8), 0.06/width with --from, 0.6/width with LoRA."""
    min_lr: float | None = None
    """Learning rate at the end of the run. Default: a tenth of --lr."""
    warmup: int = 100
    """Steps until the learning rate reaches its peak, at most a tenth of the run."""
    schedule: Literal["cosine", "linear", "wsd", "constant"] = "cosine"
    """Learning-rate schedule after warm-up; wsd stays at the peak and falls in the last part of the run."""
    decay: float = 0.2
    """Fraction of the run in which the learning rate falls; used only with --schedule wsd."""
    betas: tuple[float, float] = (0.9, 0.95)
    """Decay rates of Adam's two moment estimates."""
    weight_decay: float = 0.1
    """Weight decay of matrices and embeddings; used only with --optimizer adamw."""
    momentum: float = 0.9
    """Momentum; used only with --optimizer sgd."""
    clip: float = 1.0
    """Largest gradient norm, above which gradients are scaled down; 0 turns clipping off."""
    ema: float | None = None
    """Decay of an average of the weights, as in 0.999, which is evaluated and saved instead of them. Default: none."""
    spike_sigma: float | None = None
    """Skip the update of a step whose loss is this many standard deviations above recent ones. Default: none."""
    overfit_one_batch: bool = False
    """Train on the first batch only: a correct model learns it by heart, so its training loss must approach 0."""
    seed: int = 0
    """Random seed for initial weights, validation split, data order and dropout."""

    def validate(self) -> None:
        """Raise ValueError, naming the argument, for a value out of range."""
        _at_least(self, 1, "steps", "tokens", "batch", "grad_accum")
        _at_least(self, 0, "warmup", "seed")
        for name in ("lr", "min_lr", "weight_decay", "clip"):
            value = getattr(self, name)
            if value is not None and not (math.isfinite(value) and value >= 0):
                raise ValueError(f"[train] '{name}' must be 0 or more, got {value}")
        if self.epochs is not None and not (math.isfinite(self.epochs) and self.epochs > 0):
            raise ValueError(f"[train] 'epochs' must be more than 0, got {self.epochs}")
        if not 0 < self.decay <= 1:
            raise ValueError(f"[train] 'decay' must be more than 0 and at most 1, got {self.decay}")
        if self.spike_sigma is not None and not (math.isfinite(self.spike_sigma) and self.spike_sigma > 0):
            raise ValueError(f"[train] 'spike_sigma' must be more than 0, got {self.spike_sigma}")
        _below_one(self, "momentum", "betas", "ema")
        _among_choices(self, "optimizer", "schedule")


@dataclass(kw_only=True)
class OutputSettings:
    """Run directory, evaluation, checkpoints, samples and all other outputs of a run."""

    out: str = "runs/tiny"
    """Run directory to write: the model, metrics.jsonl, run.toml, checkpoints."""
    resume: bool = False
    """Resume from the newest checkpoint in --out. Its settings apply unless a flag overrides them."""
    config: str | None = None
    """TOML file with any of these settings; flags override it."""
    eval_every: int = 200
    """Steps between evaluations on the validation split."""
    eval_tokens: int = 32768
    """Tokens per evaluation during the run; 0 means all. The final evaluation always uses all."""
    checkpoint_every: int | str = 500
    """Steps between checkpoints, or a time between them such as 90s, 10m or 2h."""
    keep: int = 2
    """Number of checkpoints to keep: the newest ones."""
    keep_best: bool = False
    """Write a checkpoint at every best validation loss, and keep the best one besides the newest."""
    max_minutes: float | None = None
    """Stop after this many minutes with everything saved; --resume continues. Default: no limit."""
    log_every: int = 1
    """Steps between two records of a step in metrics.jsonl, the page and TensorBoard."""
    samples: int = 3
    """Number of texts to generate at the end."""
    sample_length: int = 200
    """Tokens in each generated text."""
    metrics: str | None = None
    """Write a page of loss, learning rate, gradient norm and speed to this HTML file as the run goes (extra: viz)."""
    tensorboard: str | None = None
    """Write the same figures for TensorBoard into this directory (extra: tensorboard)."""
    watch: str | None = None
    """Record statistics of weights,gradients,activations (or some of these) of every layer in watch.jsonl."""
    watch_every: int | None = None
    """Steps between two records of --watch. Default: a hundredth of the run, or more, so that they cost at most 3 %."""
    profile: bool = False
    """Print the time of each kernel at the end, measured over all steps but the first."""
    quiet: bool = False
    """Print errors only."""

    def validate(self) -> None:
        """Raise ValueError, naming the argument, for a value out of range."""
        _at_least(self, 1, "eval_every", "keep", "log_every", "watch_every")
        _at_least(self, 0, "eval_tokens", "samples", "sample_length")
        interval(self.checkpoint_every)
        if self.max_minutes is not None and not (math.isfinite(self.max_minutes) and self.max_minutes > 0):
            raise ValueError(f"[train] 'max_minutes' must be more than 0, got {self.max_minutes}")
        if self.watch is not None:
            from tinygpt.train.watch import kinds_of  # imports the model, which --help does not need

            kinds_of(self.watch)
        if self.watch_every is not None and self.watch is None:
            raise ValueError("[train] 'watch_every' needs 'watch'")


@dataclass(kw_only=True)
class MachineSettings:
    """Kernels, threads, precision and memory."""

    kernels: str | None = None
    """Rung of the kernels, as in blocked or blocked,softmax=naive. Default: the fastest."""
    threads: int | Literal["auto"] = "auto"
    """Number of threads; auto: all cores that this process may use, fewer while other programs are busy."""
    precision: Literal["float32", "bfloat16"] = "float32"
    """Precision of matmul operands; sums and memory stay float32."""
    recompute: bool = False
    """Recompute every block's activations in backward instead of keeping them: less memory, up to a third more time."""

    def validate(self) -> None:
        """Raise ValueError, naming the argument, for a value out of range."""
        if self.threads != "auto" and not (isinstance(self.threads, int) and self.threads >= 1):
            raise ValueError(f"[train] 'threads' must be at least 1 or auto, got {self.threads}")
        _among_choices(self, "precision")


@dataclass(kw_only=True)
class DistributedSettings:
    """Data parallel training: how the processes that mpiexec started work together."""

    shard_optimizer: bool = False
    """Keep each optimizer moment on one rank only: less memory per rank, and the same bytes sent."""
    deterministic_reduce: bool = False
    """Compute gradients one sequence at a time and add them in a fixed order: the same bits for any number of ranks."""
    compress: Literal["none", "bf16"] = "none"
    """Send gradients as bfloat16 with error feedback, which halves the bytes."""
    sync_every: int = 1
    """Steps that every rank trains alone between two averages of the weights (DiLoCo). 1: average every gradient."""
    outer_lr: float = 0.7
    """Learning rate of the average change of the weights; used only with --sync-every."""
    outer_momentum: float = 0.7
    """Nesterov momentum of the average change; used only with --sync-every."""

    def validate(self) -> None:
        """Raise ValueError, naming the argument, for a value out of range or ways that exclude each other."""
        _at_least(self, 1, "sync_every")
        _below_one(self, "outer_momentum")
        _among_choices(self, "compress")
        if not (math.isfinite(self.outer_lr) and self.outer_lr > 0):
            raise ValueError(f"[train] 'outer_lr' must be more than 0, got {self.outer_lr}")
        ways = {
            "shard_optimizer": self.shard_optimizer,
            "deterministic_reduce": self.deterministic_reduce,
            "compress": self.compress != "none",
            "sync_every": self.sync_every > 1,
        }
        chosen = [name for name, wanted in ways.items() if wanted]
        if len(chosen) > 1:
            raise ValueError(f"[train] '{chosen[0]}' cannot be combined with '{chosen[1]}'")


def _group(name: str, place: int) -> Parameter:
    """Return the group under which the help lists the flags of a dataclass."""
    return Parameter(name="*", group=Group(name, sort_key=place))


@dataclass(init=False)
class TrainSettings:
    """All settings of a run, in six groups.

    Parameters
    ----------
    corpus : CorpusSettings
    model : ModelSettings
    optimisation : OptimisationSettings
    output : OutputSettings
    machine : MachineSettings
    distributed : DistributedSettings
    **flat
        Settings of any group by their own name, as in ``TrainSettings(data=["src"], layers=4)``.
    """

    corpus: Annotated[CorpusSettings, _group("Data", 1)] = field(default_factory=CorpusSettings)
    model: Annotated[ModelSettings, _group("Model", 2)] = field(default_factory=ModelSettings)
    optimisation: Annotated[OptimisationSettings, _group("Optimisation", 3)] = field(
        default_factory=OptimisationSettings
    )
    output: Annotated[OutputSettings, _group("Evaluation and output", 4)] = field(default_factory=OutputSettings)
    machine: Annotated[MachineSettings, _group("Computing", 5)] = field(default_factory=MachineSettings)
    distributed: Annotated[DistributedSettings, _group("Several processes", 6)] = field(
        default_factory=DistributedSettings
    )

    def __init__(self, **given: Any):
        for group, kind in KINDS.items():
            setattr(self, group, given.pop(group) if group in given else kind())
        for name, value in given.items():
            if name not in GROUPS:
                raise TypeError(f"[TrainSettings] unknown setting '{name}'")
            setattr(getattr(self, GROUPS[name]), name, value)

    def replace(self, **changes: Any) -> TrainSettings:
        """Return a copy in which some settings, by their own name, have other values."""
        return TrainSettings(**{group: replace(getattr(self, group)) for group in KINDS}, **changes)

    def flat(self) -> dict[str, Any]:
        """Return every setting by its own name."""
        return {name: value for group in KINDS for name, value in asdict(getattr(self, group)).items()}

    @property
    def peak_lr(self) -> float:
        """The peak learning rate.

        By default it is inversely proportional to the width, because then Adam's best rate changes least between models
        of different width (Yang et al. 2022, Tensor Programs V).
        """
        if self.optimisation.lr is not None:
            return self.optimisation.lr
        return (MUON_RATE if self.optimisation.optimizer == "muon" else RATE) / self.model.embed

    @property
    def sequences_per_step(self) -> int:
        """Sequences that one optimizer step learns from."""
        return self.optimisation.batch * self.optimisation.grad_accum

    def total_steps(self, n_windows: int) -> int:
        """Return the number of optimizer steps of a run, whose training split has `n_windows` windows."""
        given = self.optimisation
        if given.epochs is not None:
            return max(1, round(given.epochs * n_windows / self.sequences_per_step))
        if given.tokens is not None:
            return -(-given.tokens // (self.sequences_per_step * self.model.length))
        return given.steps

    def validate(self) -> None:
        """Raise ValueError, naming the argument, for a value out of range."""
        for group in KINDS:
            getattr(self, group).validate()
        flat, every = self.flat(), self.distributed.sync_every
        # A checkpoint by the clock waits for the next synchronisation.
        for name, steps in (
            ("eval_every", flat["eval_every"]),
            ("checkpoint_every", interval(flat["checkpoint_every"])[0]),
        ):
            if (steps or 0) % every:
                raise ValueError(f"[train] '{name}' {flat[name]} must be a multiple of 'sync_every' {every}")
        if self.distributed.shard_optimizer and self.output.watch is not None:
            raise ValueError("[train] 'watch' cannot be combined with 'shard_optimizer': no rank has all gradients")
        given = self.optimisation
        alone = {"ema": given.ema, "spike_sigma": given.spike_sigma, "overfit_one_batch": given.overfit_one_batch}
        for name, value in alone.items():
            if value and every > 1:
                raise ValueError(f"[train] '{name}' cannot be combined with 'sync_every'")
        if self.distributed.shard_optimizer and (given.ema is not None or given.optimizer == "muon"):
            name = "optimizer" if given.ema is None else "ema"
            raise ValueError(f"[train] '{name}' cannot be combined with 'shard_optimizer': it needs whole matrices")
        for name in SHAPE if self.model.from_ is not None else ():
            if flat[name] != DEFAULTS[name]:
                raise ValueError(refused_with_from(name))

    def table(self) -> dict[str, Any]:
        """Return the settings as a TOML table with the names of the flags, without those of one call."""
        settings = {key(name): value for name, value in self.flat().items() if value is not None}
        from_, replaced = self.model.from_, ["steps"] if self.optimisation.epochs or self.optimisation.tokens else []
        for name in (*OF_A_CALL, *(SHAPE if from_ is not None else ()), *replaced):
            settings.pop(key(name), None)
        settings["betas"] = list(settings["betas"])
        # Absolute, because the run may be resumed from another directory.
        settings["data"] = [str(Path(one).expanduser().absolute()) for one in settings["data"]]
        for name in ("from", *PLACES):
            if name in settings:
                settings[name] = str(Path(settings[name]).expanduser().absolute())
        return settings


KINDS: dict[str, type] = {
    "corpus": CorpusSettings,
    "model": ModelSettings,
    "optimisation": OptimisationSettings,
    "output": OutputSettings,
    "machine": MachineSettings,
    "distributed": DistributedSettings,
}
GROUPS = {one.name: group for group, kind in KINDS.items() for one in fields(kind)}
DEFAULTS = TrainSettings().flat()


def key(name: str) -> str:
    """Return the TOML key of a field, as in grad-accum; `from_`, since `from` is a keyword of Python, is from."""
    return name.strip("_").replace("_", "-")


def current(table: dict[str, Any]) -> dict[str, Any]:
    """Return a TOML table with former names of settings replaced by today's."""
    return {RENAMED.get(key(name), name): value for name, value in table.items()}


def refused_with_from(name: str) -> str:
    """Return the error for a setting of the shape that is given together with 'from'."""
    return f"[train] '{name}' cannot be given with 'from': the model has its own shape and tokenizer"


def _at_least(group: Any, least: int, *names: str) -> None:
    """Raise ValueError for a setting that is there and below `least`."""
    for name in names:
        value = getattr(group, name)
        if value is not None and value < least:
            raise ValueError(f"[train] '{name}' must be at least {least}, got {value}")


def _below_one(group: Any, *names: str) -> None:
    """Raise ValueError for a setting, or one of a tuple, that is there and not in [0, 1)."""
    for name in names:
        value = getattr(group, name)
        for one in value if isinstance(value, (tuple, list)) else (value,):
            if one is not None and not 0 <= one < 1:
                raise ValueError(f"[train] '{name}' must be at least 0 and less than 1, got {one}")


def _among_choices(group: Any, *names: str) -> None:
    """Raise ValueError for a setting that is none of the words that its type lists."""
    hints = get_type_hints(type(group))
    for name in names:
        choices = get_args(hints[name])
        if getattr(group, name) not in choices:
            raise ValueError(f"[train] '{name}' must be one of {', '.join(choices)}, got '{getattr(group, name)}'")
