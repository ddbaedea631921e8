"""Loss, perplexity and surprisal against transformers, on the same windows.

Both sides compute logits in float32; tests/parity/test_transformers.py derives that they differ by 6e-6 of the largest,
which is about 10 here. A loss is the difference of a logit and a log-sum-exp, so its error is at most twice that. The
tolerance of 1e-4 leaves room and still compares four digits of a loss of order 1.
"""

import os

import numpy as np
import pytest

import tinygpt
from tinygpt import GPT, GPTConfig
from tinygpt.evaluate import evaluate, score_tokens

from .conftest import require

os.environ["HF_HUB_OFFLINE"] = "1"  # before the import of transformers: no test needs the network
torch = require("torch")
transformers = require("transformers")
transformers.utils.logging.set_verbosity_error()
transformers.utils.logging.disable_progress_bar()

# transformers and torch raise deprecation warnings. In all other tests warnings are errors.
pytestmark = pytest.mark.filterwarnings("default")

CONTEXT = 24
FAMILIES = {
    "gpt2": {"n_layer": 2, "n_head": 3, "n_embd": 33},
    "llama": {
        **{"n_layer": 2, "n_head": 4, "n_kv_head": 2, "n_embd": 32, "bias": False, "tie_embeddings": False},
        **{"position": "rope", "norm": "rmsnorm", "activation": "swiglu"},
    },
}


def their_losses(model, tokens, window, stride):
    """The loss of every token of tokens[1:], each in the first window that predicts it."""
    found, done = [], 1
    for start in range(0, len(tokens), stride):
        ids = torch.from_numpy(np.asarray(tokens[start : start + window + 1], np.int64))
        with torch.no_grad():
            logits = model(ids[None, :-1]).logits[0].float()
        losses = torch.nn.functional.cross_entropy(logits, ids[1:], reduction="none").numpy()
        found.append(losses[done - start - 1 :])
        done = start + len(ids)
        if done >= len(tokens):
            break
    return np.concatenate(found)


@pytest.fixture(scope="module", params=FAMILIES)
def pair(request, tmp_path_factory):
    """A model of ours with widely differing predictions, and the same model in transformers."""
    config = GPTConfig(vocab_size=50, block_size=CONTEXT, **FAMILIES[request.param])
    model, rng = GPT(config), np.random.default_rng(7)
    for name, parameter in model.named_parameters():
        values = rng.standard_normal(parameter.shape, np.float32)
        parameter.data = 1 + values / 4 if ".norm" in f".{name}" and "weight" in name else values / 3
    folder = tmp_path_factory.mktemp("model")
    tinygpt.save(folder, model)
    kind = transformers.GPT2LMHeadModel if request.param == "gpt2" else transformers.LlamaForCausalLM
    return model, kind.from_pretrained(folder).eval()


@pytest.mark.parametrize(("window", "stride"), [(CONTEXT, CONTEXT), (CONTEXT, 8), (10, 10), (10, 1), (16, 15)])
@pytest.mark.parametrize("n", [2, 24, 25, 26, 160])
def test_every_token_has_the_same_loss(pair, n, window, stride):
    """Catches windows at the wrong start, a token scored in the wrong window, and a wrong loss formula."""
    ours, theirs = pair
    tokens = np.random.default_rng(n).integers(0, ours.config.vocab_size, n)
    wanted = their_losses(theirs, tokens, window, stride)
    assert wanted.shape == (n - 1,)
    np.testing.assert_allclose(score_tokens(ours, tokens, window, stride), wanted, rtol=0, atol=1e-4)
    score = evaluate(ours, tokens, n, window=window, stride=stride)
    assert score.loss == pytest.approx(wanted.mean(dtype=np.float64), rel=1e-5)
    assert score.perplexity == pytest.approx(np.exp(wanted.mean(dtype=np.float64)), rel=1e-4)


def test_one_window_has_the_loss_that_transformers_reports(pair):
    """Catches a mean over something other than the predicted tokens."""
    ours, theirs = pair
    tokens = np.random.default_rng(1).integers(0, ours.config.vocab_size, CONTEXT)
    ids = torch.from_numpy(tokens[None])
    with torch.no_grad():
        wanted = float(theirs(ids, labels=ids).loss)
    assert evaluate(ours, tokens, CONTEXT).loss == pytest.approx(wanted, rel=1e-5)


def test_the_lens_equals_the_hidden_states_of_transformers(pair):
    """Catches a residual stream that differs from the hidden states of transformers."""
    from tinygpt.tokenizers import CharTokenizer
    from tinygpt.viz.read import read

    ours, theirs = pair
    tokenizer = CharTokenizer.train("")

    class Small(CharTokenizer):
        def encode(self, text):
            return np.frombuffer(text.encode(), np.uint8).astype(np.int32) % 50

    tokenizer.__class__ = Small
    view = read(ours, tokenizer, "def main(x): return")
    ids = torch.from_numpy(view.ids[None, :-1].astype(np.int64))
    with torch.no_grad():
        states = theirs(ids, output_hidden_states=True).hidden_states
        norm = theirs.transformer.ln_f if hasattr(theirs, "transformer") else theirs.model.norm
        for k, layer in enumerate(view.lens.layers):
            # The last hidden state of transformers is already normalised.
            state = states[layer] if layer == ours.config.n_layer else norm(states[layer])
            logits = theirs.lm_head(state)[0]
            losses = torch.nn.functional.cross_entropy(logits, torch.from_numpy(view.ids[1:].astype(np.int64)),
                                                       reduction="none")  # fmt: skip
            np.testing.assert_allclose(view.lens.losses[k], losses.numpy(), rtol=0, atol=2e-4)
