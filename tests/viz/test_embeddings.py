"""The embeddings page as a file: its data equals the model's embeddings, and no token becomes markup."""

import html
import re
import sys

import numpy as np
import pytest

from tinygpt.tokenizers import BPETokenizer, CharTokenizer
from tinygpt.viz import embeddings as viz
from tinygpt.viz import projection
from tinygpt.viz.embeddings import embeddings
from tinygpt.viz.labels import label
from tinygpt.viz.token_classes import CLASSES, class_of_text, classify

from .embeddings_data import HOSTILE, Words, data_of, model_for
from .page_data import json_of


@pytest.fixture(scope="module")
def tokenizer():
    return Words(HOSTILE)


@pytest.fixture(scope="module")
def model(tokenizer):
    return model_for(tokenizer)


@pytest.fixture(scope="module")
def page(model, tokenizer):
    return embeddings(model, tokenizer, title="<runs>").html


def test_the_data_is_that_of_the_model(page, model, tokenizer):
    """Catches points, classes or neighbours that belong to the wrong rows, and a missing table."""
    data = data_of(page)
    assert (data["title"], data["method"]) == ("<runs>", "PCA")
    tokens, positions = data["views"]
    for view, layer in ((tokens, model.wte), (positions, model.wpe)):
        x = layer.weight.data
        points, shares = projection.pca(x)
        ids, cosines = projection.neighbours(x, viz.NEIGHBOURS)
        np.testing.assert_array_equal(view["points"], points)
        np.testing.assert_array_equal(view["ids"], ids)
        np.testing.assert_array_equal(view["cosines"], cosines)
        assert view["shares"] == shares[: viz.SHARES_SHOWN].tolist()
        assert (view["width"], view["total"], view["k"]) == (8, len(x), viz.NEIGHBOURS)
    assert tokens["labels"] == [label(tokenizer, i) for i in range(tokenizer.vocab_size)]
    assert [CLASSES[k] for k in tokens["classes"]] == [classify(tokenizer, i) for i in range(tokenizer.vocab_size)]
    assert positions["labels"] == [str(i) for i in range(12)]
    assert positions["classes"] is None


@pytest.mark.parametrize("centre", [0.0, 3.0])
def test_untrained_tokens_are_hidden_but_available(centre):
    """Catches a projection dominated by tokens that never occur in the text, with tied weights or without."""
    random = np.random.default_rng(0)
    trained, rare = random.normal(size=(12, 16)), centre + random.normal(0, 0.02, (40, 16))
    tokenizer = Words([f"w{i}" for i in range(51)])
    model = model_for(tokenizer, 16)
    model.wte.weight.data = np.concatenate([rare[:20], trained, rare[20:]]).astype(np.float32)
    made = embeddings(model, tokenizer, what="tokens")
    (view,) = data_of(made.html)["views"]
    names = json_of(made.html)["classNames"]
    hidden = [names[k] == "untrained" for k in view["classes"]]
    assert hidden == [True] * 20 + [False] * 12 + [True] * 20
    np.testing.assert_allclose(view["shares"], projection.pca(trained.astype(np.float32)).shares[:10], rtol=1e-5)
    assert len(view["labels"]) == 52
    assert view["notes"][0].startswith("40 untrained tokens are hidden: they occur rarely or never in")
    assert "40 untrained ones hidden" in made.views[0].describe()


def test_a_model_without_training_shows_all_its_tokens(page):
    """Catches an empty page for a freshly initialised model."""
    assert "untrained'" not in str(data_of(page)["views"][0]["notes"])


def test_no_token_is_markup(page):
    """Catches a token that ends the script, one that is replaced as a template placeholder, and line separators."""
    without = viz.embeddings(model_for(Words(["a"])), Words(["a"])).html
    for mark in ("<script", "</script", "<img", "<b>", "<!--"):
        assert page.count(mark) == without.count(mark), mark
    start = page.index('<script type="application/json"')
    block = page[start : page.index("</script>", start)].partition(">")[2]
    assert block.isascii()
    assert not re.search(r"[<>&\x00-\x1f\x7f]", block)
    assert page.count("plotly.js v") == without.count("plotly.js v")


def test_nothing_comes_from_elsewhere(page):
    """Catches a script or style from the network, and a policy that would allow one."""
    shell = re.sub(r"<script.*?</script>", "", page, flags=re.DOTALL)
    assert not re.search(r"\b(src|srcset|action|poster)\s*=", shell)
    assert re.findall(r'href="([^"]*)"', shell) == ["data:,"]
    assert "url(" not in shell
    assert "@import" not in shell
    (policy,) = re.findall(r'http-equiv="Content-Security-Policy" content="([^"]*)"', page)
    assert policy.startswith("default-src 'none';")
    assert "http" not in policy
    assert "*" not in policy


def test_a_page_is_saved_whole(tmp_path, model, tokenizer):
    """Catches a missing parent folder that is not created, and a file that differs from `html`."""
    made = embeddings(model, tokenizer, what="positions")
    made.save(tmp_path / "new" / "page.html")
    assert (tmp_path / "new" / "page.html").read_text(encoding="utf-8") == made.html


def test_a_notebook_shows_it_apart(model, tokenizer):
    """Catches a page that can reach the notebook around it, and a token that ends the frame."""
    made = embeddings(model, tokenizer)
    found = re.fullmatch(r'<iframe ([^<>]*) srcdoc="([^"<>]*)"([^<>]*)></iframe>', made._repr_html_())
    assert html.unescape(found[2]) == made.html
    assert "allow-same-origin" not in found[1] + found[3]
    assert 'sandbox="allow-scripts allow-downloads"' in found[1] + found[3]
    assert repr(made) == f"<EmbeddingsPage: {tokenizer.vocab_size} tokens, 12 positions, pca>"


def test_the_first_tokens_are_shown(model, tokenizer):
    """Catches a limit that is ignored or not mentioned, and neighbours that are not on the page."""
    data = data_of(embeddings(model, tokenizer, max_tokens=9).html)
    tokens, positions = data["views"]
    assert tokens["labels"] == [label(tokenizer, i) for i in range(9)]
    assert tokens["ids"].shape == (9, 8)
    assert tokens["ids"].max() < 9
    assert tokens["notes"] == [
        f"The first 9 of {tokenizer.vocab_size} tokens by id are shown; neighbours are searched among these."
    ]
    assert len(positions["labels"]) == 12
    assert positions["notes"] == []


def test_tsne_is_limited_and_its_settings_are_shown(model, tokenizer, monkeypatch):
    """Catches t-SNE of a whole vocabulary, an ignored perplexity, and settings missing from the page."""
    pytest.importorskip("sklearn")
    monkeypatch.setattr(viz, "MOST_TSNE_TOKENS", 20)
    made = embeddings(model, tokenizer, "tsne", perplexity=4, seed=7)
    tokens, positions = data_of(made.html)["views"]
    np.testing.assert_array_equal(tokens["points"], projection.tsne(model.wte.weight.data[:20], 4, 7)[0])
    assert (tokens["dims"], tokens["shares"], len(tokens["labels"])) == (2, [], 20)
    assert tokens["notes"][0].startswith("The first 20 of ")
    assert "perplexity 4 and seed 7" in tokens["notes"][1]
    assert positions["notes"][0].startswith("t-SNE with perplexity 4")
    assert len(embeddings(model, tokenizer, "tsne", "tokens", max_tokens=22).views[0].labels) == 22


def test_rotary_positions_are_mentioned_but_not_shown(tokenizer):
    """Catches a view of a position table that does not exist, and a page that does not say so."""
    rope = model_for(tokenizer, position="rope")
    (tokens,) = data_of(embeddings(rope, tokenizer).html)["views"]
    assert tokens["what"] == "tokens"
    assert tokens["notes"] == [f"Positions are not shown: {viz.NO_POSITIONS}."]
    assert data_of(embeddings(rope, tokenizer, what="tokens").html)["views"][0]["notes"] == []
    with pytest.raises(ValueError, match="no position embeddings"):
        embeddings(rope, tokenizer, what="positions")


def test_rows_without_a_token_are_left_out(tokenizer):
    """Catches rows of a padded table, which has more rows than there are tokens."""
    model = model_for(Words([*HOSTILE, "padding", "padding2"]))
    (view,) = data_of(embeddings(model, tokenizer, what="tokens").html)["views"]
    assert len(view["labels"]) == view["total"] == tokenizer.vocab_size


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"method": "umap"}, "'method' must be one of pca, tsne, got 'umap'"),
        ({"what": "heads"}, "'what' must be one of all, tokens, positions, got 'heads'"),
        ({"method": "tsne", "perplexity": 0}, "'perplexity' must be more than 0 and finite, got 0"),
        ({"method": "tsne", "perplexity": float("nan")}, "'perplexity' must be more than 0 and finite, got nan"),
        ({"method": "tsne", "perplexity": 12}, "'perplexity' must be less than the number of positions, 12, got 12"),
        ({"method": "tsne", "max_tokens": 3}, "t-SNE needs at least 4 tokens, got 3"),
        ({"seed": -1}, "'seed' must be in 0 ... 2^32 - 1, got -1"),
        ({"max_tokens": 0}, "'max_tokens' must be at least 1, got 0"),
    ],
)
def test_bad_arguments_are_refused(model, tokenizer, arguments, words):
    """Catches values that scikit-learn or NumPy would accept, or refuse with their own messages."""
    with pytest.raises(ValueError, match=re.escape(words)):
        embeddings(model, tokenizer, **arguments)


def test_weights_that_are_not_finite_are_refused(tokenizer):
    """Catches NaN that reaches the decomposition."""
    model = model_for(tokenizer)
    model.wte.weight.data[3, 1] = np.nan
    with pytest.raises(ValueError, match="must have finite embeddings, got NaN or infinity among its tokens"):
        embeddings(model, tokenizer)


def test_the_extra_is_named(model, tokenizer, monkeypatch):
    """Catches an error that names an extra pip does not know."""
    monkeypatch.setitem(sys.modules, "plotly.offline", None)
    with pytest.raises(ImportError, match=r"pip install 'tinygpt\[viz\]'"):
        _ = embeddings(model, tokenizer).html


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("def", "keyword"), (" return", "keyword"), ("struct", "keyword"), ("None", "keyword"), ("define", "keyword"),
        ("defx", "identifier"), (" self", "identifier"), ("_", "identifier"), ("é", "identifier"), ("x1", "identifier"),
        ("==", "operator"), (" (", "operator"), ('"""', "operator"), (".", "operator"),
        (" ", "whitespace"), ("\n\t", "whitespace"), ("\u2028", "whitespace"),
        ("7", "digit"), ("0x1f", "digit"), ("3.14", "digit"), (" 2", "digit"),
        ("a(", "other"), ("1+", "other"), ("\x00", "other"), ("\U0001f600", "other"), ("", "other"), (".5x-", "other"),
    ],
)  # fmt: skip
def test_classes(text, kind):
    """Catches a token with the class, and so the colour, of another kind of token."""
    assert class_of_text(text) == kind


def test_bytes_are_distinguished_from_characters():
    """Catches a fallback byte classified as its letter, and part of a character classified as a whole one."""
    chars = CharTokenizer("a é")
    kinds = [classify(chars, i) for i in range(chars.vocab_size)]
    assert kinds[:256] == ["byte"] * 256
    assert kinds[256:] == ["identifier", "whitespace", "identifier", "other"]
    pairs = BPETokenizer.train("def f(x): return x\n" * 9, 300)
    assert classify(pairs, int(pairs.encode("é")[0])) == "byte"
    assert classify(pairs, int(pairs.encode("x")[0])) == "identifier"
    assert classify(pairs, pairs.eot_id) == "other"
