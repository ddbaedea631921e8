"""`tinygpt generate`."""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from functools import partial
from itertools import groupby
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

from tinygpt.cli.generate_flags import GenerateOptions
from tinygpt.cli.options import load_model
from tinygpt.cli.prompts import Notes, Prompt, encode_prompts, read_texts

if TYPE_CHECKING:
    from tinygpt.model import GPT
    from tinygpt.tokenizers.base import Tokenizer

SHARED = 8  # most prompts of equal length in one batch


def generate(options: Annotated[GenerateOptions, Parameter(name="*")] = GenerateOptions()) -> int:  # noqa: B008
    """Continue a text with a trained model.

    The text goes to standard output while it is sampled; remarks, seed and speed
    go to standard error. Of several samples, the first is printed while it is
    sampled, and each other one as soon as those before it have ended.
    """
    import secrets

    options.validate()
    options.apply()
    seed = secrets.randbelow(2**31) if options.seed is None else options.seed
    texts = read_texts(options)
    model, tokenizer = load_model(options.model, options.weights)
    notes = Notes(model.config.block_size)
    prompts = list(encode_prompts(options, texts, tokenizer, notes))
    start = time.perf_counter()
    if not options.quiet:
        notes.print()
    count = _write(model, tokenizer, prompts, seed, options)
    if not options.quiet:
        rate = count / max(1e-9, time.perf_counter() - start)
        print(f"[{count} tokens, {rate:,.0f} tokens/s, seed {seed}]", file=sys.stderr)
    return 0


def _write(model: GPT, tokenizer: Tokenizer, prompts: Sequence[Prompt], seed: int, options: GenerateOptions) -> int:
    """Sample and print all texts, up to SHARED prompts of equal length in one batch; returns the number of tokens."""
    import numpy as np

    from tinygpt.cli.writers import JsonWriter, PlainWriter, progress_bar
    from tinygpt.generate import stream_pieces

    count, samples, stop = 0, options.num_samples, options.stops()
    done, total = 0, samples * sum(prompt.length for prompt in prompts)
    writer = JsonWriter(options, tokenizer, seed) if options.json else PlainWriter(options, tokenizer, len(prompts))
    with writer, progress_bar(options.quiet, total) as show:
        for _, same in groupby(prompts, key=lambda one: (len(one.ids), one.number // SHARED)):
            batch = list(same)
            rows = [(prompt, sample) for prompt in batch for sample in range(samples)]
            sampler = options.sampler(seed, [prompt.number * samples + sample for prompt, sample in rows])
            ids = np.stack([prompt.ids for prompt, _ in rows])
            length, told = batch[0].length, show and partial(show, done, len(rows))
            pieces = stream_pieces(
                model, tokenizer, ids, length, sampler, stop=stop, top=options.logprobs, progress=told
            )
            done += len(rows) * length
            for row, of_text in groupby(pieces, key=lambda piece: piece.text):
                writer.begin(*rows[row])
                for piece in of_text:
                    writer.piece(piece)
                    count += piece.token is not None and piece.token not in tokenizer.end_ids
                writer.end()
    return count
