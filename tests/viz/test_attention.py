"""The attention page as a file: its weights equal the kernel's, its text is escaped, and it loads nothing."""

import base64
import hashlib
import json
import re

import gpt_reference
import numpy as np
import pytest

from tinygpt import GPT, GPTConfig, reference
from tinygpt.io.paths import check_file
from tinygpt.tokenizers import CharTokenizer
from tinygpt.viz import attention
from tinygpt.viz.attention import visualize
from tinygpt.viz.heads import summaries, uniform
from tinygpt.viz.labels import label
from tinygpt.viz.page import embed, page

from .attention_data import HOSTILE, TOKENIZER, read_back, spread
from .page_data import Tags

PROMPT = "def main(x):\n    return main(x)\n"
ROUNDING = 2e-5  # float32 error of two layers with values of order 1, as in tests/test_model.py


@pytest.mark.parametrize("name", gpt_reference.CONFIGS)
def test_the_weights_are_those_of_the_model(name, monkeypatch):
    """Catches weights of the wrong layer or head, transposed or rounded weights, and a triangle unpacked wrongly."""
    model, expected = spread(name), []
    plain = reference.attention

    def listening(*arguments):
        out = plain(*arguments)
        expected.append(out[2][0])
        return out

    monkeypatch.setattr(reference, "attention", listening)
    ids = TOKENIZER.encode(PROMPT)
    z = gpt_reference.logits(model.config, gpt_reference.weights(model), ids[None])[0]
    view = visualize(model, TOKENIZER, PROMPT)
    _, found = read_back(view.html)
    np.testing.assert_allclose(found, np.array(expected), rtol=0, atol=ROUNDING)
    np.testing.assert_allclose(found.sum(-1), 1, rtol=0, atol=1e-6)
    np.testing.assert_array_equal(found, view.weights)
    p = np.exp(z - z.max(-1, keepdims=True))
    p /= p.sum(-1, keepdims=True)
    for t, prediction in enumerate(view.predictions):
        probabilities = [probability for _, probability in prediction["best"]]
        np.testing.assert_allclose(probabilities, np.sort(p[t])[::-1][:5], rtol=0, atol=ROUNDING)
        if t + 1 < len(ids):
            assert prediction["p"] == pytest.approx(p[t, ids[t + 1]], abs=ROUNDING)


def test_ranks_count_from_the_most_likely():
    """Catches ranks counted from 0 or at the wrong position, unordered ties, and a rank after the last token."""
    tokenizer = CharTokenizer.train("ab")
    logits = np.zeros((3, tokenizer.vocab_size), np.float32)
    a, b = tokenizer.encode("ab").tolist()
    logits[0, a], logits[0, b] = 2, 1
    logits[1, b] = 3
    found = attention._predictions(logits, np.array([a, b, b], np.int32), tokenizer)
    assert [one["rank"] for one in found] == [2, 1, None]
    assert [text for text, _ in found[0]["best"]] == ["a", "b", "<0x00>", "<0x01>", "<0x02>"]
    assert found[2]["p"] is None


def test_summaries_of_maps_that_are_known():
    """Catches swapped summaries, nats for bits, a mean over the first token, and attention to itself as induction."""
    ids = np.array([7, 8, 7, 8, 8])
    previous = np.eye(5, k=-1)
    previous[0, 0] = 1
    first = np.zeros((5, 5))
    first[:, 0] = 1
    found = summaries(np.array([previous, first, np.eye(5), uniform(5)]), ids)
    entropies = [1, np.log2(3), 2, np.log2(5)]
    np.testing.assert_allclose(found["entropy"], [0, 0, 0, np.mean(entropies)], atol=1e-15)
    np.testing.assert_allclose(found["distance"], [1, 2.5, 0, np.mean([0.5, 1, 1.5, 2])])
    np.testing.assert_allclose(found["first"], [0.25, 1, 0, np.mean([1 / 2, 1 / 3, 1 / 4, 1 / 5])])
    np.testing.assert_allclose(found["previous"], [1, 0.25, 0, np.mean([1 / 2, 1 / 3, 1 / 4, 1 / 5])])
    # Tokens 2, 3 and 4 occur earlier at 0, at 1, and at 1 and 3. The tokens after those are at 1, at 2, and at 2 again
    # (the token after position 3 is token 4 itself).
    np.testing.assert_allclose(found["induction"], [2 / 3, 0, 0, np.mean([1 / 3, 1 / 4, 1 / 5])])


def test_a_single_token_has_a_page():
    """Catches a mean over no elements, which warns, and NaN in the JSON."""
    data, weights = read_back(visualize(spread(), TOKENIZER, "d").html)
    assert weights.tolist() == np.ones((2, 2, 1, 1)).tolist()
    assert all(value is None for values in data["summaries"].values() for value in values)
    assert data["predictions"][0]["rank"] is None


@pytest.mark.parametrize(
    ("char", "shown"),
    [(" ", "␣"), ("\n", "↵"), ("\t", "⇥"), ("\r", "␍"), ("\u202e", "[U+202E]"), ("\u2028", "[U+2028]"), ("<", "<"),
     ("\x1b", "[U+001B]"), ("\u200b", "[U+200B]"), ("\u3164", "[U+3164]"), ("\u0301", "◌\u0301"), ("é", "é")],
)  # fmt: skip
def test_labels_hide_nothing(char, shown):
    """Catches a token with an invisible label, one that reverses the text around it, and one that combines with it."""
    tokenizer = CharTokenizer.train(char)
    assert label(tokenizer, 256) == shown


def test_labels_of_tokens_without_text():
    """Catches a single byte shown as a character, and a model with more rows than its tokenizer has tokens."""
    tokenizer = CharTokenizer.train("a")
    assert [label(tokenizer, i) for i in (0xE2, 0x41, 257, 258)] == ["<0xE2>", "<0x41>", "<|endoftext|>", "<258>"]


def test_hostile_text_stays_data():
    """Catches markup, quotes or line separators of a prompt or a model name that reach the page unescaped."""
    text = visualize(spread(), TOKENIZER, HOSTILE, name='</title><img src="x">').html
    ours = visualize(spread(), TOKENIZER, "d").html
    assert [tag for tag, _ in Tags(text).tags] == [tag for tag, _ in Tags(ours).tags]
    data, _ = read_back(text)
    assert "".join(data["tokens"]).startswith("</script><script>hacked=1</script>\"'&<!--[U+2028][U+202E]")
    assert not set(text) & set("\u2028\u202e\x00\ufeff\u05d0")


def test_embedded_json_is_the_same_data():
    """Catches an escape that changes the embedded data, and NaN, which JSON does not have."""
    wicked = {"</script>": ["<!--", "&amp;", "\u2028", "\ud800", '"', "\\u003c"]}
    assert json.loads(embed(wicked)) == wicked
    assert not set(embed(wicked)) & set("<>&\u2028\ud800")
    with pytest.raises(ValueError, match="JSON"):
        embed([float("nan")])


def test_the_page_loads_nothing_and_its_policy_names_its_own_code():
    """Catches any network request, and a content-security-policy hash that blocks the page's own script."""
    text = visualize(spread(), TOKENIZER, PROMPT).html
    for tag, attributes in Tags(text).tags:
        assert tag not in ("iframe", "img", "object", "embed", "base")
        assert attributes.get("href", "data:,") == "data:,"
        assert not {"src", "data", "srcset", "poster", "action", "onclick", "style"} & attributes.keys(), tag
    (policy,) = [a["content"] for tag, a in Tags(text).tags if a.get("http-equiv") == "Content-Security-Policy"]
    for kind in ("script", "style"):
        inside = re.search(rf"<{kind}>(.*?)</{kind}>", text, re.DOTALL)[1]
        digest = base64.b64encode(hashlib.sha256(inside.encode()).digest()).decode()
        assert f"{kind}-src 'sha256-{digest}'" in policy
    assert "default-src 'none'" in policy
    style = re.search(r"<style>(.*?)</style>", text, re.DOTALL)[1]
    assert "url(" not in style
    assert "@import" not in style


@pytest.mark.parametrize(("script", "style"), [("'</SCRIPT>'", ""), ("<!-- x", ""), ("", "/* </style> */")])
def test_code_that_would_end_its_element_is_refused(script, style):
    """Catches a script or style that closes its own element early."""
    with pytest.raises(ValueError, match=r"^\[page\] '(script|style)' must not contain"):
        page("title", "", {}, script, style)


def test_a_large_model_fits():
    """Catches a page over 10 MB for 12 layers of 12 heads and 128 tokens."""
    config = GPTConfig(vocab_size=TOKENIZER.vocab_size, block_size=256, n_layer=12, n_head=12, n_embd=96)
    view = visualize(GPT(config, seed=1), TOKENIZER, PROMPT * 5)
    assert view.weights.shape == (12, 12, 128, 128)
    assert view.dropped == 5 * len(PROMPT) - 128
    assert len(view.html.encode()) < 10e6


def test_a_longer_prompt_is_cut_at_its_end_and_the_page_says_so():
    """Catches a page of the last tokens instead of the first, and a silent cut."""
    view = visualize(spread(), TOKENIZER, PROMPT, max_tokens=5)
    data, weights = read_back(view.html)
    assert "".join(data["tokens"]) == "def␣m"
    assert data["dropped"] == len(PROMPT) - 5
    whole = visualize(spread(), TOKENIZER, PROMPT)
    np.testing.assert_allclose(weights, whole.weights[..., :5, :5], atol=ROUNDING)
    assert whole.dropped == 0


@pytest.mark.parametrize(
    ("changes", "error", "words"),
    [
        ({"prompt": ""}, ValueError, "'prompt' must have at least one token"),
        ({"max_tokens": 0}, ValueError, "'max_tokens' must be in 1..1024, got 0"),
        ({"max_tokens": 1025}, ValueError, "'max_tokens' must be in 1..1024, got 1025"),
        ({"layer": 2}, IndexError, "'layer' must be in 0..1, got 2"),
        ({"layer": -1}, IndexError, "'layer' must be in 0..1, got -1"),
        ({"head": 2}, IndexError, "'head' must be in 0..1, got 2"),
    ],
)
def test_bad_input_is_refused(changes, error, words):
    """Catches an empty page, negative indices counted from the end, and more tokens than a page can hold."""
    with pytest.raises(error, match=r"^\[visualize\] ") as caught:
        visualize(spread(), TOKENIZER, **({"prompt": PROMPT} | changes))
    assert words in str(caught.value)


def test_a_page_too_heavy_for_a_browser_is_refused():
    """Catches a wrong size limit: 4 bytes x 144 heads x t (t + 1) / 2 stays within 32 MB up to t = 332."""
    model = GPT(GPTConfig(vocab_size=13, block_size=1024, n_layer=12, n_head=12, n_embd=12))
    assert attention.shown_tokens(model, 2000, 332) == 332
    assert attention.shown_tokens(GPT(GPTConfig(13, 64, 1, 1, 4)), 2000, 128) == 64  # the context length
    with pytest.raises(ValueError, match=r"'max_tokens' must be at most 332 for 12 x 12 heads, got 333 tokens"):
        attention.shown_tokens(model, 333, 512)


def test_a_broken_model_is_refused():
    """Catches a page full of NaN."""
    model = spread()
    model.wte.weight.data[:] = np.inf
    with np.errstate(all="ignore"), pytest.raises(ValueError, match=r"^\[visualize\] 'model' must compute finite"):
        visualize(model, TOKENIZER, PROMPT)


def test_a_notebook_shows_the_page():
    """Catches a missing rich representation, and page text that ends the srcdoc attribute."""
    view = visualize(spread(), TOKENIZER, HOSTILE)
    ((tag, attributes),) = Tags(view._repr_html_()).tags
    assert tag == "iframe"
    assert attributes["srcdoc"] == view.html
    assert attributes["sandbox"] == "allow-scripts allow-downloads"


def test_a_page_is_saved(tmp_path):
    """Catches a missing parent folder that is not created, and a file that is not UTF-8."""
    view = visualize(spread(), TOKENIZER, PROMPT)
    view.save(tmp_path / "new" / "page.html")
    assert (tmp_path / "new" / "page.html").read_bytes() == view.html.encode("utf-8")


@pytest.mark.parametrize("where", ["folder", "file/page.html"])
def test_a_path_that_cannot_be_written_is_refused(tmp_path, where):
    """Catches a path that is only found to be unwritable after the work is done."""
    (tmp_path / "folder").mkdir()
    (tmp_path / "file").write_text("mine")
    with pytest.raises(ValueError, match=r"^--out "):
        check_file(tmp_path / where, "--out")


def test_a_notebook_gets_the_page_and_one_line_of_text():
    """Catches a cell that shows every attention weight as text, and a page that a notebook cannot display."""
    view = visualize(spread(next(iter(gpt_reference.CONFIGS))), TOKENIZER, PROMPT)
    assert repr(view) == "<AttentionPage: Attention: model>"
    assert view._repr_html_().startswith("<iframe sandbox=")
