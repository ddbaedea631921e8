"""The read page as a file: its surprisals equal eval's, its layers equal the model's, and its text is escaped."""

import math

import gpt_reference
import numpy as np
import pytest

from tinygpt import GPT, GPTConfig, no_grad
from tinygpt.data.discover import Document
from tinygpt.evaluate import TokenText, evaluate
from tinygpt.tokenizers import CharTokenizer
from tinygpt.viz import read as module
from tinygpt.viz.labels import label, lines
from tinygpt.viz.read import choose_layers, read

from .attention_data import HOSTILE
from .page_data import Tags
from .read_data import CODE, TEXT, TOKENIZER, read_back, spread

ROUNDING = 1e-4  # nats: float32 error of two layers with values of order 1 and logits of order 10


def log_softmax(z):
    z = z.astype(np.float64)
    z = z - z.max(-1, keepdims=True)
    return z - np.log(np.exp(z).sum(-1, keepdims=True))


@pytest.mark.parametrize(("window", "stride"), [(None, None), (20, None), (20, 5)])
def test_the_surprisals_sum_to_the_loss_of_eval(window, stride):
    """Catches windows that differ from eval's, a token lost or counted twice, and nats reported as bits."""
    model = spread()
    data = read_back(read(model, TOKENIZER, TEXT, window=window, stride=stride).html)
    text = TokenText.encode([Document("a.py", TEXT)], TOKENIZER)
    step = stride or (window or 48) // 2  # half a window by default, so that every token has context
    score = evaluate(model, text.tokens, text.n_bytes, window=window, stride=step)
    assert len(data["losses"]) == score.tokens == len(text.tokens) - 1
    assert data["losses"].astype(np.float64).sum() == pytest.approx(score.tokens * score.loss, rel=1e-6)
    assert data["loss"] == pytest.approx(score.loss, rel=1e-6)
    assert data["perplexity"] == pytest.approx(score.perplexity, rel=1e-5)
    assert data["bitsPerByte"] == pytest.approx(score.bits_per_byte, rel=1e-6)
    bits = read(model, TOKENIZER, TEXT, window=window, stride=stride).bits.sum()
    assert bits == pytest.approx(data["bitsPerByte"] * len(TEXT.encode()) * (len(text.tokens) - 1) / len(text.tokens))
    T = window or 48
    wanted = [place if place <= T else T - step + 1 + (place - T - 1) % step for place in range(1, len(text.tokens))]
    assert min(data["context"][T:], default=T) > T // 2 or stride == 5
    assert data["context"].tolist() == wanted


@pytest.mark.parametrize("name", gpt_reference.CONFIGS)
def test_predictions_are_those_of_the_model(name):
    """Catches ranks from 0, predictions of the previous or next position, and the wrong token's probability."""
    config = gpt_reference.CONFIGS[name] | {"vocab_size": TOKENIZER.vocab_size, "block_size": 80}
    model = spread(**config)
    ids = TOKENIZER.encode(CODE)
    logs = log_softmax(gpt_reference.logits(model.config, gpt_reference.weights(model), ids[None])[0])[:-1]
    data = read_back(read(model, TOKENIZER, CODE).html)
    true = logs[np.arange(len(ids) - 1), ids[1:]]
    np.testing.assert_allclose(data["losses"], -true, atol=ROUNDING)
    np.testing.assert_array_equal(data["ranks"], 1 + (logs > true[:, None]).sum(1))
    best = np.argsort(-logs, axis=1, kind="stable")[:, :5]
    assert [[data["labels"][i] for i in row] for row in data["best"]] == [
        [label(TOKENIZER, token) for token in row] for row in best.tolist()
    ]
    np.testing.assert_allclose(data["p"], np.exp(np.take_along_axis(logs, best, 1)), rtol=1e-3, atol=1e-6)
    assert [data["labels"][i] for i in data["tokens"]] == [label(TOKENIZER, token) for token in ids.tolist()]


def test_equal_logits_are_ranked_by_id():
    """Catches ties in arbitrary order, and a rank that counts the token itself."""
    logits = np.array([[1, 3, 3, 0, 3, 2]], np.float32)
    assert [int(module._ranks(logits, np.array([token], np.int32))[0]) for token in range(6)] == [5, 1, 2, 6, 3, 4]
    assert module._best(logits[0], 4).tolist() == [1, 2, 4, 5]
    assert module._best(logits[0], 6).tolist() == [1, 2, 4, 5, 0, 3]


@pytest.mark.parametrize("changes", [{}, {"position": "rope", "norm": "rmsnorm", "activation": "swiglu"}])
def test_the_lens_is_the_norm_and_the_head_on_the_residual_stream(changes, monkeypatch):
    """Catches a layer under the wrong name, a missing norm, and rows lost between windows or chunks.

    The logits of the lens after k layers are those of a model that has only these k layers. The test builds that model
    and compares.
    """
    monkeypatch.setattr("tinygpt.evaluate.LOGIT_BYTES", 4 * TOKENIZER.vocab_size * 9)
    monkeypatch.setattr(module, "BATCH_TOKENS", 40)
    model = spread(n_layer=3, **changes)
    data = read_back(read(model, TOKENIZER, TEXT, window=20, stride=10).html)
    lens = data["lens"]
    assert lens["layers"] == [0, 1, 2, 3]
    text = TokenText.encode([Document("", TEXT)], TOKENIZER).tokens
    for k in range(4):
        first = GPT(GPTConfig(**{**model.config.__dict__, "n_layer": max(1, k)}))
        first.blocks, first.wte, first.wpe = model.blocks[:k], model.wte, model.wpe
        first.norm, first.head = model.norm, model.head
        for place in range(1, len(text)):
            start = 0 if place <= 20 else 10 * -(-(place - 20) // 10)
            with no_grad():
                logs = log_softmax(first(text[None, start:place]).data[0, -1])
            true = logs[text[place]]
            assert lens["losses"][k, place - 1] == pytest.approx(-true, abs=ROUNDING)
            assert abs(lens["ranks"][k, place - 1] - 1 - (logs > true).sum()) <= ((abs(logs - true) < 1e-4).sum() - 1)
            assert lens["p"][k, place - 1] == pytest.approx(math.exp(logs.max()), rel=1e-3)
            found = data["labels"][lens["top"][k, place - 1]]
            assert found in [label(TOKENIZER, int(i)) for i in np.flatnonzero(logs > logs.max() - 1e-4)]
    np.testing.assert_array_equal(lens["losses"][-1], data["losses"])
    np.testing.assert_array_equal(lens["ranks"][-1], data["ranks"])
    np.testing.assert_array_equal(lens["top"][-1], data["best"][:, 0])


def test_layers_are_spread_evenly():
    """Catches a missing last layer, a repeated layer, and more layers than the model has."""
    assert choose_layers(30, 0) == []
    assert choose_layers(30, 1) == [30]
    assert choose_layers(30, 4) == [0, 10, 20, 30]
    assert choose_layers(3, 100) == [0, 1, 2, 3]
    for depth in range(1, 40):
        for count in range(2, 45):
            found = choose_layers(depth, count)
            assert (found[0], found[-1], len(found)) == (0, depth, min(count, depth + 1))


def test_without_the_lens_there_are_no_layers():
    """Catches a page that needs layers, and a mean over none."""
    view = read(spread(), TOKENIZER, CODE, lens_layers=0)
    data = read_back(view.html)
    assert data["lens"]["layers"] == []
    assert data["lens"]["losses"].size == 0


def test_lines_and_columns_are_those_of_the_file():
    """Catches a token on the line where it ends, columns in bytes, and a character counted twice."""
    data = read_back(read(spread(), TOKENIZER, TEXT).html)
    at, before = 0, TEXT.encode()
    for token, line, column in zip(TOKENIZER.encode(TEXT).tolist(), data["line"], data["column"], strict=True):
        passed = before[:at]
        start = passed.rfind(b"\n") + 1
        assert line == passed.count(b"\n") + 1
        # A byte in the middle of a character counts as one column after the last complete character.
        assert column == len(passed[start:].decode("utf-8", "ignore")) + 1 + _broken(passed[start:])
        at += len(TOKENIZER.token_bytes(token))
    assert at == len(before)


def _broken(data):
    """Return 1 if data ends within a character, else 0."""
    return int(data.decode("utf-8", "ignore").encode() != data)


@pytest.mark.parametrize(
    ("text", "shown"),
    [("\n\n    ", ["", "", "    "]), ("a\n", ["a", ""]), ("\tx y", ["\tx y"]), ("␣", ["␣"]), ("↵", ["↵"]),
     ("\r\n", ["␍", ""]), ("\u202e\n", ["[U+202E]", ""]), ("\u0301", ["◌\u0301"]), ("</script>", ["</script>"])],
)  # fmt: skip
def test_a_token_is_split_into_its_lines(text, shown):
    """Catches a newline within a line, a literal symbol shown as the blank it represents, and an invisible sign."""

    class One(CharTokenizer):
        def token_bytes(self, token):
            return text.encode()

        def token_text(self, token):
            from tinygpt.tokenizers.base import visible

            return visible(text)

    assert lines(One.train("a"), 256) == shown
    tokenizer = CharTokenizer.train("a")
    assert [lines(tokenizer, i) for i in (0xE2, 256, 257, 258)] == [["<0xE2>"], ["a"], ["<|endoftext|>"], ["<258>"]]


def test_hostile_text_stays_data():
    """Catches markup, quotes or separators of a file, its name or a model's name that reach the page unescaped."""
    wicked = '</title><img src="x">'
    text = read(spread(), TOKENIZER, TEXT, name=wicked, file=wicked).html
    ours = read(spread(), TOKENIZER, "def main").html
    assert [tag for tag, _ in Tags(text).tags] == [tag for tag, _ in Tags(ours).tags]
    data = read_back(text)
    assert data["file"] == data["name"] == wicked
    whole = "".join("\n".join(data["pieces"][i]) for i in data["tokens"])
    assert CODE in whole
    assert "</script><script>hacked=1</script>\"'&<!--" in whole
    assert not set(text) & set("\u2028\u202e\x00\ufeff\u05d0")
    assert HOSTILE not in text


def test_the_page_loads_nothing():
    """Catches any element that loads from the network."""
    for tag, attributes in Tags(read(spread(), TOKENIZER, CODE).html).tags:
        assert tag not in ("iframe", "img", "object", "embed", "base")
        assert attributes.get("href", "data:,") == "data:,"
        assert not {"src", "data", "srcset", "poster", "action", "onclick", "style"} & attributes.keys(), tag


def test_a_longer_text_is_cut_at_its_end_and_the_page_says_so():
    """Catches a page of the last tokens instead of the first, and a silent cut."""
    whole, part = read(spread(), TOKENIZER, TEXT), read(spread(), TOKENIZER, TEXT, max_tokens=9)
    assert part.dropped == len(whole.ids) - 9
    assert read_back(part.html)["dropped"] == part.dropped
    np.testing.assert_allclose(part.losses, whole.losses[:8], atol=ROUNDING)
    assert whole.dropped == 0


def test_the_begin_token_is_not_part_of_the_text():
    """Catches a first token of text left without a prediction although a begin token precedes it."""
    tokenizer = CharTokenizer.train(CODE)
    tokenizer.bos_id = tokenizer.eot_id
    view = read(spread(vocab_size=tokenizer.vocab_size), tokenizer, CODE)
    data = read_back(view.html)
    assert len(data["losses"]) == len(CODE)
    assert data["bitsPerByte"] == pytest.approx(view.bits.sum() / len(CODE.encode()))
    assert (data["line"][1], data["column"][1]) == (1, 1)


def test_a_page_of_a_large_model_stays_small():
    """Catches a page that grows with the vocabulary, or exceeds 2 MB for 31 layers and 2000 tokens."""
    n, layers = 2000, list(range(31))
    rng = np.random.default_rng(0)
    view = read(spread(), TOKENIZER, CODE)
    ids = rng.integers(0, TOKENIZER.vocab_size, (31, n - 1)).astype(np.int32)
    some = rng.random((31, n - 1)).astype(np.float32)
    lens = module.Lens(layers, some, ids, ids, some)
    fields = view.__dict__ | {"ids": np.resize(ids, n), "losses": some[0], "ranks": ids[0], "context": ids[0]}
    fields |= {"best": np.resize(ids, (n - 1, 5)), "p": np.resize(some, (n - 1, 5)), "lens": lens}
    names = module.ReadPage.__dataclass_fields__
    large = module.ReadPage(**{name: value for name, value in fields.items() if name in names})
    assert len(large.html.encode()) < 2e6


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"text": ""}, "'text' must have at least two tokens, got 0"),
        ({"text": "d"}, "'text' must have at least two tokens, got 1"),
        ({"max_tokens": 1}, "'max_tokens' must be in 2..10000, got 1"),
        ({"max_tokens": 10001}, "'max_tokens' must be in 2..10000, got 10001"),
        ({"lens_layers": -1}, "'lens_layers' must be at least 0, got -1"),
    ],
)
def test_bad_input_is_refused(changes, words):
    """Catches an empty page, and one too large for a browser."""
    with pytest.raises(ValueError, match=r"^\[read\] ") as caught:
        read(spread(), TOKENIZER, **({"text": CODE} | changes))
    assert words in str(caught.value)


def test_a_broken_model_is_refused():
    """Catches a page full of NaN."""
    model = spread()
    model.wte.weight.data[:] = np.inf
    with np.errstate(all="ignore"), pytest.raises(ValueError, match=r"^\[read\] 'model' must compute finite"):
        read(model, TOKENIZER, CODE)


def test_progress_counts_up_to_its_total():
    """Catches a progress bar that never reaches its end, and one that goes past it."""
    told = []
    read(spread(), TOKENIZER, TEXT, progress=lambda done, n: told.append((done, n)))
    assert [done for done, _ in told] == list(range(1, len(told) + 1))
    assert {n for _, n in told} == {len(told)}


def test_a_notebook_shows_the_page(tmp_path):
    """Catches a missing rich representation, and page text that ends the srcdoc attribute."""
    view = read(spread(), TOKENIZER, TEXT)
    ((tag, attributes),) = Tags(view._repr_html_()).tags
    assert tag == "iframe"
    assert attributes["srcdoc"] == view.html
    view.save(tmp_path / "new" / "page.html")
    assert (tmp_path / "new" / "page.html").read_bytes() == view.html.encode("utf-8")
