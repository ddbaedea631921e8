"""The model: every option, its gradients, its KV cache, and invalid arguments."""

import math

import numpy as np
import pytest
from gpt_reference import BASE, CONFIGS, LLAMA, TARGETS, TOKENS, logits, loss, spread, weights

from tinygpt import GPT, GPTConfig, kernels, no_grad
from tinygpt.kernels import registry

# Logits and gradients are of order 1 to 10 after about a hundred roundings of at most 10 x 2^-24 = 6e-7 each.
ROUNDING = 2e-5
RUNGS = sorted({rung for rungs in kernels.available().values() for rung in rungs})


@pytest.fixture(scope="module", params=CONFIGS)
def model(request):
    return spread(request.param)


@pytest.mark.parametrize("rung", RUNGS)
def test_logits_and_loss(model, rung):
    """Catches a part of the forward pass that is missing, repeated or misplaced."""
    want = logits(model.config, weights(model), TOKENS)
    with kernels.use(rung):
        got = model(TOKENS)
        value = model.loss(TOKENS, TARGETS)
    assert got.shape == (*TOKENS.shape, BASE["vocab_size"])
    np.testing.assert_allclose(got.data, want, rtol=0, atol=ROUNDING)
    assert value.shape == ()
    assert value.item() == pytest.approx(loss(model.config, weights(model), TOKENS, TARGETS), abs=ROUNDING)


def coordinates(parameter):
    """Three random places, and the place with the largest gradient."""
    rng = np.random.default_rng(parameter.data.size)
    flat = {int(abs(parameter.grad).argmax()), *rng.integers(0, parameter.data.size, 3).tolist()}
    return [np.unravel_index(i, parameter.shape) for i in flat]


@pytest.mark.parametrize("rung", [registry.default_rung(), "numpy"])
def test_gradients(model, rung):
    """Catches a wrong, missing or doubled gradient of any parameter, by central differences in float64.

    Single places are tested, and one random direction through all parameters at once, so that no element is left out.
    """
    config, p, step = model.config, weights(model), 1e-5
    model.zero_grad()
    with kernels.use(rung):
        model.loss(TOKENS, TARGETS).backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        for place in coordinates(parameter):
            held, ends = p[name][place], []
            for side in (step, -step):
                p[name][place] = held + side
                ends.append(loss(config, p, TOKENS, TARGETS))
            p[name][place] = held
            assert parameter.grad[place] == pytest.approx((ends[0] - ends[1]) / (2 * step), abs=ROUNDING), name
    rng = np.random.default_rng(0)
    direction = {name: rng.standard_normal(value.shape) for name, value in p.items()}
    ends = [loss(config, {n: p[n] + side * d for n, d in direction.items()}, TOKENS, TARGETS) for side in (step, -step)]
    grads = {name: parameter.grad.astype(float) for name, parameter in model.named_parameters()}
    slope = sum((grads[name] * d).sum() for name, d in direction.items())
    assert slope == pytest.approx((ends[0] - ends[1]) / (2 * step), abs=50 * ROUNDING, rel=1e-4)


def test_every_parameter_receives_gradient(model):
    """Catches a part without a path to the loss, down to one row of a weight: queries, keys, values, gates."""
    model.zero_grad()
    model.loss(TOKENS, TARGETS).backward()
    for name, parameter in model.named_parameters():
        grad = parameter.grad
        assert np.isfinite(grad).all(), name
        if name == "wpe.weight":
            assert not grad[TOKENS.shape[1] :].any()
            grad = grad[: TOKENS.shape[1]]
        if name == "wte.weight" and not model.config.tie_embeddings:
            # The last token of the first row has no target, so nothing depends on it.
            unused = np.setdiff1d(np.arange(13), [*TOKENS[0, :-1], *TOKENS[1]])
            assert not grad[unused].any()
            grad = np.delete(grad, unused, axis=0)
        rows = grad if grad.ndim == 2 else grad[None]
        assert (abs(rows).max(-1) > 1e-5).all(), name


def test_every_option_changes_the_logits():
    """Catches an option that is accepted and ignored."""
    base = BASE | {"position": "rope", "n_head": 4, "n_embd": 16}
    changes = [
        {"position": "learned"},
        {"norm": "rmsnorm"},
        {"activation": "swiglu"},
        {"n_layer": 3},
        {"n_head": 2},
        {"n_embd": 24},
        {"n_kv_head": 2},
        {"ffn_dim": 20},
        {"bias": False},
        {"tie_embeddings": False},
        {"rope_theta": 100.0},
        {"norm_eps": 0.5},
    ]
    fields = set(GPTConfig.__dataclass_fields__) - {"vocab_size", "block_size", "dropout"}
    assert {name for change in changes for name in change} == fields

    def filled(settings):
        """Logits from weights that depend only on name and place, so that a difference comes from the option."""
        model = GPT(GPTConfig(**settings))
        for name, parameter in model.named_parameters():
            place = np.arange(parameter.data.size).reshape(parameter.shape)
            parameter.data = parameter.mean + np.sin(place + sum(name.encode()))
        return model(TOKENS).data

    for change in changes:
        assert abs(filled(base | change) - filled(base)).max() > 1e-2, change


def test_dropout_changes_the_loss():
    """Catches dropout that is ignored in training, or active without a key."""
    plain, dropping = GPT(GPTConfig(**BASE)), GPT(GPTConfig(**BASE, dropout=0.5))
    value = plain.loss(TOKENS, TARGETS).item()
    assert plain.loss(TOKENS, TARGETS, (0, 0, 0)).item() == value
    assert dropping.loss(TOKENS, TARGETS).item() == value
    np.testing.assert_array_equal(dropping(TOKENS).data, plain(TOKENS).data)
    losses = {dropping.loss(TOKENS, TARGETS, key).item() for key in ((0, 0), (1, 0), (0, 1), (0, 0, 1))}
    assert len(losses | {value}) == 5
    assert dropping.loss(TOKENS, TARGETS, (0, 1, 2)).item() == dropping.loss(TOKENS, TARGETS, (0, 1, 2)).item()


def test_dropout_sites(monkeypatch):
    """Catches two sites that share a mask, and a missing site."""
    sites = []
    dropout = registry.active.dropout
    monkeypatch.setattr(registry.active, "dropout", lambda *a: (sites.append(a[5]), dropout(*a)))
    model = GPT(GPTConfig(**BASE, dropout=0.5))
    model.loss(TOKENS, TARGETS, (0, 0))
    assert sites == [0, 1, 2, 3, 4]  # the embeddings, then two branches in each of two blocks


@pytest.mark.parametrize("splits", [*((t,) for t in range(1, 8)), (2, 5), (1, 2, 3), tuple(range(1, 8))], ids=str)
def test_logits_with_the_cache(model, splits):
    """Catches rotations, positions and masks that ignore earlier tokens, at every split of a full context."""
    tokens = np.concatenate([TOKENS, TOKENS[:, :1]], axis=1)
    assert tokens.shape[1] == model.config.block_size
    with no_grad():
        cache = model.new_cache(len(tokens))
        parts = [model(part, cache).data for part in np.split(tokens, splits, axis=1)]
        assert cache.length == model.config.block_size
        np.testing.assert_allclose(np.concatenate(parts, axis=1), model(tokens).data, rtol=0, atol=ROUNDING)


def test_last_position_alone(model):
    """Catches `last` that returns the wrong position, or silently records no tape."""
    with no_grad():
        np.testing.assert_allclose(model(TOKENS, last=True).data, model(TOKENS).data[:, -1:], rtol=0, atol=ROUNDING)
    with pytest.raises(RuntimeError, match=r"^\[GPT\] 'last' must be used under no_grad\(\): it leaves the tape$"):
        model(TOKENS, last=True)


@pytest.mark.parametrize("rung", RUNGS)
def test_later_tokens_change_nothing_before_them(model, rung):
    """Catches a mask that lets a query attend to later keys, also just before the change."""
    with kernels.use(rung), no_grad():
        before = model(TOKENS).data
        for t in range(1, TOKENS.shape[1]):
            changed = TOKENS.copy()
            changed[:, t:] = (changed[:, t:] + 1) % 13
            after = model(changed).data
            np.testing.assert_allclose(after[:, :t], before[:, :t], rtol=0, atol=1e-6 if rung == "numpy" else 0)
            assert (abs(after[:, t] - before[:, t]).max(-1) > 1e-4).all()


def test_earlier_tokens_reach_every_later_position(model):
    """Catches attention to the query's own position only."""
    changed = TOKENS.copy()
    changed[:, 0] = (changed[:, 0] + 1) % 13
    difference = abs(model(changed).data - model(TOKENS).data).max(-1)
    assert (difference > 1e-5).all()


def test_sequences_do_not_see_each_other(model):
    """Catches a batch computed as one long sequence."""
    for row in range(2):
        alone = model(TOKENS[row : row + 1]).data
        np.testing.assert_allclose(alone, model(TOKENS).data[row : row + 1], rtol=0, atol=ROUNDING)


def test_attention_weights(model):
    """Catches weights of the wrong layer, weights that are not causal, and rows that do not sum to 1."""
    config, (B, T) = model.config, TOKENS.shape
    given = [np.full((B, config.n_head, T, T), np.nan, np.float32) for _ in range(config.n_layer)]
    with no_grad():
        plain = model.hidden(TOKENS).data
        np.testing.assert_allclose(model.hidden(TOKENS, weights=given).data, plain, rtol=0, atol=ROUNDING)
    for weights_of_layer in given:
        np.testing.assert_allclose(weights_of_layer.sum(-1), 1, atol=1e-5)
        assert not np.triu(weights_of_layer, 1).any()
    if config.n_layer > 1:
        assert abs(given[0] - given[1]).max() > 1e-2


def test_defaults_of_the_config():
    """Catches a default that differs from the design."""
    config = GPTConfig(vocab_size=259)
    assert (config.block_size, config.n_layer, config.n_head, config.n_embd) == (64, 2, 2, 64)
    assert (config.kv_heads, config.head_dim, config.ffn_width) == (2, 32, 256)
    assert [GPTConfig(259, n_embd=n, activation="swiglu").ffn_width for n in (24, 26, 64, 768)] == [64, 128, 192, 2048]
    assert GPTConfig(259, ffn_dim=17).ffn_width == 17
    with pytest.raises(AttributeError):
        config.n_layer = 3  # type: ignore[misc]


def test_count_of_parameters():
    """Catches layers of the wrong width, by counts by hand for both families."""
    C, F, V = 12, 48, 13
    block = 2 * 2 * C + (3 * C * C + 3 * C) + (C * C + C) + (C * F + F) + (F * C + C)
    assert GPT(GPTConfig(**BASE)).num_parameters() == V * C + 8 * C + 2 * block + 2 * C
    grouped = LLAMA | {"n_head": 6, "n_kv_head": 3, "tie_embeddings": False}
    block = 2 * C + (6 + 2 * 3) * 2 * C + C * C + 2 * 10 * C + 10 * C
    assert GPT(GPTConfig(**grouped)).num_parameters() == 2 * V * C + 2 * block + C


def test_flops_per_token():
    """Catches a matmul that is not counted, by a count by hand for one block."""
    config = GPTConfig(vocab_size=10, block_size=3, n_layer=1, n_head=2, n_embd=4, n_kv_head=1, ffn_dim=5)
    products = (4 + 2 * 2) * 4 + 4 * 4 + 2 * 4 * 5 + 10 * 4
    scores = 2 * 2 * 2 * (1 + 2 + 3) / 3  # two matmuls, two heads of width 2, the mean number of keys
    assert config.flops_per_token(backward=False) == 2 * (products + scores)
    assert config.flops_per_token() == 3 * config.flops_per_token(backward=False)


WRONG = [
    ({"vocab_size": 0}, "'vocab_size' must be a positive integer, got 0"),
    ({"block_size": 2.0}, "'block_size' must be a positive integer, got 2.0"),
    ({"n_layer": True}, "'n_layer' must be a positive integer, got True"),
    ({"n_layer": None}, "'n_layer' must be a positive integer, got None"),
    ({"n_kv_head": 0}, "'n_kv_head' must be a positive integer, got 0"),
    ({"ffn_dim": -1}, "'ffn_dim' must be a positive integer, got -1"),
    ({"n_embd": 13}, "'n_embd' 13 must be a multiple of 'n_head' 2"),
    ({"n_head": 4, "n_kv_head": 3}, "'n_head' 4 must be a multiple of 'n_kv_head' 3"),
    ({"n_embd": 6, "position": "rope"}, "'n_embd' / 'n_head' must be even with rope, got 3"),
    ({"position": "alibi"}, "'position' must be learned or rope, got 'alibi'"),
    ({"norm": None}, "'norm' must be layernorm or rmsnorm, got None"),
    ({"activation": "relu"}, "'activation' must be gelu or swiglu, got 'relu'"),
    ({"bias": "no"}, "'bias' must be True or False, got 'no'"),
    ({"tie_embeddings": 1}, "'tie_embeddings' must be True or False, got 1"),
    ({"dropout": 1.0}, "'dropout' must be at least 0 and less than 1, got 1.0"),
    ({"dropout": math.nan}, "'dropout' must be at least 0 and less than 1, got nan"),
    ({"dropout": "0.1"}, "'dropout' must be a number, got '0.1'"),
    ({"rope_theta": 0.0}, "'rope_theta' must be positive, got 0.0"),
    ({"norm_eps": math.inf}, "'norm_eps' must be positive and finite in float32, got inf"),
    ({"norm_eps": 1e-50}, "'norm_eps' must be positive and finite in float32, got 1e-50"),
    ({"norm_eps": 1e39}, "'norm_eps' must be positive and finite in float32, got 1e+39"),
]


@pytest.mark.parametrize(("change", "text"), WRONG, ids=str)
def test_invalid_configs(change, text):
    """Catches a config that would fail later, deep inside, or train something other than requested."""
    with pytest.raises(ValueError) as error:  # noqa: PT011 - the whole text is compared
        GPTConfig(**(BASE | change))
    assert str(error.value) == f"[GPTConfig] {text}"


def test_invalid_tokens():
    """Catches ids outside the table, positions past the context, and floats."""
    model = GPT(GPTConfig(**BASE))
    cases = [
        (TypeError, np.ones((1, 2)), "[GPT] 'tokens' must be integers, got float64"),
        (ValueError, np.ones(3, int), "[GPT] 'tokens' must have shape (B, T) with T at least 1, got (3,)"),
        (ValueError, np.ones((1, 0), int), "[GPT] 'tokens' must have shape (B, T) with T at least 1, got (1, 0)"),
        (ValueError, np.ones((1, 9), int), "[GPT] 'tokens' must fit the context of 8, got 9"),
        (IndexError, np.array([[3, 13]]), "[GPT] 'tokens' must be in 0..12, got 13"),
        (IndexError, np.array([[3, -1]]), "[GPT] 'tokens' must be in 0..12, got -1"),
        (IndexError, np.array([[2**32 + 3]]), "[GPT] 'tokens' must be in 0..12, got 4294967299"),
    ]
    for kind, tokens, text in cases:
        with pytest.raises(kind) as error:
            model(tokens)
        assert str(error.value) == text
    with pytest.raises(ValueError, match=r"^\[GPT\] 'targets' must have the shape of tokens \(2, 7\), got \(14,\)$"):
        model.loss(TOKENS, TARGETS.reshape(-1))
    with pytest.raises(IndexError, match=r"'targets' must be below 13, got 13$"):
        model.loss(TOKENS, TARGETS + 1)


def test_invalid_caches():
    """Catches a cache that overflows, is broadcast to other rows, or is extended while recording."""
    model = GPT(GPTConfig(**BASE))
    with no_grad():
        cache = model.new_cache(2)
        model(TOKENS[:, :6], cache)
        with pytest.raises(ValueError, match=r"must fit the context of 8, got 6 cached and 3$"):
            model(TOKENS[:, :3], cache)
        with pytest.raises(ValueError, match=r"^\[GPT\] 'tokens' must have 2 rows, as the cache, got 1$"):
            model(TOKENS[:1, :1], cache)
    with pytest.raises(RuntimeError, match=r"^\[attention\] 'cache' must be used under no_grad\(\)"):
        model(TOKENS[:, :1], cache)
    assert cache.length == 6


@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.int64, np.uint64])
def test_any_integers(dtype):
    """Catches token types that reach the kernels unconverted."""
    model = GPT(GPTConfig(**BASE))
    np.testing.assert_array_equal(model(TOKENS.astype(dtype)).data, model(TOKENS).data)
    np.testing.assert_array_equal(model(TOKENS.astype(dtype)[:, ::-1]).data, model(TOKENS[:, ::-1].copy()).data)
    np.testing.assert_array_equal(model(TOKENS.tolist()).data, model(TOKENS).data)


def test_no_sequences():
    """Catches a crash on an empty batch."""
    model = GPT(GPTConfig(**BASE))
    assert model(np.empty((0, 3), int)).shape == (0, 3, 13)
    assert model.loss(np.empty((0, 3), int), np.empty((0, 3), int)).item() == 0


def test_a_failed_call_can_be_repeated(monkeypatch):
    """Catches a cache that counts the positions of a failed call, which were never written."""
    model = GPT(GPTConfig(**BASE))
    with no_grad():
        cache = model.new_cache(2)
        with monkeypatch.context() as patch:
            patch.setattr(model, "norm", lambda x: 1 / 0)
            with pytest.raises(ZeroDivisionError):
                model(TOKENS[:, :3], cache)
        assert cache.length == 0
        np.testing.assert_array_equal(model(TOKENS[:, :3], cache).data, model(TOKENS[:, :3]).data)
        assert cache.length == 3


def test_integers_of_numpy():
    """Catches a NumPy integer as size that is refused, or kept in a type that JSON does not have."""
    sizes = ("vocab_size", "block_size", "n_layer", "n_head", "n_embd")
    config = GPTConfig(**BASE)
    other = GPTConfig(**(BASE | {name: np.int64(getattr(config, name)) for name in sizes}))
    assert other == config
    assert {type(getattr(other, name)) for name in sizes} == {int}
    with pytest.raises(ValueError, match="'n_layer' must be a positive integer"):
        GPTConfig(**(BASE | {"n_layer": np.True_}))


def test_dropout_keys_in_an_array():
    """Catches a key of NumPy integers that overflows or gives a different mask."""
    model = GPT(GPTConfig(**(BASE | {"dropout": 0.5})))
    want = model.loss(TOKENS, TARGETS, dropout_key=(7, 3, 2)).item()
    assert model.loss(TOKENS, TARGETS, dropout_key=np.array([7, 3, 2])).item() == want
    assert model.loss(TOKENS.tolist(), TARGETS.tolist(), dropout_key=(7, 3, 2)).item() == want


def test_residual_stream_between_the_blocks(model):
    """Catches a residual stream that differs from a block's input, or lacks the embeddings or the last block."""
    stream = []
    with no_grad():
        out = model.hidden(TOKENS, stream=stream)
        assert len(stream) == model.config.n_layer + 1
        np.testing.assert_array_equal(model.norm(stream[-1]).data, out.data)
        for before, block, after in zip(stream, model.blocks, stream[1:], strict=False):
            rotation = model._rotation(0, TOKENS.shape[1])
            np.testing.assert_array_equal(block(before, rotation).data, after.data)


def test_a_model_without_a_seed_is_zero():
    """Catches initial weights that were not requested: norms of 1, or random draws that take time."""
    model = GPT(GPTConfig(vocab_size=11), seed=None)
    assert not any(parameter.data.any() for parameter in model.parameters())
