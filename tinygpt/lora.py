"""Low-rank adapters: a model's weights stay as they are, and thin matrices beside them learn the difference.

A linear layer y = x W^T becomes y = x W^T + (alpha / r) (x A^T) B^T with A (r, K) and B (N, r) (Hu et al. 2021). B
starts at zero, so that training starts at the model that was given. What is learnt can be added into W afterwards:
the result is an ordinary model.

    adapter/adapter_model.safetensors      lora_A and lora_B of every layer, under the names that peft gives them
    adapter/adapter_config.json            rank, alpha, targets, in peft's words

Design
- Adapters have an arena of their own. Gradients and the optimizer's state have the size of an arena, so they are as
  small as the adapters, and the weights of the model are neither moved nor copied. Rejected: one arena with places for
  both, where every frozen weight would have a place for a gradient.
- What is fused is adapted as one: queries, keys and values share their A, and so do gate and up. In a file of the Llama
  family, where they are apart, A stands once for each, with the rows of B that belong to it: the same function, and
  what `peft` can load. A file whose parts have different A cannot be read here.
- The file names its base by a hash of all weights: on another base the adapters would mean nothing.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
import secrets
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from tinygpt import ops
from tinygpt.files import config as config_file
from tinygpt.files import names, weights
from tinygpt.io import atomic
from tinygpt.io.strict import Fields, StrPath, naming, read_object, shown
from tinygpt.kernels.registry import active
from tinygpt.kernels.threads import for_work
from tinygpt.model import GPT
from tinygpt.nn import Linear, Module, Parameter
from tinygpt.tensor import Tensor

FOLDER = "adapter"
WEIGHTS = "adapter_model.safetensors"
CONFIG = "adapter_config.json"
TARGETS = ("qkv", "out", "up", "down")
_PLACES = {"qkv": "attn.qkv", "out": "attn.out", "up": "mlp.up", "down": "mlp.down"}
_PREFIX = "base_model.model."  # peft's own two wrappers
# Options of peft that would change the result, with the one value that means what is computed here.
_PLAIN = {
    "bias": "none",
    "use_rslora": False,
    "use_dora": False,
    "rank_pattern": {},
    "alpha_pattern": {},
    "modules_to_save": None,
    "layers_to_transform": None,
}


@dataclasses.dataclass(frozen=True)
class Adapters:
    """What the adapters of a model have in common.

    Attributes
    ----------
    rank : int
    alpha : float
        The product of the two matrices is multiplied by alpha / rank.
    targets : tuple of str
        Of `TARGETS`, in their order: the layers of every block that have an adapter.
    base : str
        Where the model was read from; for people, and for peft.
    """

    rank: int
    alpha: float
    targets: tuple[str, ...]
    base: str = ""


class LoraLinear(Linear):
    """A linear layer with an adapter; weight and bias are those of the layer it stands for."""

    def __init__(self, layer: Linear, adapters: Adapters):
        n_out, n_in = layer.weight.shape
        self.weight, self.bias, self.adapters = layer.weight, layer.bias, adapters
        self._covered = (layer,)  # in a tuple: a module here would stand in the names a second time
        # The variance of the uniform draw in the authors' code, so that learning rates of others fit here.
        self.lora_A = Parameter((adapters.rank, n_in), std=1 / math.sqrt(3 * n_in))
        self.lora_B = Parameter((n_out, adapters.rank))

    @property
    def scale(self) -> float:
        """alpha / rank."""
        return self.adapters.alpha / self.adapters.rank

    def __call__(self, x: Tensor, residual: Tensor | None = None, activation: str = "none") -> Tensor:
        """activation(x (W + scale B A)^T + b) + residual, (..., n_in) to (..., n_out)."""
        if activation == "none":
            return ops.low_rank(x, self.weight, self.lora_A, self.lora_B, self.scale, self.bias, residual)
        out = ops.gelu(ops.low_rank(x, self.weight, self.lora_A, self.lora_B, self.scale, self.bias))
        return out if residual is None else out + residual


class _Pairs(Module):
    """All matrices of the adapters, to be laid out in one arena."""

    def __init__(self, layers: Sequence[LoraLinear]):
        self.pairs: list[Module] = []
        for layer in layers:
            pair = Module()
            pair.lora_A, pair.lora_B = layer.lora_A, layer.lora_B  # type: ignore[attr-defined]
            self.pairs.append(pair)


def add(
    model: GPT,
    rank: int,
    alpha: float | None = None,
    targets: Sequence[str] | None = None,
    seed: int = 0,
    base: str = "",
) -> list[Parameter]:
    """Freeze a model and give it adapters.

    Parameters
    ----------
    model : GPT
        Without adapters.
    rank : int
        Columns of the thin matrices.
    alpha : float, optional
        What they learn is multiplied by alpha / rank. 2 rank by default.
    targets : sequence of str, optional
        Layers of every block: ``qkv``, ``out``, ``up``, ``down``. All by default.
    seed : int
        Of A; B is zero.
    base : str
        Where the model comes from.

    Returns
    -------
    list of Parameter
        Those of the adapters, for an optimizer.

    Raises
    ------
    ValueError
        The model has adapters already, or a value is out of range.
    """
    if of(model) is not None:
        raise ValueError("[lora] 'model' must have no adapters yet: merge them first")
    if isinstance(rank, bool) or not isinstance(rank, int) or rank < 1:
        raise ValueError(f"[lora] 'rank' must be a positive integer, got {rank!r}")
    alpha = 2.0 * rank if alpha is None else float(alpha)
    if not (math.isfinite(alpha) and alpha > 0):
        raise ValueError(f"[lora] 'alpha' must be positive, got {alpha}")
    wanted = TARGETS if targets is None else tuple(targets)
    unknown = [name for name in wanted if name not in TARGETS]
    if unknown or not wanted:
        raise ValueError(
            f"[lora] 'targets' must be among {', '.join(TARGETS)}, got {unknown[0] if unknown else 'none'}"
        )
    if seed < 0:
        raise ValueError(f"[lora] 'seed' must be 0 or more, got {seed}")
    adapters = Adapters(rank, alpha, tuple(name for name in TARGETS if name in wanted), base)
    for parameter in model.parameters():
        parameter.requires_grad = False
    for _, owner, name, layer in _linears(model):
        if name in adapters.targets:
            setattr(owner, name, LoraLinear(layer, adapters))
    _Pairs([layer for _, layer in layers(model)]).initialise(seed)
    return parameters(model)


def _linears(model: GPT) -> Iterator[tuple[str, Module, str, Linear]]:
    """Every linear layer of the blocks: its name, and the module and attribute that hold it."""
    for i, block in enumerate(model.blocks):
        for name in TARGETS:
            owner = getattr(block, _PLACES[name].partition(".")[0])
            yield f"blocks.{i}.{_PLACES[name]}", owner, name, getattr(owner, name)


def layers(model: GPT) -> list[tuple[str, LoraLinear]]:
    """The layers of a model that have an adapter, by name."""
    return [(name, layer) for name, _, _, layer in _linears(model) if isinstance(layer, LoraLinear)]


def of(model: GPT) -> Adapters | None:
    """What the adapters of a model have in common; None if it has none."""
    found = layers(model)
    return found[0][1].adapters if found else None


def parameters(model: GPT) -> list[Parameter]:
    """The parameters of the adapters."""
    return [parameter for _, layer in layers(model) for parameter in (layer.lora_A, layer.lora_B)]


def _add_to_weight(layer: LoraLinear) -> None:
    """W + scale B A, in place."""
    b = layer.lora_B.data * np.float32(layer.scale)
    W, a = layer.weight.data, layer.lora_A.data
    active.matmul(b, a, W, False, False, True, None, None, 0, None, for_work(2 * W.size * len(a)))


def merge(model: GPT) -> None:
    """Add what the adapters have learnt to the weights: an ordinary model again, all of whose parameters train.

    Parameters
    ----------
    model : GPT
        Without adapters nothing happens.
    """
    if of(model) is None:
        return
    for _, layer in layers(model):
        _add_to_weight(layer)
    _remove(model)
    for parameter in model.parameters():
        parameter.requires_grad = True


def _remove(model: GPT) -> None:
    """Put the layers back that stood where the adapters are."""
    for _, owner, name, layer in _linears(model):
        if isinstance(layer, LoraLinear):
            setattr(owner, name, layer._covered[0])


@contextmanager
def merged_weights(model: GPT) -> Iterator[None]:
    """Inside, the weights are those that `merge` would leave, for a writer of files; afterwards they are as before.

    The adapted weights exist twice meanwhile. A forward pass inside would count the adapters twice.
    """
    before: list[tuple[LoraLinear, np.ndarray]] = []
    try:
        for _, layer in layers(model):
            before.append((layer, layer.weight.data.copy()))
            _add_to_weight(layer)
        yield
    finally:
        for layer, values in before:
            layer.weight.data = values


def fingerprint(model: GPT) -> str:
    """A hash of the shape and of all weights of a model; its adapters and its dropout do not count."""
    shape = config_file.canonical(dataclasses.replace(model.config, dropout=0.0))
    sha = hashlib.sha256(repr(shape).encode())
    own = {id(parameter) for parameter in parameters(model)}
    for name, parameter in model.named_parameters():
        if id(parameter) not in own:
            sha.update(name.encode())
            sha.update(parameter.data.data)
    return sha.hexdigest()[:32]


def _tensors(model: GPT) -> Iterator[tuple[str, np.ndarray]]:
    """Every tensor of an adapter file: its name, and the part of a parameter that it holds, as a view."""
    kind = config_file.family(model.config)
    held = {f"{name}.weight": layer for name, layer in layers(model)}
    for piece in names.pieces(kind, model.config, names.PREFIX[kind]):
        layer = held.get(piece.parameter or "")
        if layer is not None:
            start = _PREFIX + piece.name.removesuffix(".weight")
            yield f"{start}.lora_A.weight", layer.lora_A.data
            yield f"{start}.lora_B.weight", layer.lora_B.data[piece.rows]


def save(directory: StrPath, model: GPT) -> None:
    """Write the adapters of a model, and nothing else of it, as `peft` does.

    Parameters
    ----------
    directory : path
        Is made or, if it holds adapters, replaced as a whole.
    model : GPT
        With adapters.

    Raises
    ------
    ValueError
        The model has none, a value is NaN or infinite, or the directory holds something else.
    OSError
        A file cannot be written.
    """
    target = Path(directory)
    if target.exists() and not (target.is_dir() and {path.name for path in target.iterdir()} <= {WEIGHTS, CONFIG}):
        raise ValueError(f"{target}: holds something else than adapters, choose another directory")
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = target.with_name(f".{target.name}.{secrets.token_hex(4)}.tmp")
    temporary.mkdir()
    try:
        write(temporary, model)
        atomic.replace_directory(temporary, target)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def write(directory: StrPath, model: GPT) -> None:
    """The files of `save`, in a directory that exists and has neither; not atomic, it is for a temporary."""
    adapters = of(model)
    if adapters is None:
        raise ValueError("[lora] 'model' must have adapters to be saved")
    tensors = dict(_tensors(model))
    modules = sorted({_module(name) for name in tensors})
    content = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": adapters.base or None,
        "r": adapters.rank,
        "lora_alpha": adapters.alpha,
        "lora_dropout": 0.0,
        "target_modules": modules,
        "fan_in_fan_out": config_file.family(model.config) == "gpt2",  # whose linear weights are (in, out)
        "bias": "none",
        "inference_mode": True,
    }
    metadata = {"format": "pt", "base": fingerprint(model)}
    weights.write(Path(directory) / WEIGHTS, tensors.items(), metadata)
    atomic.write_text(Path(directory) / CONFIG, json.dumps(content, indent=2) + "\n")


def _module(name: str) -> str:
    """The last two words of the layer that a tensor belongs to: the last alone may name two layers of a block."""
    return ".".join(name.split(".")[:-2][-2:])


class AdapterFiles:
    """Adapters in files, held against a model.

    Parameters
    ----------
    directory : path
        As `save` writes it, or as `peft` does where every part of a fused layer has the same A.

    Attributes
    ----------
    rank : int
    alpha : float
    base : str
        What the file says where its base was.

    Raises
    ------
    FileNotFoundError, ValueError
        A file is missing, or not what it must be.
    """

    def __init__(self, directory: StrPath):
        folder = Path(directory)
        content = read_object(folder / CONFIG)
        fields = Fields(content)
        with naming(folder / CONFIG):
            if fields.text("peft_type") != "LORA":
                raise fields.wrong("peft_type", "'LORA'")
            for name, plain in _PLAIN.items():
                if content.get(name) not in (None, plain):
                    raise fields.wrong(name, shown(plain))
            self.rank, self.alpha = fields.count("r"), fields.number("lora_alpha")
            if not self.alpha > 0:
                raise fields.wrong("lora_alpha", "positive")
            self.base = fields.text("base_model_name_or_path", "")
        self.file = weights.TensorFile(folder / WEIGHTS)

    def targets(self, model: GPT) -> list[str]:
        """The layers that have adapters in the file, judged by the first block."""
        kind = config_file.family(model.config)
        found = []
        for piece in names.pieces(kind, model.config, names.PREFIX[kind]):
            name = f"{_PREFIX}{piece.name.removesuffix('.weight')}.lora_A.weight"
            place = (piece.parameter or "").removeprefix("blocks.0.").removesuffix(".weight")
            found += [target for target in TARGETS if _PLACES[target] == place and name in self.file.entries]
        return found

    def check(self, model: GPT) -> None:
        """Raise ValueError if the model's adapters, or the model below them, are others than those in the files."""
        adapters = of(model)
        if adapters is None or (adapters.rank, adapters.alpha) != (self.rank, self.alpha):
            has = "none" if adapters is None else f"rank {adapters.rank} and alpha {adapters.alpha:g}"
            file = self.file.path.with_name(CONFIG)
            raise ValueError(f"{file}: has adapters of rank {self.rank} and alpha {self.alpha:g}, the model has {has}")
        self.file.expect(((name, array.shape) for name, array in _tensors(model)), (), "the model")
        base = self.file.metadata.get("base")
        if base is not None and base != fingerprint(model):
            where = f" ({self.base})" if self.base else ""
            raise ValueError(f"{self.file.path}: belongs to a base{where} with other weights than this model has")
        firsts: dict[int, np.ndarray] = {}
        for name, array in _tensors(model):
            values = self.file.read(name)
            if name.endswith("lora_A.weight") and not np.array_equal(values, firsts.setdefault(id(array), values)):
                raise ValueError(f"{self.file.path}: tensor {shown(name)} must be that of the layer's other parts")

    def assign(self, model: GPT) -> None:
        """Copy the values into a model that `check` has accepted."""
        for name, array in _tensors(model):
            array[...] = self.file.read(name)


def load(directory: StrPath, model: GPT) -> list[Parameter]:
    """Read adapters into a model; one without adapters is given some, as `add` does.

    Parameters
    ----------
    directory : path
        As `save` writes it.
    model : GPT
        The model that they were trained on.

    Returns
    -------
    list of Parameter

    Raises
    ------
    FileNotFoundError
        The directory or one of its files is missing.
    ValueError
        A file is not what it must be, or belongs to other weights; the model is then as it was.
    """
    source = AdapterFiles(directory)
    fresh = of(model) is None
    if fresh:
        wanted = [parameter.requires_grad for parameter in model.parameters()]
        add(model, source.rank, source.alpha, source.targets(model) or TARGETS, base=source.base)
    try:
        source.check(model)
    except ValueError:
        if fresh:
            _remove(model)
            for parameter, before in zip(model.parameters(), wanted, strict=True):
                parameter.requires_grad = before
        raise
    source.assign(model)
    return parameters(model)
