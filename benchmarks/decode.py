"""Decoding with small weights, one sequence, against llama.cpp.

usage: python benchmarks/decode.py [--model DIR] [--weights float32 bfloat16 int8] [--threads 1 2] OUT.json

For each kind of weights, both contenders get the same numbers: tinygpt loads the model directory with this kind, and
llama.cpp loads the GGUF file that `tinygpt export` writes (F32, BF16, Q8_0). Only the greedy decoding after the
prompt is timed, not the prefill. Before that, logits must agree. The tolerance is larger than between kernels,
because llama.cpp rounds activations when its weights are small, and stores keys and values in 16 bits. Without
--model, the weights are random, in the shape of SmolLM2-135M: the time does not depend on values.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import contest

CONTENDERS = ("tinygpt", "llama.cpp")
FILES = {"float32": "float32", "bfloat16": "bfloat16", "int8": "q8_0"}
ROOM = {"float32": 1e-2, "bfloat16": 5e-2, "int8": 1e-1}  # largest difference of logits, relative to the largest logit
PROMPT, TOKENS, CONTEXT = 32, 32, 256
SHAPE = {
    "vocab_size": 49152, "block_size": 2048, "n_layer": 30, "n_head": 9, "n_kv_head": 3, "n_embd": 576,
    "ffn_dim": 1536, "position": "rope", "norm": "rmsnorm", "activation": "swiglu", "bias": False, "rope_theta": 1e5,
}  # fmt: skip


def files(model: str | None, folder: Path, kinds: list[str]) -> tuple[str, dict[str, str], dict[str, int]]:
    """Return the model directory, a GGUF file for each kind of weights, and the bytes that a token reads of each."""
    import tinygpt
    from tinygpt import GPT, GPTConfig
    from tinygpt.files import gguf
    from tinygpt.packed import packed_bytes
    from tinygpt.tokenizers import BPETokenizer

    if model is None:
        model = str(folder / "model")
        # llama.cpp requires a tokenizer, although it is never used here.
        tinygpt.save(model, GPT(GPTConfig(**SHAPE), seed=0), BPETokenizer.train(__doc__, 300))
    gpt, tokenizer = tinygpt.load(model)
    paths = {}
    for kind in kinds:
        paths[kind] = str(folder / f"{kind}.gguf")
        gguf.write(paths[kind], gpt, tokenizer, FILES[kind])
    multiplying = sum(p.data.size for name, p in gpt.named_parameters() if p.data.ndim == 2 and name != "wpe.weight")
    return model, paths, {kind: packed_bytes(multiplying, kind) for kind in kinds}


def run(task: dict[str, Any], threads: int, repetitions: int) -> dict[str, Any]:
    """Time one kind of weights on a number of threads."""
    workers, missing = contest.open_workers(CONTENDERS, threads)
    try:
        built = {name: worker.ask({"build": task}) for name, worker in workers.items()}
        checks = {name: answer["check"] for name, answer in built.items()}
        largest = max(abs(x) for x in checks["tinygpt"])
        room = ROOM[task["weights"]] * largest
        contest.agree(checks, {name: [room] * len(numbers) for name, numbers in checks.items()})
        times = contest.alternate(workers, repetitions)
    finally:
        contest.close_workers(workers)
    contenders = [
        {
            "name": name,
            **contest.summary(taken),
            "ratio": contest.median_ratio(taken, times["tinygpt"]),
            "high_water": built[name]["high_water"],
        }
        for name, taken in times.items()
    ]
    return {"weights": task["weights"], "threads": threads, "contenders": contenders, "missing": missing}


def main() -> None:
    """Time every kind of weights on every number of threads, and write the results after each."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path, metavar="OUT.json")
    parser.add_argument("--model", metavar="DIR", help="model directory, as from tinygpt import")
    parser.add_argument("--weights", nargs="+", choices=FILES, default=list(FILES), metavar="KIND")
    parser.add_argument("--threads", nargs="+", type=int, default=[1, 2], metavar="N")
    parser.add_argument("--repetitions", type=int, default=9, metavar="N")
    chosen = parser.parse_args()
    results: dict[str, Any] = {"kind": "decode", "machine": contest.machine(chosen.threads), "jobs": []}
    with tempfile.TemporaryDirectory() as folder:
        directory, paths, sizes = files(chosen.model, Path(folder), chosen.weights)
        task = {"kind": "small weights", "directory": directory, "context": CONTEXT, "seconds": 0.1}
        task |= {"prompt": [1 + 7 * i for i in range(PROMPT)], "new_tokens": TOKENS}
        for threads in chosen.threads:
            for kind in chosen.weights:
                begun = time.monotonic()
                try:
                    found = run(task | {"weights": kind, "gguf": paths[kind]}, threads, chosen.repetitions)
                except contest.ContenderError as error:
                    sys.exit(f"{kind}, {threads} threads: {error}")
                print(f"{kind}, {threads} threads ({time.monotonic() - begun:.0f} s)", flush=True)
                for name, why in found["missing"].items():
                    print(f"  without {name}: {why}")
                for one in found["contenders"]:
                    speed = TOKENS / one["median"]
                    print(
                        f"  {one['name']:<10} {speed:7.1f} tokens/s  {speed * sizes[kind] / 1e9:5.1f} GB/s of weights"
                        f"  {one['ratio']:5.2f} x the time of tinygpt",
                        flush=True,
                    )
                results["jobs"].append(found | {"tokens": TOKENS, "bytes": sizes[kind]})
                contest.save(results, chosen.out)
    contest.raise_ceilings(results["machine"], contest.machine(chosen.threads))
    contest.save(results, chosen.out)


if __name__ == "__main__":
    main()
