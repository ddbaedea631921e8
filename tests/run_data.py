"""Hand-made runs for tests, and directories with their files."""

import json
import math

from tinygpt.runs.read import RunData
from tinygpt.runs.watch import QUANTILES

WICKED = "</script><script>window.bad = 1</script><img src=x onerror='window.bad = 1'>\"'{{plotly}}&lt;$x$\u202e"
SETTINGS = {"data": ["src", "lib"], "batch": 4, "grad-accum": 2, "seq": 16, "lr": 0.001, "steps": 60, "warmup": 100,
            "schedule": "cosine", "clip": 1.0, "rope": True}  # fmt: skip


def step(i, **changes):
    """A line of metrics.jsonl with values that are easy to recognise."""
    record = {"step": i, "epoch": i / 100, "loss": 5 - i / 64, "lr": 0.001 + i / 1024, "grad_norm": 1 + i / 32,
              "tokens_per_s": 1000.0 + i, "gflops": 2.0, "peak_share": 0.25, "seconds": (i + 1) / 2}  # fmt: skip
    return record | changes


def records(steps=60, every=20):
    """The lines of a run: a record per step, and an evaluation every `every` steps."""
    found = []
    for i in range(steps):
        found.append(step(i))
        if i % every == every - 1:
            found.append({"step": i, "val_loss": 6 - i / 32, "val_bits_per_byte": 7.0})
    return found


def watch(steps=60, every=10):
    """Lines of watch.jsonl for a model of two blocks."""
    found = []
    for i in range(0, steps, every):
        quantiles = [q - 0.5 + i / 128 for q in QUANTILES]
        one = {"mean": 0.0, "std": 0.25 + i / 64, "max": 1.0, "zeros": 0.0, "q": quantiles}
        names = ["wte", *(f"blocks.{k}.{part}" for k in (0, 1) for part in ("attn.qkv", "mlp.up"))]
        line = {"step": i, "weights": {name: one | {"update": 0.001} for name in names}}
        line["activations"] = {f"blocks.{k}.mlp": one | {"dead": 0.125 * k} for k in (0, 1)}
        found.append(line)
    return found


def run(name="runs/one", steps=60, state="", settings=None, **changes):
    """A run of `steps` steps."""
    made = RunData(name, records(steps), SETTINGS if settings is None else settings, 100, 12345, 60, state=state)
    for key, value in changes.items():
        setattr(made, key, value)
    return made


def write_run(folder, settings="", lines=None, config=True):
    """Write a run directory with the files that a page reads."""
    folder.mkdir(parents=True)
    lines = records() if lines is None else lines
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    (folder / "run.toml").write_text(f"batch = 4\ngrad-accum = 1\nseq = 16\nsteps = 60\nwarmup = 100\n{settings}")
    if config:
        shape = {"model_type": "gpt2", "vocab_size": 100, "n_positions": 16, "n_embd": 8, "n_layer": 1, "n_head": 1}
        (folder / "config.json").write_text(json.dumps(shape))
    return folder


def guessing():
    return math.log(100)
