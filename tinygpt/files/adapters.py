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
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from tinygpt import lora
from tinygpt.files import config as config_file
from tinygpt.files import names, weights
from tinygpt.io import atomic
from tinygpt.io.strict import Fields, StrPath, naming, read_object, shown
from tinygpt.model import GPT
from tinygpt.nn import Parameter

FOLDER = "adapter"
WEIGHTS = "adapter_model.safetensors"
CONFIG = "adapter_config.json"
_PREFIX = "base_model.model."  # peft's own two wrappers
# Options of peft that would change the result, each with the one value that is computed here.
_PLAIN = {
    "bias": "none",
    "use_rslora": False,
    "use_dora": False,
    "rank_pattern": {},
    "alpha_pattern": {},
    "modules_to_save": None,
    "layers_to_transform": None,
}


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


def _tensors(model: GPT) -> Iterator[tuple[str, np.ndarray]]:
    """Yield the name of every tensor of an adapter file, and a view of the part of a parameter that it stores."""
    kind = config_file.family(model.config)
    held = {f"{name}.weight": layer for name, layer in lora.layers(model)}
    for piece in names.pieces(kind, model.config, names.PREFIX[kind]):
        layer = held.get(piece.parameter or "")
        if layer is not None:
            start = _PREFIX + piece.name.removesuffix(".weight")
            yield f"{start}.lora_A.weight", layer.lora_A.data
            yield f"{start}.lora_B.weight", layer.lora_B.data[piece.rows]


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
    target.parent.mkdir(parents=True, exist_ok=True)
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
        """Return the layers that have adapters in the file; the first block stands for all."""
        kind = config_file.family(model.config)
        found = []
        for piece in names.pieces(kind, model.config, names.PREFIX[kind]):
            name = f"{_PREFIX}{piece.name.removesuffix('.weight')}.lora_A.weight"
            place = (piece.parameter or "").removeprefix("blocks.0.").removesuffix(".weight")
            found += [target for target in lora.TARGETS if lora.PLACES[target] == place and name in self.file.entries]
        return found

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
    if fresh:
        wanted = [parameter.requires_grad for parameter in model.parameters()]
        lora.add(model, source.rank, source.alpha, source.targets(model) or lora.TARGETS, base=source.base)
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
