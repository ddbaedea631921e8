"""LoRA adapters against PyTorch: gradients and twenty steps over a frozen model of each family."""

import numpy as np
import pytest

from tinygpt import lora

from .test_pytorch import FAMILIES, Peer, _rung, assert_alike, batch, pair, torch, twenty_steps  # noqa: F401 - a fixture

F = torch.nn.functional
RANK, ALPHA = 5, 160.0  # large, so that the gradient is clipped in every step

pytestmark = pytest.mark.filterwarnings("default")  # for the same reason as in test_pytorch.py


class LoraPeer(Peer):
    """A PyTorch model that adds x A^T B^T to every linear layer with an adapter; only A and B are trained."""

    def __init__(self, model):
        super().__init__(model)
        for name, parameter in self.named_parameters():
            parameter.requires_grad_("lora" in name)

    def linear(self, name, x):
        out, a = super().linear(name, x), self.part(f"{name}_lora_A")
        return out if a is None else out + ALPHA / RANK * F.linear(F.linear(x, a), self.part(f"{name}_lora_B"))

    def parameters(self, recurse=True):
        """The trainable parameters, for the optimizer and for clipping."""
        return [parameter for parameter in super().parameters(recurse) if parameter.requires_grad]


def adapted(family, targets=None):
    """A model with adapters and its peer; `pair` gives them without adapters."""
    model, _ = pair(family)
    lora.add(model, RANK, ALPHA, targets, seed=6)
    return model, LoraPeer(model)


@pytest.mark.usefixtures("_rung")
@pytest.mark.parametrize("family", FAMILIES)
def test_gradients(family):
    """Catches a wrong scale, a wrong matmul or a missing branch, with B other than 0."""
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
    """Catches a wrong set of trained parameters, wrong decay or clipping, and updates of frozen weights."""
    model, peer = adapted(family, targets)
    frozen = {name: p.data.tobytes() for name, p in model.named_parameters() if "lora" not in name}
    assert_alike(*twenty_steps(model, peer, peer.loss, lora.parameters(model)))
    assert {name: p.data.tobytes() for name, p in model.named_parameters() if "lora" not in name} == frozen
