"""Former places of public names: they still work, with a deprecation warning."""

import importlib
import warnings

import pytest

MOVED = {
    "tinygpt.checkpoint.load": "tinygpt.files.model_directory.load",
    "tinygpt.checkpoint.save": "tinygpt.files.model_directory.save",
    "tinygpt.checkpoint.load_weights": "tinygpt.files.model_directory.load_weights",
    "tinygpt.checkpoint.save_checkpoint": "tinygpt.runs.checkpoint.save_checkpoint",
    "tinygpt.checkpoint.load_checkpoint": "tinygpt.runs.checkpoint.load_checkpoint",
    "tinygpt.checkpoint.prune_checkpoints": "tinygpt.runs.checkpoint.prune_checkpoints",
    "tinygpt.checkpoint.checkpoint_directory": "tinygpt.runs.layout.checkpoint_directory",
    "tinygpt.checkpoint.latest_checkpoint": "tinygpt.runs.layout.latest_checkpoint",
    "tinygpt.lora.load": "tinygpt.files.adapters.load",
    "tinygpt.lora.save": "tinygpt.files.adapters.save",
    "tinygpt.sampling.Step": "tinygpt.decoding.Step",
    "tinygpt.sampling.steps": "tinygpt.decoding.steps",
    "tinygpt.sampling.stream": "tinygpt.decoding.stream",
    "tinygpt.train.metrics.MetricsLog": "tinygpt.runs.metrics.MetricsLog",
    "tinygpt.train.metrics.read_metrics": "tinygpt.runs.metrics.read_metrics",
    "tinygpt.viz.runs.RunData": "tinygpt.runs.read.RunData",
    "tinygpt.viz.runs.differences": "tinygpt.runs.read.differences",
    "tinygpt.viz.runs.read_run": "tinygpt.runs.read.read_run",
}


def found(path):
    """The object at a dotted name."""
    module, _, name = path.rpartition(".")
    return getattr(importlib.import_module(module), name)


@pytest.mark.parametrize("old", MOVED)
def test_a_former_name_leads_to_the_new_one(old):
    """Catches a former name that is missing, wrong or silent, and a warning attributed to the library."""
    with pytest.warns(DeprecationWarning, match=rf"^{old} has moved to {MOVED[old]}$") as told:
        one = found(old)
    assert told[0].filename == __file__
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert found(MOVED[old]) is one


@pytest.mark.parametrize("module", sorted({old.rpartition(".")[0] for old in MOVED}))
def test_other_names_are_unknown(module):
    """Catches a module with every attribute, and an error that names the wrong module."""
    with pytest.raises(AttributeError, match=rf"^module '{module}' has no attribute 'nothing'$"):
        found(f"{module}.nothing")
