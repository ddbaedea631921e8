"""Traces: every step under its name, equal to its formula, with unchanged results, and nothing left behind."""

import threading
from pathlib import Path

import numpy as np
import pytest
from gpt_reference import CONFIGS, TARGETS, TOKENS, logits, loss, spread, weights
from gpt_steps import expected_steps

import tinygpt
from tinygpt import GPT, GPTConfig, Tensor, lora, nn, no_grad, ops, tracing
from tinygpt.tensor import is_traced
from tinygpt.tracing import formulas

# Tolerance as in test_model.py: values of order 1 to 10 after about a hundred roundings.
ROUNDING = 2e-5
PACKAGE = Path(tinygpt.__file__).parent


@pytest.fixture(scope="module", params=CONFIGS)
def model(request):
    return spread(request.param)


@pytest.fixture(autouse=True)
def _clean():
    """Catches a trace that outlives its ``with`` statement, or that replaces an op for all threads."""
    before = dict(vars(ops))
    yield
    assert dict(vars(ops)) == before
    assert not is_traced()


def test_every_step_equals_its_formula(model):
    """Catches a missing step, a wrong name or order, and a value that does not match its name."""
    with tinygpt.trace() as steps:
        found = model(TOKENS)
    expected = expected_steps(model.config, weights(model), TOKENS)
    np.testing.assert_allclose(expected["logits"], logits(model.config, weights(model), TOKENS), atol=1e-12)
    assert list(steps) == list(expected)
    for name, step in steps.items():
        np.testing.assert_allclose(step.array, expected[name], rtol=ROUNDING, atol=ROUNDING, err_msg=name)
        assert step.shape == expected[name].shape
        assert step.dtype == "float32"
        assert len(step.axes.split()) == len(step.shape), name
    assert np.shares_memory(steps["logits"].array, found.data)
    np.testing.assert_allclose(steps["blocks.0.attn.softmax"].array.sum(-1), 1, atol=1e-6)
    np.testing.assert_allclose(steps["probabilities"].array.sum(-1), 1, atol=1e-6)


def test_letters_match_the_shapes(model):
    """Catches a step whose axis letters contradict its shape."""
    config = model.config
    with tinygpt.trace() as steps, no_grad():
        model(TOKENS)
    F = config.ffn_width
    known = {"B": 2, "T": 7, "S": 7, "C": 12, "H": config.n_head, "G": config.kv_heads, "D": config.head_dim, "F": F}
    known |= {"V": 13, "1": 1, "(H+2G)D": (config.n_head + 2 * config.kv_heads) * config.head_dim}
    known["nF"] = 2 * F if config.activation == "swiglu" else F
    for step in steps.values():
        assert step.shape == tuple(known[letter] for letter in step.axes.split()), step.name
        assert set(step.axes.split()) - {"(H+2G)D"} <= formulas.LETTERS.keys()


@pytest.mark.parametrize("recording", [False, True])
def test_results_are_those_without_a_trace(model, recording):
    """Catches an unfused op with a different result."""
    plain = model(TOKENS).data
    with tinygpt.trace():
        if recording:
            traced = model(TOKENS).data
        else:
            with no_grad():
                traced = model(TOKENS).data
    np.testing.assert_allclose(traced, plain, rtol=0, atol=ROUNDING)


def test_attention_weights_and_the_last_position_are_traced(model):
    """Catches attention weights left unwritten, and missing logits of `last`."""
    shape = (model.config.n_layer, 2, model.config.n_head, 7, 7)
    given, traced = np.zeros(shape, np.float32), np.zeros(shape, np.float32)
    with no_grad():
        model.hidden(TOKENS, weights=list(given))
        plain = model(TOKENS, last=True).data
        with tinygpt.trace() as steps:
            model.hidden(TOKENS, weights=list(traced))
        with tinygpt.trace() as last:
            model(TOKENS, last=True)
    np.testing.assert_allclose(traced, given, atol=ROUNDING)
    np.testing.assert_array_equal(steps["blocks.0.attn.softmax"].array, traced[0])
    np.testing.assert_allclose(last["logits"].array, plain, atol=ROUNDING)


def test_with_a_cache_steps_are_those_of_new_positions(model):
    """Catches a cache not filled under a trace, and later passes that overwrite the first."""
    with no_grad():
        whole = model(TOKENS).data
        cache = model.new_cache(2)
        with tinygpt.trace() as steps:
            model(TOKENS[:, :4], cache)
            kept = steps["blocks.0.attn.k"].array.copy()
            for t in range(4, 7):
                model(TOKENS[:, t : t + 1], cache)
        model.hidden(TOKENS[:, :1], cache)
    np.testing.assert_allclose(steps["logits"].array, whole[:, :4], atol=ROUNDING)
    for n, t in ((2, 4), (3, 5), (4, 6)):
        np.testing.assert_allclose(steps[f"logits@{n}"].array, whole[:, t : t + 1], atol=ROUNDING)
    assert steps["blocks.0.attn.scores@4"].shape == (2, model.config.n_head, 1, 7)
    assert steps["blocks.0.residual2@4"].shape == (2, 1, 12)
    np.testing.assert_array_equal(steps["blocks.0.attn.k"].array, kept)
    assert len(steps) % 4 == 0


def test_generation_is_the_same_under_a_trace(model):
    """Catches sampled tokens changed by a trace."""
    plain = model.generate(TOKENS[:, :3], 4, temperature=0)
    with tinygpt.trace() as steps:
        np.testing.assert_array_equal(model.generate(TOKENS[:, :3], 4, temperature=0), plain)
    assert "logits@4" in steps


def test_gradients_of_parameters_are_those_without_a_trace(model):
    """Catches an unfused op whose gradient is wrong, doubled or lost."""
    model.zero_grad()
    model.loss(TOKENS, TARGETS).backward()
    plain = {name: parameter.grad.copy() for name, parameter in model.named_parameters()}
    model.zero_grad()
    with tinygpt.trace(backward=True) as steps:
        value = model.loss(TOKENS, TARGETS)
        value.backward()
    model.zero_grad()
    assert value.item() == pytest.approx(loss(model.config, weights(model), TOKENS, TARGETS), abs=ROUNDING)
    assert list(steps)[-2:] == ["losses", "loss"]
    assert steps["losses"].array.sum() / (TARGETS >= 0).sum() == pytest.approx(value.item(), abs=1e-6)
    assert steps.parameter_gradients.keys() == plain.keys()
    for name, gradient in steps.parameter_gradients.items():
        np.testing.assert_allclose(gradient, plain[name], rtol=0, atol=ROUNDING, err_msg=name)


def test_gradients_of_steps_equal_finite_differences(model):
    """Catches the gradient of the wrong step, an incomplete one, and one of only some uses."""
    with tinygpt.trace(backward=True) as steps:
        model.loss(TOKENS, TARGETS).backward()
    model.zero_grad()
    whole = tracing.Trace.step
    rng = np.random.default_rng(0)
    silent = {"mean", "rstd", "probabilities", "losses"}
    tried = [name for name in steps if name.rpartition(".")[2] not in silent and name != "loss"]
    assert all(steps[name].gradient is not None for name in tried)
    for name in tried:
        gradient = steps[name].gradient.astype(np.float64)
        # Mostly along the gradient, so that the slope has the size of the whole gradient and any missing part shows.
        direction = np.where(gradient >= 0, 1.0, -1.0) * rng.choice([-1.0, 1.0], gradient.shape, p=[0.2, 0.8])

        def nudged(size, at=name, towards=direction):
            def step(self, wanted, text, op, *args):
                out = whole(self, wanted, text, op, *args)
                if wanted == at:
                    out.data = out.data + np.float32(size) * towards.astype(np.float32)
                return out

            with pytest.MonkeyPatch.context() as patch, no_grad(), tinygpt.trace() as again:
                patch.setattr(tracing.Trace, "step", step)
                model.loss(TOKENS, TARGETS)
            return again["losses"].array.astype(np.float64).sum() / (TARGETS >= 0).sum()

        size = 1e-3
        slope = (nudged(size) - nudged(-size)) / (2 * size)
        # Allows for rounding of the losses (1e-6) divided by the step, and for the third derivative.
        assert abs((gradient * direction).sum() - slope) < 0.01 * np.abs(gradient).sum() + 2e-3, name


def test_scores_in_the_future_have_no_gradient():
    """Catches a mask that lets gradients through."""
    model = spread("gpt2")
    with tinygpt.trace(backward=True) as steps:
        model.loss(TOKENS, TARGETS).backward()
    gradient = steps["blocks.1.attn.scores"].gradient
    assert not gradient[..., np.triu(np.ones((7, 7), bool), 1)].any()
    assert gradient.any()
    np.testing.assert_allclose(gradient.sum(-1), 0, atol=1e-6)  # a softmax does not depend on a common shift


def test_dropout_is_a_step_of_its_own():
    """Catches dropout drawn again under a trace, and a residual added twice."""
    model = spread("gpt2")
    model.config = GPTConfig(**CONFIGS["gpt2"] | {"dropout": 0.5})
    for block in model.blocks:
        block.dropout = 0.5
    plain = model.loss(TOKENS, TARGETS, dropout_key=(3, 4)).item()
    with tinygpt.trace() as steps:
        assert model.loss(TOKENS, TARGETS, dropout_key=(3, 4)).item() == pytest.approx(plain, abs=ROUNDING)
    for name in ("embed.dropout", "blocks.0.attn.out.dropout", "blocks.1.mlp.down.dropout"):
        assert 0.2 < steps[name].stats.zeros < 0.8
    total = steps["blocks.0.attn.out.dropout"].array + steps["embed.dropout"].array
    np.testing.assert_allclose(steps["blocks.0.residual1"].array, total, atol=1e-6)


def test_recompute_is_not_traced_twice():
    """Catches a recomputed block traced as a second pass."""
    model = spread("llama")
    model.recompute = True
    with tinygpt.trace(backward=True) as steps:
        model.loss(TOKENS, TARGETS).backward()
    assert not any("@" in name for name in steps)
    assert steps["blocks.0.mlp.gate"].gradient is not None


# Step of a block -> code of the statement that computes it.
STATEMENTS = {
    "norm1.mean": "x.data.mean(-1",
    "norm1.rstd": "1 / np.sqrt(square + eps)",
    "norm1.normalised": "y = (x.data - ",
    "norm1.weighted": "a.data * b.data",
    "attn.q": "part(qkv, start * D",
    "attn.q.rotated": "kernels.rope(x.data",
    "attn.scores": "out[b, h] = scale * kernels.matmul(q.data",
    "attn.softmax": "active.softmax(X, y",
    "attn.mix": "out[b, :, h] = kernels.matmul(shares.data",
    "residual1": "a.data + b.data",
    "mlp.gate": "x.data[..., start:stop]",
    "mlp.silu": "kernels.swiglu(beside_ones())",
    "mlp.activation": ("active.gelu(X, out", "a.data * b.data"),
}


def line_of(place):
    file, line = place.split(":")
    return (PACKAGE.parent / file).read_text().splitlines()[int(line) - 1].strip()


@pytest.mark.parametrize("name", CONFIGS)
def test_the_source_is_the_statement_that_computes_the_step(name):
    """Catches the line of the function, of an allocation or of a return instead of the statement."""
    with tinygpt.trace() as steps:
        spread(name).loss(TOKENS, TARGETS)
    checked = 0
    for step in steps.values():
        line = line_of(step.source)
        assert not line.startswith(("def ", "@", "if ", "for ")), step.name
        expected = STATEMENTS.get(step.local, ())
        if expected:
            assert any(code in line for code in ([expected] if isinstance(expected, str) else expected)), step.name
            checked += 1
    blocks = 1 + max(step.block or 0 for step in steps.values())
    assert checked >= 8 * blocks
    assert "calls.embedding(" in line_of(steps["embed.token"].source)
    assert "active.cross_entropy(" not in line_of(steps["loss"].source)


def test_the_caller_is_the_line_of_the_model():
    """Catches a frame too high or too low."""
    with tinygpt.trace() as steps:
        spread("mixed")(TOKENS)
    assert "ops.attention(" in line_of(steps["blocks.0.attn.q"].caller)
    for step in steps.values():
        assert step.caller.startswith("tinygpt/model.py:")


def test_steps_of_parts_and_of_operations_alone():
    """Catches a trace that works only on a whole model."""
    model = spread("gpt2")
    x = Tensor(np.ones((1, 2, 12), np.float32))
    layer = nn.Linear(12, 3)
    layer.initialise()
    with tinygpt.trace() as steps, no_grad():
        model.blocks[1](x, None)
        layer(x)
        ops.linear(x, layer.weight)
    names = list(steps)
    assert {"norm1.mean", "attn.scores", "residual1", "mlp.activation", "residual2"} <= set(names)
    assert names[-3:] == ["linear.product", "linear", "linear@2"]
    assert steps["linear@2"].caller.startswith("test_tracing.py:")


def test_statistics():
    """Catches statistics of the wrong values, and NaN or infinity that spoils the others."""
    found = tracing.statistics(np.array([[0, 1, -3, np.nan], [np.inf, -np.inf, 0, 2]], np.float32))
    assert found[:3] == (-3, 2, 0)
    assert found.std == pytest.approx(np.std([0, 1, -3, 0, 2]))
    assert (found.zeros, found.nan, found.infinite) == (2 / 8, 1 / 8, 2 / 8)
    assert np.isnan(tracing.statistics(np.full(2, np.nan, np.float32)).mean)
    assert np.isnan(tracing.statistics(np.zeros(0, np.float32)).min)


def test_arrays_do_not_change():
    """Catches arrays changed by a later pass or by the reader."""
    model = spread("llama")
    with tinygpt.trace() as steps, no_grad():
        model(TOKENS)
        before = {name: step.array.copy() for name, step in steps.items()}
        model(TOKENS[::-1])
    for name, values in before.items():
        np.testing.assert_array_equal(steps[name].array, values)
    with pytest.raises(ValueError, match="read-only"):
        steps["norm"].array[0] = 1


def test_the_limit_keeps_statistics():
    """Catches unbounded memory, and a limit that drops steps."""
    model = spread("gpt2")
    with tinygpt.trace() as whole, no_grad():
        model(TOKENS)
    with tinygpt.trace(limit=10_000) as steps, no_grad():
        model(TOKENS)
    assert list(steps) == list(whole)
    assert steps.bytes == sum(step.array.nbytes for step in steps.values() if step.kept) <= 10_000 < whole.bytes
    assert not steps["blocks.1.mlp.up"].kept
    assert steps["logits"].stats == whole["logits"].stats
    with pytest.raises(
        ValueError, match=r"^\[trace\] the array of 'blocks.1.mlp.up' was not kept, because 'limit' was reached$"
    ):
        _ = steps["blocks.1.mlp.up"].array
    with pytest.raises(ValueError, match=r"^\[trace\] 'limit' must be 0 or more, got -1$"):
        tinygpt.trace(limit=-1)


def test_a_trace_is_a_mapping_with_a_table(tmp_path):
    """Catches a table without a step, wrong arrays in the file, and an unknown name without a suggestion."""
    model = spread("llama")
    with tinygpt.trace(backward=True) as steps:
        model.loss(TOKENS, TARGETS).backward()
    lines = steps.table().splitlines()
    assert lines[0].split() == list(tracing.COLUMNS)
    assert [line.split()[0] for line in lines[1:]] == list(steps)
    assert steps._repr_html_().count("<tr>") == len(steps) + 1 == len(lines)
    with pytest.raises(KeyError, match=r"no step 'blocks.0.attn.sofmax'; did you mean blocks.0.attn.softmax"):
        _ = steps["blocks.0.attn.sofmax"]
    steps.save(tmp_path / "steps.npz")
    with np.load(tmp_path / "steps.npz") as arrays:
        for name, step in steps.items():
            np.testing.assert_array_equal(arrays[name], step.array)
        np.testing.assert_array_equal(arrays["gradient:norm"], steps["norm"].gradient)
        np.testing.assert_array_equal(arrays["gradient:wte.weight"], steps.parameter_gradients["wte.weight"])
    assert (steps["blocks.1.attn.q"].block, steps["blocks.1.attn.q"].local) == (1, "attn.q")
    assert (steps["norm"].block, steps["norm"].local) == (None, "norm")


def test_every_step_of_the_model_has_a_text_of_its_own():
    """Catches a step shown with a generic formula, and a text that no step uses."""
    used = {}
    for name in CONFIGS:
        with tinygpt.trace() as steps:
            spread(name).loss(TOKENS, TARGETS)
        used |= {step.text: step.name for step in steps.values()}
    general = {"linear.product", "linear", "residual", "dropout", "adapter", "adapted"}
    assert not {formulas.TEXTS[key] for key in general} & used.keys()
    assert {text for key, text in formulas.TEXTS.items() if key not in general} == used.keys()


def test_an_exception_leaves_no_trace():
    """Catches a trace that stays active after an error."""
    model = spread("gpt2")
    with pytest.raises(IndexError), tinygpt.trace() as steps:
        model(np.full((1, 2), 99))
    assert not is_traced()
    model(TOKENS)
    assert len(steps) == 0


def test_traces_do_not_nest():
    """Catches a second trace that takes steps from the first, and a trace entered twice."""
    with tinygpt.trace() as outer:
        with pytest.raises(RuntimeError, match=r"^\[trace\] a trace is already active in this thread"), tinygpt.trace():
            pass
        spread("gpt2")(TOKENS)
    assert "logits" in outer
    with pytest.raises(RuntimeError, match=r"^\[trace\] a trace can be entered only once"), outer:
        pass


def test_a_trace_belongs_to_its_thread():
    """Catches steps of another thread, and a trace ended by another thread's."""
    model, seen = spread("llama"), {}
    begun, done = threading.Event(), threading.Event()

    def other(name, rows):
        with tinygpt.trace() as steps:
            begun.set()
            done.wait(10)
            model(TOKENS[:rows])
        seen[name] = steps

    thread = threading.Thread(target=other, args=("other", 1))
    thread.start()
    begun.wait(10)
    plain = model(TOKENS)  # not traced: the only trace is that of the other thread
    with tinygpt.trace() as steps:
        model(TOKENS)
    done.set()
    thread.join()
    assert steps["logits"].shape == (2, 7, 13)
    assert seen["other"]["logits"].shape == (1, 7, 13)
    assert len(steps) == len(seen["other"])
    np.testing.assert_allclose(steps["logits"].array, plain.data, atol=ROUNDING)


@pytest.mark.parametrize(
    ("wrong", "error"),
    [
        (lambda x, w, b: ops.linear(x, w, Tensor(np.ones(2, np.float32))), ValueError),
        (lambda x, w, b: ops.linear(x, w, activation="relu"), ValueError),
        (lambda x, w, b: ops.linear(x, w, residual=b), ValueError),
        (lambda x, w, b: ops.layernorm(x, b), ValueError),
        (lambda x, w, b: ops.rmsnorm(x, b), ValueError),
        (lambda x, w, b: ops.swiglu(Tensor(np.ones((2, 3), np.float32))), ValueError),
        (lambda x, w, b: ops.attention(x, 5, 5), ValueError),
        (lambda x, w, b: ops.embedding(np.array([[1]]), w, w, start=9), ValueError),
        (lambda x, w, b: ops.cross_entropy(x, np.full((1, 2), 99)), IndexError),
        (lambda x, w, b: ops.head_loss(x, w, np.full((1, 2), 99)), IndexError),
    ],
)
def test_wrong_shapes_are_refused_as_without_a_trace(wrong, error):
    """Catches NumPy's broadcasting where the fused op refuses."""
    arguments = [Tensor(np.ones(shape, np.float32)) for shape in ((1, 2, 4), (3, 4), (3,))]
    with pytest.raises(error) as plain:
        wrong(*arguments)
    with pytest.raises(error) as traced, tinygpt.trace():
        wrong(*arguments)
    assert str(traced.value) == str(plain.value)


def test_a_frozen_parameter_stays_frozen():
    """Catches a gradient of a frozen weight under a trace."""
    model = GPT(GPTConfig(**CONFIGS["gpt2"]), seed=0)
    model.blocks[0].mlp.up.weight.requires_grad = False
    with tinygpt.trace(backward=True) as steps:
        model.loss(TOKENS, TARGETS).backward()
    assert "blocks.0.mlp.up.weight" not in steps.parameter_gradients
    assert "blocks.0.mlp.up.bias" in steps.parameter_gradients


@pytest.mark.parametrize("name", ["gpt2", "llama"])
def test_adapters_are_traced(name):
    """Catches an adapter that is missing from a trace, and parts that do not add up."""
    model = spread(name)
    lora.add(model, 2, 4.0)
    for parameter in lora.parameters(model):
        parameter.data = 0.3 * np.random.default_rng(0).standard_normal(parameter.shape)
    plain = model(TOKENS).data
    model.loss(TOKENS, TARGETS).backward()
    gradients = {key: p.grad.copy() for key, p in model.named_parameters() if p.grad is not None}
    model.zero_grad()
    with tinygpt.trace(backward=True) as steps:
        model.loss(TOKENS, TARGETS).backward()
    np.testing.assert_allclose(steps["logits"].array, plain, atol=ROUNDING)
    assert steps.parameter_gradients.keys() == gradients.keys()
    for key, gradient in gradients.items():
        np.testing.assert_allclose(steps.parameter_gradients[key], gradient, atol=ROUNDING, err_msg=key)
    assert "blocks.1.mlp.activation" in steps
    at = "blocks.0.attn.qkv"
    total = steps[f"{at}.frozen"].array + steps[f"{at}.adapter"].array
    np.testing.assert_allclose(steps[at].array, total, atol=1e-6)
    assert steps[f"{at}.adapter"].array.any()


@pytest.mark.parametrize("kind", ["bfloat16", "int8"])
def test_packed_weights_are_traced(kind):
    """Catches a trace that fails on 16- or 8-bit weights, or gives different results."""
    model = spread("grouped")
    model.pack(kind)
    with no_grad():
        plain = model(TOKENS).data
        with tinygpt.trace() as steps:
            traced = model(TOKENS).data
    np.testing.assert_allclose(traced, plain, atol=ROUNDING)
    assert len(steps) == 54
