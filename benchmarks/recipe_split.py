"""Effect of the training text on the recipe of recipe.py, measured on the last tenth of tiny Shakespeare.

usage: python benchmarks/recipe_split.py SHAKESPEARE.txt OUT.json      about 2 minutes on two cores

`tinygpt train` keeps the end of a single file for validation, so that from a file with the first nine tenths it learns
only the first 81 % of the text. Three runs separate the two possible reasons for a higher loss on the last tenth: less
text, or other text.
"""

from __future__ import annotations

import json
import sys
import tempfile
from pathlib import Path

from recipe import settings

import tinygpt
from tinygpt.cli.info import processor
from tinygpt.data.discover import Document
from tinygpt.evaluate import TokenText, evaluate_files
from tinygpt.train.loop import train

SEED = 1


def files(text: str) -> dict[str, str]:
    """Return a file for each run, by the part of the text that its first nine tenths hold."""
    n = len(text)
    nine, start = n - n // 10, n * 9 // 100
    return {"0 to 90 %": text, "0 to 81 %": text[:nine], "9 to 90 %": text[start:nine] + text[:start]}


def main() -> None:
    """Train three times, score each model on the last tenth, write the losses."""
    source, out = map(Path, sys.argv[1:])
    text = source.read_text(encoding="utf-8")
    last = Document("last tenth", text[len(text) - len(text) // 10 :])
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for name, content in files(text).items():
            file, run = Path(folder, "text.txt"), Path(folder, name.replace(" ", ""))
            file.write_text(content, encoding="utf-8")
            score = train(settings(str(file), str(run), SEED))
            model, tokenizer = tinygpt.load(str(run))
            loss = evaluate_files(model, TokenText.encode([last], tokenizer))[0].loss
            rows.append({"learned": name, "val_loss": score.loss, "last_tenth_loss": loss})
            print(rows[-1], flush=True)
    out.write_text(json.dumps({"machine": processor(), "seed": SEED, "runs": rows}, indent=1) + "\n")


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    main()
