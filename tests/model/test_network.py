import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from histo_nb.errors import SpecError
from histo_nb.model.network import HistoNet33, ResidualBlock, make_network


def test_it_has_33_convolutions_and_the_stated_size():
    network = HistoNet33(3)
    convolutions = [m for m in network.modules() if isinstance(m, nn.Conv2d)]
    assert len(convolutions) == 33
    assert all(c.bias is None for c in convolutions)
    assert [c.kernel_size for c in convolutions] == [(7, 7)] + [(3, 3)] * 32
    n_parameters = sum(p.numel() for p in network.parameters())
    assert n_parameters == pytest.approx(26.3e6, rel=0.01)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        network.eval()(torch.zeros(1, 3, 224, 224))
    assert counter.get_total_flops() / 2 == pytest.approx(3.6e9, rel=0.03)


def test_taps_are_the_outputs_of_convolutions_1_10_15_and_33():
    network = HistoNet33(3).eval()
    numbers = []  # how many convolutions had run when each tap's stage ended
    run = []
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            module.register_forward_hook(lambda *_: run.append(1))
    network.stem.register_forward_hook(lambda *_: numbers.append(len(run)))
    for stage in network.stages:
        stage.register_forward_hook(lambda *_: numbers.append(len(run)))
    with torch.no_grad():
        taps = network.taps(torch.zeros(1, 3, 224, 224))
    assert numbers == [1, 10, 15, 24, 33]
    assert [tuple(t.shape[1:]) for t in taps] == [
        (64, 112, 112),
        (64, 56, 56),
        (128, 28, 28),
        (512, 7, 7),
    ]


@pytest.mark.parametrize("size", [64, 96, 224])
def test_features_and_logits_have_their_shapes(size):
    network = HistoNet33(5, width=0.125).eval()
    with torch.no_grad():
        features = network.features(torch.randn(2, 3, size, size))
        logits = network(torch.randn(2, 3, size, size))
    assert features.shape[-2:] == (size // 32, size // 32)
    assert logits.shape == (2, 5)
    assert torch.isfinite(logits).all()


def test_fused_map_has_768_channels():
    with torch.no_grad():
        assert HistoNet33(3).eval().features(torch.zeros(1, 3, 64, 64)).shape[1] == 768


def test_gradients_reach_every_parameter():
    torch.manual_seed(0)
    network = HistoNet33(3, width=0.125)
    for block in network.modules():
        if isinstance(block, ResidualBlock):  # they start as shortcuts, with weight 0
            nn.init.ones_(block.convolutions[1][1].weight)
    network(torch.randn(4, 3, 64, 64)).square().sum().backward()
    dead = [n for n, p in network.named_parameters() if p.grad is None or not p.grad.any()]
    assert dead == []


def test_networks_are_found_by_name():
    assert make_network("resnet18", 4).fc.out_features == 4
    with pytest.raises(SpecError, match="resnet34"):
        make_network("resnet_of_dreams", 3)
    with pytest.raises(SpecError, match="does not take"):
        make_network("histonet33", 3, depth=7)
