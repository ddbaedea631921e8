"""The registry of kernels: choosing, mixing, registering and restoring rungs."""

import os
import subprocess
import sys

import numpy as np
import pytest

from tinygpt import GPT, GPTConfig, kernels, optim
from tinygpt.kernels import numpy_rung, registry, spec

X = np.linspace(-2, 2, 12, dtype=np.float32).reshape(3, 4)


@pytest.fixture(autouse=True)
def _restore():
    """Restore the chosen rungs and remove the registered ones after each test."""
    before = dict(registry._chosen)
    yield
    for rung in {rung for rung, _, _ in registry.functions()} - {*registry.LADDER, "numpy"}:
        kernels.unregister(rung)
    registry._apply(before)


PACKED = {"matmul_bfloat16", "matmul_int8"}  # used for inference only


def test_a_choice_is_permanent():
    """Catches a choice that ends with its statement, or that applies to some ops only."""
    kernels.use("naive")
    assert set(kernels.selection().values()) == {"naive"}
    assert registry.active.matmul is registry.function("matmul", "naive")
    kernels.use("numpy")
    assert registry.active.matmul is numpy_rung.matmul


def test_blocks_restore_the_choice_before():
    """Catches a block that restores the default instead of the previous choice, also when nested."""
    kernels.use("parallel", softmax="numpy")
    before = kernels.selection()
    with kernels.use("naive") as inside:
        assert inside == kernels.selection()
        assert set(inside.values()) == {"naive"}
        with kernels.use(matmul="numpy"):
            assert kernels.selection()["matmul"] == "numpy"
            assert kernels.selection()["softmax"] == "naive"
        assert kernels.selection() == inside
    assert kernels.selection() == before
    assert registry.active.softmax is numpy_rung.softmax


def test_an_exception_restores_too():
    """Catches a block that an exception leaves without restoring."""
    before = kernels.selection()
    with pytest.raises(KeyError), kernels.use("naive"), kernels.use("numpy"):
        raise KeyError
    assert kernels.selection() == before


def test_a_call_inside_a_block_ends_with_it():
    """Catches a block that restores only its own changes."""
    before = kernels.selection()
    with kernels.use(matmul="naive"):
        kernels.use("numpy")
    assert kernels.selection() == before


def test_the_gradient_follows_its_op():
    """Catches softmax="naive" that ignores the gradient of softmax, or overrides one that was named."""
    with kernels.use("blocked", softmax="naive", attention="numpy", attention_backward="parallel"):
        chosen = kernels.selection()
        assert chosen["softmax"] == chosen["softmax_backward"] == "naive"
        assert (chosen["attention"], chosen["attention_backward"]) == ("numpy", "parallel")
        assert chosen["matmul"] == "blocked"
    with kernels.use("blocked", layernorm_backward="naive"):
        assert kernels.selection()["layernorm_backward"] == "naive"
        assert kernels.selection()["layernorm"] != "naive"


def test_missing_ops_come_from_the_rung_below():
    """Catches a missing rung that is an error, or is replaced from the top or bottom of the ladder."""
    with kernels.use("blocked"):
        assert kernels.selection()["matmul"] == "blocked"
        assert kernels.selection()["gelu"] == "parallel"  # there is no blocked gelu
        assert registry.active.gelu is registry.function("gelu", "parallel")
    with kernels.use("parallel"):
        assert set(kernels.selection().values()) == {"parallel"}
    kernels.register("mine", gelu=lambda x, out, n_threads: None)
    assert registry.resolve("matmul", "mine") == registry.resolve("matmul", registry.default_rung())


def test_default_is_the_highest_rung():
    """Catches a new process that does not start at the top of the ladder."""
    code = "from tinygpt import kernels; print(kernels.selection()['matmul'])"
    top = [rung for rung in registry.LADDER if rung in kernels.available()["matmul"]][-1]
    assert run(code) == (0, top, "")


def test_available():
    """Catches an op without rungs, and rungs out of order."""
    available = kernels.available()
    assert list(available) == list(spec.OPS)
    for op, rungs in available.items():
        assert rungs[0] == "naive", op
        assert "numpy" in rungs, op
        ladder = [rung for rung in rungs if rung in registry.LADDER]
        assert ladder == [rung for rung in registry.LADDER if rung in ladder], op
    kernels.register("mine", add=lambda *a: None)
    assert kernels.available()["add"][-1] == "mine"
    assert "mine" not in kernels.available()["gelu"]


WRONG = [
    (lambda: kernels.use("fast"), "unknown rung 'fast'; there are naive, "),
    (lambda: kernels.use("naive", matmull="naive"), "unknown op 'matmull'; there are matmul, "),
    (lambda: kernels.use("naive", softmax="fast"), "unknown rung 'fast' for 'softmax'; there are naive, "),
    (lambda: kernels.use("naive", precision="float16"), "'precision' must be one of float32, bfloat16, got 'float16'"),
    (lambda: kernels.use_text("naive,numpy"), "'naive,numpy' names two rungs for all ops: naive, numpy"),
    (lambda: kernels.use_text("naive,softmax="), "unknown rung '' for 'softmax'"),
    (lambda: kernels.use_text("naive,=numpy"), "unknown op ''"),
    (lambda: kernels.register("naive", add=len), "'rung' must be a name of your own, got 'naive'"),
    (lambda: kernels.register("simd", add=len), "'rung' must be a name of your own, got 'simd'"),
    (lambda: kernels.register("a,b", add=len), "'rung' must be a name of your own, got 'a,b'"),
    (lambda: kernels.register(3, add=len), "'rung' must be a name of your own, got '3'"),
    (lambda: kernels.register("mine"), "rung 'mine' must have at least one op"),
    (lambda: kernels.register("mine", add=len, conv=len), "unknown op 'conv'; there are matmul, "),
    (lambda: kernels.unregister("blocked"), "'rung' must be a registered name of your own, got 'blocked'"),
    (lambda: kernels.unregister("mine"), "'rung' must be a registered name of your own, got 'mine'"),
]


@pytest.mark.parametrize(("call", "text"), WRONG, ids=[text for _, text in WRONG])
def test_unknown_names_change_nothing(call, text):
    """Catches a choice partly made when its error is raised, and an error that does not name the cause."""
    kernels.use("parallel")
    before, there = kernels.selection(), kernels.available()
    with pytest.raises(ValueError) as error:  # noqa: PT011 - the text is compared
        call()
    assert str(error.value).startswith(f"[kernels] {text}")
    assert "\n" not in str(error.value)
    assert kernels.selection() == before
    assert kernels.available() == there


def test_only_functions_can_be_registered():
    """Catches a registered object that fails only when it is called."""
    with pytest.raises(TypeError, match=r"^\[kernels\] 'add' must be callable, got int$"):
        kernels.register("mine", gelu=len, add=3)
    assert "mine" not in kernels.available()["gelu"]


def test_choice_by_text():
    """Catches text that is interpreted differently from the arguments of `use`."""
    with kernels.use("blocked", softmax="naive", gelu="numpy"):
        want = kernels.selection()
    with kernels.use_text(" softmax = naive, blocked ,gelu=numpy,"):
        assert kernels.selection() == want
    with kernels.use("naive"), kernels.use_text("matmul=numpy"):
        assert kernels.selection()["add"] == "naive"
        assert kernels.selection()["matmul"] == "numpy"


def test_plain_arrays_go_through_the_choice():
    """Catches kernels.<op> bound to one rung."""
    calls = []

    def softmax(x, out, n_threads):
        calls.append(x.shape)
        out[...] = 7

    kernels.register("mine", softmax=softmax)
    with kernels.use(softmax="mine"):
        assert (kernels.softmax(X) == 7).all()
    assert calls == [X.shape]
    assert not (kernels.softmax(X) == 7).any()


def counting(calls):
    """A user's rung in Python: every op of the numpy rung, with its calls counted."""

    def wrapped(op, fn):
        def call(*args):
            calls[op] = calls.get(op, 0) + 1
            return fn(*args)

        return call

    return {op: wrapped(op, fn) for op, fn in numpy_rung.FUNCTIONS.items()}


def train(steps=2):
    """The losses of short training runs of two model families."""
    config = GPTConfig(vocab_size=7, block_size=5, n_layer=1, n_head=2, n_embd=8, dropout=0.1)
    llama = GPTConfig(vocab_size=7, block_size=5, n_layer=1, n_head=2, n_embd=8, position="rope", norm="rmsnorm",
                      activation="swiglu", bias=False)  # fmt: skip
    tokens = np.arange(10).reshape(2, 5) % 7
    losses = []
    for one in (config, llama):
        model = GPT(one, seed=1)
        optimizer = optim.AdamW(model.parameters(), 1e-2)
        for step in range(steps):
            optimizer.zero_grad()
            loss = model.loss(tokens, (tokens + 1) % 7, (0, step))
            loss.backward()
            optim.clip_grad_norm(model.parameters(), 1.0)
            optimizer.step()
            losses.append(loss.item())
    return losses


def test_a_training_run_uses_a_registered_rung():
    """Catches an op that bypasses the registry, and ops that never reach a user's rung."""
    calls = {}
    kernels.register("mine", **counting(calls))
    with kernels.use("mine"):
        losses = train()
    with kernels.use("numpy"):
        assert losses == train()
    # Softmax and GELU are fused into attention and matmul, sums of two tensors into matmul and the norms.
    assert set(spec.OPS) - set(calls) == {"softmax", "softmax_backward", "gelu", "add", *PACKED}
    assert calls["matmul"] > 20


def test_a_rung_of_one_op_leaves_the_others():
    """Catches a partial rung that changes the rungs of other ops."""
    calls = {}
    kernels.register("mine", matmul=counting(calls)["matmul"])
    plain = train()
    with kernels.use("mine"):
        chosen = kernels.selection()
        np.testing.assert_allclose(train(), plain, atol=1e-4)
    assert list(calls) == ["matmul"]
    assert {op for op, rung in chosen.items() if rung == "mine"} == {"matmul"}


def test_registering_again_replaces():
    """Catches an old function that stays active after its rung is registered again."""
    kernels.register("mine", add=lambda a, b, out, n_threads: out.fill(1))
    kernels.use("mine")
    assert (kernels.add(X, X) == 1).all()
    kernels.register("mine", add=lambda a, b, out, n_threads: out.fill(2))
    assert (kernels.add(X, X) == 2).all()
    kernels.register("mine", gelu=lambda x, out, n_threads: out.fill(3))
    assert (kernels.add(X, X) == 2).all()
    assert (kernels.gelu(X) == 3).all()


def test_unregistering_restores_the_ops():
    """Catches an op that still calls an unregistered function, now or when a block ends."""
    kernels.register("mine", add=lambda a, b, out, n_threads: out.fill(1))
    kernels.use("mine")
    with kernels.use("naive"):
        kernels.unregister("mine")
    assert (kernels.add(X, X) == X + X).all()
    kernels.register("mine", add=lambda a, b, out, n_threads: out.fill(1))
    kernels.use(add="mine")
    kernels.unregister("mine")
    assert (kernels.add(X, X) == X + X).all()
    assert kernels.selection()["add"] in registry.LADDER


def run(code, **environment):
    """Run a program; return its exit status, its output and the last line of its errors."""
    plain = {k: v for k, v in os.environ.items() if not k.startswith("TINYGPT_")}
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, env=plain | environment
    )
    return done.returncode, done.stdout.strip(), done.stderr.strip().rpartition("\n")[2]


def test_environment():
    """Catches a variable that is ignored, or that overrides a later choice in the program."""
    code = "from tinygpt import kernels; s = kernels.selection(); print(s['matmul'], s['softmax_backward'])"
    assert run(code, TINYGPT_KERNELS="naive,softmax=numpy") == (0, "naive numpy", "")
    code = "from tinygpt import kernels; kernels.use('parallel'); print(kernels.selection()['matmul'])"
    assert run(code, TINYGPT_KERNELS="naive") == (0, "parallel", "")
    code = "from tinygpt import kernels; print(kernels.selection()['matmul'])"
    assert run(code, TINYGPT_KERNELS="") == (0, registry.default_rung(), "")


@pytest.mark.parametrize("text", ["fast", "naive,conv=naive", "softmax=fast"])
def test_environment_with_an_error(text):
    """Catches a misspelt variable that is ignored, so that a user would time the wrong rung."""
    status, output, error = run("from tinygpt import kernels; print('went on')", TINYGPT_KERNELS=text)
    assert status == 1
    assert output == ""
    assert error.startswith(f"ValueError: TINYGPT_KERNELS={text}: unknown ")


def test_the_name_numpy_is_reserved():
    """Catches a user's replacement for the rung that tests and readers compare with."""
    with pytest.raises(ValueError, match=r"^\[kernels\] 'rung' must be a name of your own, got 'numpy'$"):
        kernels.register("numpy", softmax=numpy_rung.softmax)
    with pytest.raises(ValueError, match=r"^\[kernels\] 'rung' must be a registered name of your own, got 'numpy'$"):
        kernels.unregister("numpy")
    assert registry.function("softmax", "numpy") is numpy_rung.softmax


def test_the_example_in_the_docstring():
    """Catches an example in the docstring that prints something else."""
    import doctest

    results = doctest.testmod(kernels)
    assert results.attempted == 5
    assert results.failed == 0
