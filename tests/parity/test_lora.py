"""Adapters against PyTorch: twenty steps over a frozen model of each family, on the same batches."""

import numpy as np
import pytest

from tinygpt import lora

from .test_pytorch import FAMILIES, Peer, _rung, assert_alike, batch, pair, torch, twenty_steps  # noqa: F401 - a fixture

F = torch.nn.functional
RANK, ALPHA = 5, 160.0  # so large that clipping acts in every step

pytestmark = pytest.mark.filterwarnings("default")  # as in test_pytorch


class LoraPeer(Peer):
    """A PyTorch model with x A^T B^T beside every linear layer that has an A; only A and B train."""

    def __init__(self, model):
        super().__init__(model)
        for name, parameter in self.named_parameters():
            parameter.requires_grad_("lora" in name)

    def linear(self, name, x):
        out, a = super().linear(name, x), self.part(f"{name}_lora_A")
        return out if a is None else out + ALPHA / RANK * F.linear(F.linear(x, a), self.part(f"{name}_lora_B"))

    def parameters(self, recurse=True):
        """Parameters for the optimizer."""
        return [parameter for parameter in super().parameters(recurse) if parameter.requires_grad]


def adapted(family, targets=None):
    """A model with adapters and its peer, as `pair` makes them without."""
    model, _ = pair(family)
    lora.add(model, RANK, ALPHA, targets, seed=6)
    return model, LoraPeer(model)


@pytest.mark.usefixtures("_rung")
@pytest.mark.parametrize("family", FAMILIES)
def test_gradients(family):
    """Catches a scale, a product or a branch that differs from the formula in PyTorch, away from B = 0."""
    model, _ = adapted(family)
    for parameter in lora.parameters(model):
        parameter.data = 0.01 * np.random.default_rng(parameter.start).standard_normal(parameter.shape)
    peer = LoraPeer(model)
    tokens, targets = batch(0)
    loss, peers_loss = model.loss(tokens, targets), peer.loss(*map(torch.from_numpy, (tokens, targets)))
    assert loss.item() == pytest.approx(peers_loss.item(), abs=1e-5)
    loss.backward()
    peers_loss.backward()
    ours = {name.replace(".", "_"): parameter.grad for name, parameter in model.named_parameters()}
    for name, parameter in peer.named_parameters():
        if "lora" not in name:
            assert ours[name] is None
            continue
        grad = parameter.grad.numpy()
        assert abs(grad).max() > 1e-5, name
        np.testing.assert_allclose(ours[name], grad, rtol=0, atol=2e-5 * abs(grad).max(), err_msg=name)


@pytest.mark.usefixtures("_rung")
@pytest.mark.parametrize("targets", [None, ["down", "up", "qkv"]])
@pytest.mark.parametrize("family", FAMILIES)
def test_twenty_steps(family, targets):
    """Catches whatever a run with adapters is off by: what trains, decay, clipping, the moments of what is frozen."""
    model, peer = adapted(family, targets)
    frozen = {name: p.data.tobytes() for name, p in model.named_parameters() if "lora" not in name}
    assert_alike(*twenty_steps(model, peer, peer.loss, lora.parameters(model)))
    assert {name: p.data.tobytes() for name, p in model.named_parameters() if "lora" not in name} == frozen
