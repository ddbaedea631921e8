"""Deprecated: model directories are in `tinygpt.files.model_directory`, checkpoints in `tinygpt.runs`."""

from tinygpt.deprecated import forward

__getattr__ = forward(
    __name__,
    {
        "load": "tinygpt.files.model_directory.load",
        "save": "tinygpt.files.model_directory.save",
        "load_weights": "tinygpt.files.model_directory.load_weights",
        "save_checkpoint": "tinygpt.runs.checkpoint.save_checkpoint",
        "load_checkpoint": "tinygpt.runs.checkpoint.load_checkpoint",
        "prune_checkpoints": "tinygpt.runs.checkpoint.prune_checkpoints",
        "checkpoint_directory": "tinygpt.runs.layout.checkpoint_directory",
        "latest_checkpoint": "tinygpt.runs.layout.latest_checkpoint",
    },
)
