"""Adapters on disk, under the names that peft gives them.

    adapter/adapter_model.safetensors      lora_A and lora_B of every layer
    adapter/adapter_config.json            rank, alpha and targets, as peft writes them

Design
- A file of the Llama family stores the parts of a fused layer separately. Each part repeats the layer's A, with the
  rows of B that belong to it: the same function, which `peft` can load. A file whose parts have different A cannot be
  read here.
- The file names its base model by a hash of all weights, because on another base the adapters mean nothing.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from tinygpt import lora
from tinygpt.files import config as config_file
from tinygpt.files import names, weights
from tinygpt.io import atomic
from tinygpt.io.strict import Fields, StrPath, naming, read_object, shown
from tinygpt.io.table import Table
from tinygpt.model import GPT
from tinygpt.nn import Parameter

FOLDER = "adapter"
WEIGHTS = "adapter_model.safetensors"
CONFIG = "adapter_config.json"
_PREFIX = "base_model.model."  # peft's own two wrappers
# The names of peft's options, in the order of its LoraConfig.
TABLE = Table(
    required=["peft_type", "r", "lora_alpha"],
    known=["base_model_name_or_path", "use_rslora"],
    without_effect=[
        # which layers are adapted: the tensors say so
        "target_modules", "exclude_modules", "layers_pattern", "layers_to_transform",
        # training, and the way to load weights that are in the file anyway
        "inference_mode", "lora_dropout", "loftq_config", "eva_config", "corda_config", "lora_ga_config",
        "runtime_config", "ensure_weight_tying",
        # settings of options that are refused, and facts for other programs
        "auto_mapping", "fan_in_fan_out", "megatron_core", "peft_version", "qalora_group_size", "revision", "task_type",
    ],
    refused={
        "bias": ("none",),
        "modules_to_save": ([],),
        # The other kinds, such as pissa and olora, change the weights of the base model before training.
        "init_lora_weights": (True, False, "gaussian", "orthogonal", "eva"),
        "rank_pattern": ({},),
        "alpha_pattern": ({},),
        "megatron_config": (),
        "trainable_token_indices": ([], {}),
        "use_dora": (False,),
        "velora_config": (),
        "alora_invocation_tokens": (),
        "use_qalora": (False,),
        "monteclora_config": (),
        "layer_replication": ([],),
        "lora_bias": (False,),
        "target_parameters": ([],),
        "use_bdlora": (False,),
        "arrow_config": (),
        "kasa_config": (),
    },
)  # fmt: skip


def fingerprint(model: GPT) -> str:
    """Hash the shape and all weights of a model, without its adapters and its dropout."""
    shape = config_file.canonical(dataclasses.replace(model.config, dropout=0.0))
    sha = hashlib.sha256(repr(shape).encode())
    own = {id(parameter) for parameter in lora.parameters(model)}
    for name, parameter in model.named_parameters():
        if id(parameter) not in own:
            sha.update(name.encode())
            sha.update(parameter.data.data)
    return sha.hexdigest()[:32]


def _pieces(model: GPT) -> Iterator[tuple[str, str, names.Piece]]:
    """Yield, for every matrix of a block in an adapter file, the start of its names, its layer, and its piece."""
    kind = config_file.family(model.config)
    places = tuple(f".{place}" for place in lora.PLACES.values())
    for piece in names.pieces(kind, model.config, names.PREFIX[kind]):
        layer = (piece.parameter or "").removesuffix(".weight")
        if layer != piece.parameter and layer.endswith(places):
            yield _PREFIX + piece.name.removesuffix(".weight"), layer, piece


def _tensors(model: GPT) -> Iterator[tuple[str, np.ndarray]]:
    """Yield the name of every tensor of an adapter file, and a view of the part of a parameter that it stores."""
    held = dict(lora.layers(model))
    for start, name, piece in _pieces(model):
        if name in held:
            yield f"{start}.lora_A.weight", held[name].lora_A.data
            yield f"{start}.lora_B.weight", held[name].lora_B.data[piece.rows]


def save(directory: StrPath, model: GPT) -> None:
    """Write the adapters of a model, without its weights, in the format of `peft`.

    Parameters
    ----------
    directory : path
        Created or, if it holds adapters, replaced as a whole.
    model : GPT
        Must have adapters.

    Raises
    ------
    ValueError
        The model has no adapters, a value is NaN or infinite, or the directory holds other files.
    OSError
        A file cannot be written.
    """
    target = Path(directory)
    if target.exists() and not (target.is_dir() and {path.name for path in target.iterdir()} <= {WEIGHTS, CONFIG}):
        raise ValueError(f"{target}: holds something else than adapters, choose another directory")
    atomic.make_directory(target.parent)
    with atomic.temporary_directory(target) as temporary:
        write(temporary, model)
        atomic.replace_directory(temporary, target)


def write(directory: StrPath, model: GPT) -> None:
    """Write the files of `save` into an empty folder; not atomic, so the folder must be a temporary one."""
    adapters = lora.of(model)
    if adapters is None:
        raise ValueError("[lora] 'model' must have adapters to be saved")
    tensors = dict(_tensors(model))
    modules = sorted({_module(name) for name in tensors})
    if len(lora.layers(model)) < model.config.n_layer * len(adapters.targets):  # in some blocks only: whole names
        modules = sorted({name.removeprefix(_PREFIX).rsplit(".lora_", 1)[0] for name in tensors})
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
    weights.write(Path(directory) / WEIGHTS, tensors.items(), metadata, checksum=True)
    atomic.write_text(Path(directory) / CONFIG, json.dumps(content, indent=2) + "\n")


def _module(name: str) -> str:
    """Return the last two words of a tensor's layer, because the last word alone may name two layers of a block."""
    return ".".join(name.split(".")[:-2][-2:])


class AdapterFiles:
    """An adapter directory, opened for reading and checked against a model.

    Parameters
    ----------
    directory : path
        Written by `save`, or by `peft` if every part of a fused layer has the same A.

    Attributes
    ----------
    rank : int
        Columns of the thin matrices.
    alpha : float
        Their product is multiplied by alpha / rank.
    base : str
        Path of the base model when the adapters were saved.

    Raises
    ------
    FileNotFoundError
        A file is missing.
    ValueError
        A file is damaged or asks for something that is not supported.
    """

    def __init__(self, directory: StrPath):
        folder = Path(directory)
        content = read_object(folder / CONFIG)
        fields = Fields(content)
        with naming(folder / CONFIG):
            TABLE.check(fields)
            if fields.text("peft_type") != "LORA":
                raise fields.wrong("peft_type", "'LORA'")
            self.rank, self.alpha = fields.count("r"), fields.number("lora_alpha")
            if fields.flag("use_rslora", False):  # which divides by the square root of the rank
                self.alpha *= math.sqrt(self.rank)
            if not 0 < self.alpha < lora.MOST_ALPHA:
                raise fields.wrong("lora_alpha", "positive and finite in float32")
            self.base = fields.text("base_model_name_or_path", "")
        self.file = weights.TensorFile(folder / WEIGHTS)

    def layers(self, model: GPT) -> list[str]:
        """List the layers of a model that have adapters in the file, after a check of the tensors' shapes.

        Nothing of the size that the file asks for is allocated.

        Raises
        ------
        ValueError
            A tensor is missing, has no place in the model, or another shape than the rank asks for; or only some parts
            of a fused layer have adapters.
        """
        found: dict[str, list[str]] = {}
        missing: dict[str, list[str]] = {}
        wanted: list[tuple[str, weights.Shape]] = []
        for start, layer, piece in _pieces(model):
            if f"{start}.lora_A.weight" not in self.file.entries:
                missing.setdefault(layer, []).append(start)
                continue
            found.setdefault(layer, []).append(start)
            n_out, n_in = piece.shape[::-1] if piece.transposed else piece.shape
            wanted += [(f"{start}.lora_A.weight", (self.rank, n_in)), (f"{start}.lora_B.weight", (n_out, self.rank))]
        if not found:
            raise ValueError(f"{self.file.path}: has no tensor lora_A of a layer of the model")
        for layer, parts in found.items():
            if layer in missing:
                raise ValueError(
                    f"{self.file.path}: has tensor {shown(parts[0] + '.lora_A.weight')} but none for "
                    f"{shown(missing[layer][0].removeprefix(_PREFIX))}; here both belong to one layer with one adapter"
                )
        self.file.expect(wanted, (), CONFIG)
        return list(found)

    def check(self, model: GPT) -> None:
        """Raise ValueError unless the model has adapters of the same form, on a base with the same weights."""
        adapters = lora.of(model)
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
        weights.check_sum(self.file.path)

    def assign(self, model: GPT) -> None:
        """Copy the values into a model that passed `check`."""
        for name, array in _tensors(model):
            array[...] = self.file.read(name)


def load(directory: StrPath, model: GPT) -> list[Parameter]:
    """Load adapters into a model; `lora.add` gives it adapters first if it has none.

    Parameters
    ----------
    directory : path
        Written by `save` or `peft`.
    model : GPT
        The base model that the adapters were trained on.

    Returns
    -------
    list of Parameter
        The parameters of the adapters, for an optimizer.

    Raises
    ------
    FileNotFoundError
        The directory or one of its files is missing.
    ValueError
        A file is damaged, or the adapters belong to other weights; the model is then unchanged.
    """
    source = AdapterFiles(directory)
    fresh = lora.of(model) is None
    layers = source.layers(model)
    if fresh:
        wanted = [parameter.requires_grad for parameter in model.parameters()]
        lora.add(model, source.rank, source.alpha, base=source.base, layers=layers)
    try:
        source.check(model)
    except ValueError:
        if fresh:
            lora.remove(model)
            for parameter, before in zip(model.parameters(), wanted, strict=True):
                parameter.requires_grad = before
        raise
    source.assign(model)
    return lora.parameters(model)
