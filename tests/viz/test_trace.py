"""The trace page as a file: its numbers equal the model's, omissions are stated, and its text is escaped."""

import gpt_reference
import numpy as np
import pytest

from tinygpt import GPT, GPTConfig, no_grad
from tinygpt.viz import trace
from tinygpt.viz.labels import label
from tinygpt.viz.trace import as_maps, trace_page

from .attention_data import HOSTILE, TOKENIZER, spread
from .page_data import Tags
from .trace_data import read_back

PROMPT = "def main(x):\n    return x\n"
ROUNDING = 2e-5
# Relative error of float16 values. Below 2^-14 of the largest value they are subnormal: the error is relative to that.
HALF = 2.0**-10


@pytest.mark.parametrize("name", gpt_reference.CONFIGS)
def test_the_numbers_equal_those_of_the_steps(name):
    """Catches numbers of the wrong step, head or position, transposed or rounded ones, and wrong column names."""
    view = trace_page(spread(name), TOKENIZER, PROMPT, backward=True)
    data, found = read_back(view.html)
    assert data["width"] == 4
    assert [station["name"] for station in data["stations"]] == list(view.steps)
    last = view.steps["probabilities"].array[0, -1]
    likeliest = np.argsort(-last, kind="stable")[: trace.MOST_OF_VOCABULARY]
    assert data["vocabulary"] == [label(TOKENIZER, token) for token in likeliest.tolist()]
    for station in data["stations"]:
        step = view.steps[station["name"]]
        for key, array in (("values", step.array), ("gradient", step.gradient)):
            if array is None:
                assert key not in station
                continue
            maps = as_maps(step, array)
            maps = maps[..., likeliest] if step.axes.endswith("V") else maps
            np.testing.assert_array_equal(found[station["name"], key], maps, err_msg=step.name)
        assert station["every"] == 1
        assert station["shape"] == list(step.shape)
        assert station["source"] == step.source


def test_what_the_page_shows_is_what_the_model_computes():
    """Catches attention rows that do not sum to 1, and predictions of the wrong position or weights."""
    model = spread("grouped")
    view = trace_page(model, TOKENIZER, PROMPT)
    data, found = read_back(view.html)
    for layer in range(2):
        np.testing.assert_allclose(found[f"blocks.{layer}.attn.softmax", "values"].sum(-1), 1, atol=1e-6)
    z = gpt_reference.logits(model.config, gpt_reference.weights(model), view.ids[None])[0]
    p = np.exp(z - z.max(-1, keepdims=True))
    p /= p.sum(-1, keepdims=True)
    for t, prediction in enumerate(data["predictions"]):
        given = [probability for _, probability in prediction["best"]]
        np.testing.assert_allclose(given, np.sort(p[t])[::-1][: trace.BEST], rtol=0, atol=ROUNDING)
        if t + 1 < len(view.ids):
            assert prediction["p"] == pytest.approx(p[t, view.ids[t + 1]], abs=ROUNDING)
    assert data["predictions"][-1]["p"] is None


@pytest.mark.parametrize("backward", [False, True])
def test_a_large_model_fits(backward):
    """Catches a page over 10 MB, wrong float16 numbers, and thinning that the page does not mention."""
    config = GPTConfig(vocab_size=TOKENIZER.vocab_size, block_size=64, n_layer=12, n_head=12, n_embd=768, ffn_dim=1024)
    view = trace_page(GPT(config, seed=1), TOKENIZER, PROMPT * 3, backward=backward)
    assert len(view.html.encode()) < 10e6
    data, found = read_back(view.html)
    assert data["width"] == 2
    assert data["dropped"] == 3 * len(PROMPT) - 32
    for station in data["stations"]:
        step = view.steps[station["name"]]
        maps = as_maps(step, step.array)
        if not step.axes.endswith("V"):
            maps = maps[..., :: station["every"]]
            shown = found[step.name, "values"]
            assert station["every"] == 1 or step.axes.split()[-1] not in ("S", "1")
            largest = np.abs(maps[np.isfinite(maps)]).max()
            np.testing.assert_allclose(shown, maps, rtol=HALF, atol=HALF * 2.0**-14 * largest, err_msg=step.name)
    assert any(station["every"] > 1 for station in data["stations"])


def test_float16_numbers_are_scaled_into_range():
    """Catches a value above 65504 that becomes infinite, and small gradients that become 0."""
    for scale in (1e-12, 1.0, 3e7):
        values = (scale * np.array([[[1, -0.25, 0, 0.001]]])).astype(np.float32)
        packed, exponent = trace._packed(values, 2)
        back = np.frombuffer(packed, "<f2").astype(np.float64) * 2.0**exponent
        np.testing.assert_allclose(back, values.ravel(), rtol=HALF)
    packed, _ = trace._packed(np.array([[[-np.inf, 0.0]]], np.float32), 2)
    assert np.frombuffer(packed, "<f2").tolist() == [-np.inf, 0]


def test_too_many_tokens_are_refused_with_a_number_that_fits(monkeypatch):
    """Catches a page of unlimited size, and an error that recommends a number too large."""
    monkeypatch.setattr(trace, "MOST_BYTES", 40_000)
    model = spread("gpt2")
    with pytest.raises(
        ValueError, match=r"^\[trace\] 64 steps of 25 tokens do not fit a page; \d+ tokens would fit"
    ) as caught:
        _ = trace_page(model, TOKENIZER, PROMPT[:25]).html
    fits = int(str(caught.value).split("; ")[1].split()[0])
    assert trace_page(model, TOKENIZER, PROMPT, max_tokens=fits).html
    with pytest.raises(ValueError, match="do not fit"):
        _ = trace_page(model, TOKENIZER, PROMPT, max_tokens=fits + 1).html


def test_hostile_text_stays_data():
    """Catches markup, quotes or separators of a prompt or a model name that reach the page unescaped."""
    text = trace_page(spread(), TOKENIZER, HOSTILE, max_tokens=80, name='</title><img src="x">').html
    ours = trace_page(spread(), TOKENIZER, "d").html
    assert [tag for tag, _ in Tags(text).tags] == [tag for tag, _ in Tags(ours).tags]
    data, _ = read_back(text)
    assert "".join(data["tokens"]).startswith("</script><script>hacked=1</script>\"'&<!--[U+2028][U+202E]")
    assert not set(text) & set("\u2028\u202e\x00\ufeff\u05d0")


def test_a_model_with_nan_has_a_page():
    """Catches NaN in the JSON: the page must open, because it serves to find the step where NaN begins."""
    model = spread("gpt2")
    model.blocks[1].mlp.down.weight.data[0, 0] = np.nan
    data, found = read_back(trace_page(model, TOKENIZER, "def").html)
    stats = {station["name"]: station["stats"] for station in data["stations"]}
    assert stats["blocks.1.attn.out"]["nan"] == 0
    assert 0 < stats["blocks.1.mlp.down"]["nan"] < 1
    assert stats["logits"] == dict.fromkeys(("min", "max", "mean", "std")) | {"zeros": 0, "nan": 1, "infinite": 0}
    assert np.isnan(found["logits", "values"]).all()
    assert data["predictions"][0]["best"] == []


def test_the_model_is_unchanged():
    """Catches gradients left by the page, to which the next training step would add its own."""
    model = spread("gpt2")
    trace_page(model, TOKENIZER, "def", backward=True)
    assert all(parameter.grad is None for parameter in model.parameters())
    with no_grad():
        assert not model(np.array([[1]])).requires_grad


@pytest.mark.parametrize(
    ("changes", "error", "words"),
    [
        ({"prompt": ""}, ValueError, "'prompt' must have at least one token"),
        ({"max_tokens": 0}, ValueError, "'max_tokens' must be in 1..1024, got 0"),
        ({"head": 2}, IndexError, "'head' must be in 0..1, got 2"),
        ({"head": -1}, IndexError, "'head' must be in 0..1, got -1"),
        ({"first": "blocks.7.norm1"}, KeyError, "no step 'blocks.7.norm1'; did you mean blocks.1.norm1"),
        ({"prompt": "d", "backward": True}, ValueError, "'backward' needs at least 2 tokens"),
        ({"limit": 1000}, ValueError, "'limit' must hold all steps of the prompt, got 1000"),
    ],
)
def test_bad_input_is_refused(changes, error, words):
    """Catches an empty page, negative indices counted from the end, and more tokens than a page can hold."""
    with pytest.raises(error, match=r"\[trace\] ") as caught:
        trace_page(spread(), TOKENIZER, **({"prompt": PROMPT} | changes))
    assert words in str(caught.value)
