"""`tinygpt embeddings`: the page it writes, its output, and bad input."""

import json
import re
import sys

import numpy as np
import pytest

from tinygpt import GPT, GPTConfig, cli
from tinygpt.files import model_directory
from tinygpt.viz.embeddings import embeddings, untrained

TSNE = ["--method", "tsne"]
WRONG = {
    "method": (["--method", "umap"], "--method"),
    "what": (["--what", "heads"], "--what"),
    "perplexity of pca": (["--perplexity", "5"], "--perplexity needs --method tsne"),
    "no perplexity": ([*TSNE, "--perplexity", "0"], "--perplexity must be more than 0, got 0"),
    "nan perplexity": ([*TSNE, "--perplexity", "nan"], "--perplexity must be more than 0, got nan"),
    "perplexity of positions": ([*TSNE, "--perplexity", "16"],
                                "--perplexity must be less than the number of positions, 16, got 16"),
    "perplexity of tokens": ([*TSNE, "--perplexity", "50", "--max-tokens", "50", "--what", "tokens"],
                             "--perplexity must be less than the number of tokens, 50, got 50"),
    "too few": ([*TSNE, "--max-tokens", "3"], "t-SNE needs at least 4 tokens, got 3"),
    "seed": ([*TSNE, "--seed", "-1"], "--seed must be at least 0 and less than 2^32, got -1"),
    "no tokens": (["--max-tokens", "0"], "--max-tokens must be at least 1, got 0"),
    "out is a directory": (["--out", "folder"], "--out folder: is a directory"),
    "out below a file": (["--out", "empty.txt/a.html"], "--out empty.txt/a.html: cannot write in"),
    "no model": (["--model", "nowhere"], "nowhere"),
}  # fmt: skip


@pytest.fixture(autouse=True)
def work(tmp_path, monkeypatch):
    """An empty current directory for each test, with an empty file and a folder."""
    (tmp_path / "empty.txt").write_text("")
    (tmp_path / "folder").mkdir()
    monkeypatch.chdir(tmp_path)
    return tmp_path


def refused(capsys, work, *arguments):
    """Run a command that must end with status 2 and leave no file behind; return its one error line."""
    before = {path.name for path in work.iterdir()}
    assert cli.main(["embeddings", *arguments]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("tinygpt: error: ")
    assert err.count("\n") == 1
    assert {path.name for path in work.iterdir()} == before
    return err


@pytest.mark.parametrize("case", WRONG)
def test_bad_input_is_one_line(run, work, capsys, case):
    """Catches a traceback, a wrong exit status, an error that does not name the flag, and a page left behind."""
    arguments, words = WRONG[case]
    if "tsne" in arguments:
        pytest.importorskip("sklearn")
    model = [] if "--model" in arguments else ["--model", str(run)]
    assert words in refused(capsys, work, *model, *arguments)


@pytest.mark.parametrize("arguments", [["--model", "rope", "--what", "positions"]])
def test_a_model_without_positions_is_refused(run, work, capsys, arguments):
    """Catches an empty page, and an error that does not say why there are no positions."""
    model, tokenizer = model_directory.load(run)
    config = GPTConfig(vocab_size=model.config.vocab_size, block_size=8, n_layer=1, n_embd=8, position="rope")
    model_directory.save("rope", GPT(config), tokenizer)
    assert "rope: no position embeddings: the model has rotary positions" in refused(capsys, work, *arguments)
    assert cli.main(["embeddings", "--model", "rope"]) == 0
    assert "note      Positions are not shown: the model has rotary positions" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("module", "arguments", "words"),
    [("plotly.offline", [], "the page needs plotly"), ("sklearn.manifold", TSNE, "t-SNE needs scikit-learn")],
)
def test_a_missing_extra_is_named(run, work, capsys, monkeypatch, module, arguments, words):
    """Catches an error after the work is done, and one that does not say what to install."""
    monkeypatch.setitem(sys.modules, module, None)
    err = refused(capsys, work, "--model", str(run), *arguments)
    assert err == f"tinygpt: error: {words}: pip install 'tinygpt[viz]'\n"


@pytest.mark.parametrize("arguments", [{}, {"what": "positions"}, {"method": "tsne", "seed": 3, "perplexity": 5.0}])
def test_the_page_is_that_of_the_arguments(run, capsys, arguments):
    """Catches a flag without effect, and a missing folder that is not created."""
    if "method" in arguments:
        pytest.importorskip("sklearn")
    words = [word for name, value in arguments.items() for word in (f"--{name}", str(value))]
    assert cli.main(["embeddings", "--model", str(run), "--out", "new/a.html", *words]) == 0
    with open("new/a.html", encoding="utf-8") as file:
        assert file.read() == embeddings(*model_directory.load(run), title=run.name, **arguments).html
    out, err = capsys.readouterr()
    assert err == ""
    assert re.search(r"^written   new/a\.html, \d+\.\d MB$", out, re.MULTILINE)


def test_a_limit_on_tokens_is_reported(run, capsys):
    """Catches a page of some tokens that does not say so."""
    vocab = model_directory.load(run)[1].vocab_size
    assert cli.main(["embeddings", "--model", str(run), "--max-tokens", "20"]) == 0
    out = capsys.readouterr().out
    assert out.startswith(f"tokens    20 of {vocab}, 16 wide; 3 components explain ")
    assert f"The first 20 of {vocab} tokens by id are shown" in out
    with open("embeddings.html", encoding="utf-8") as file:
        (block,) = re.findall(r'<script type="application/json" id="data">(.*?)</script>', file.read(), re.DOTALL)
    assert len(json.loads(block)["views"][0]["labels"]) == 20


def test_the_figures_are_those_of_the_model(run, capsys):
    """Catches shares of the wrong table, and fractions printed as per cent."""
    assert cli.main(["embeddings", "--model", str(run), "--what", "tokens"]) == 0
    x = model_directory.load(run)[0].wte.weight.data
    x = x[~untrained(x)].astype(np.float64)
    variance = np.sort(np.linalg.eigvalsh(np.cov(x.T)))[::-1]
    told = re.search(r"explain ([\d.]+), ([\d.]+), ([\d.]+) %", capsys.readouterr().out)
    np.testing.assert_allclose([float(one) for one in told.groups()], 100 * variance[:3] / variance.sum(), atol=0.051)


def test_quiet_prints_nothing(run, work, capsys):
    """Catches a line printed despite --quiet, and a page that is not written."""
    assert cli.main(["embeddings", "--model", str(run), "--quiet"]) == 0
    assert capsys.readouterr() == ("", "")
    assert (work / "embeddings.html").exists()
