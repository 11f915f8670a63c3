import warnings

import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode
from torchvision.models import resnet34

from histo_nb.errors import SpecError
from histo_nb.model.histonet import HistoNet33, ResidualBlock
from histo_nb.model.network import NETWORKS, make_network

SMALL = {"histonet33": {"width": 0.125}, "resnet34_taps": {}}  # arguments that spare the machine
# (parameters, MACs at 224 px) for 3 classes, as the documents say.
COSTS = {"histonet33": (26.29e6, 3.644e9), "resnet34_taps": (21.50e6, 3.663e9)}


def small(name, n_classes=3):
    torch.manual_seed(0)
    return make_network(name, n_classes, **SMALL[name])


def convolutions_in_order(network):
    """Return the 33 convolutions; projections in shortcuts do not count."""
    named = [(n, m) for n, m in network.named_modules() if isinstance(m, nn.Conv2d)]
    return [m for n, m in named if "downsample" not in n]


@pytest.mark.parametrize("name", NETWORKS)
def test_it_has_33_convolutions(name):
    convolutions = convolutions_in_order(small(name))
    assert [c.kernel_size for c in convolutions] == [(7, 7)] + [(3, 3)] * 32
    assert all(c.bias is None for c in convolutions)


@pytest.mark.parametrize("name", NETWORKS)
def test_it_costs_what_the_documents_say(name):
    network = make_network(name, 3).eval()
    n_parameters, n_macs = COSTS[name]
    assert sum(p.numel() for p in network.parameters()) == pytest.approx(n_parameters, rel=1e-3)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        network(torch.zeros(1, 3, 224, 224))
    assert counter.get_total_flops() / 2 == pytest.approx(n_macs, rel=1e-3)


@pytest.mark.parametrize(
    ("name", "shapes"),
    [
        ("histonet33", [(64, 112, 112), (64, 56, 56), (128, 28, 28), (512, 7, 7)]),
        ("resnet34_taps", [(64, 112, 112), (128, 28, 28), (128, 28, 28), (512, 7, 7)]),
    ],
)
def test_taps_and_the_fused_map_have_the_stated_channels(name, shapes):
    network = make_network(name, 3).eval()
    with torch.no_grad():
        images = torch.zeros(1, 3, 224, 224)
        assert [tuple(tap.shape[1:]) for tap in network.taps(images)] == shapes
        n_channels = {"histonet33": 768, "resnet34_taps": 832}[name]
        assert network.features(images).shape == (1, n_channels, 7, 7)


@pytest.mark.parametrize("name", NETWORKS)
def test_taps_follow_convolutions_1_10_15_and_33(name):
    """A tap depends on the convolutions up to its number, and on none after it."""
    network = small(name).eval()
    wake_blocks(network)
    convolutions = convolutions_in_order(network)
    for number, tap in zip((1, 10, 15, 33), network.taps(torch.randn(1, 3, 64, 64)), strict=True):
        weights = [c.weight for c in convolutions]
        found = torch.autograd.grad(tap.sum(), weights, allow_unused=True, retain_graph=True)
        assert [i + 1 for i, g in enumerate(found) if g is not None] == list(range(1, number + 1))


def test_taps_of_resnet34_are_its_own_activations():
    network = small("resnet34_taps").eval()
    plain = resnet34().eval()
    plain.load_state_dict(network.backbone.state_dict(), strict=False)
    seen = {}
    for name in ("bn1", "layer2.1.bn1", "layer2", "layer4"):
        plain.get_submodule(name).register_forward_hook(
            lambda _m, _i, out, name=name: seen.update({name: out.clone()})
        )
    images = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        plain(images)
        taps = network.taps(images)
    for tap, expected in zip(taps, seen.values(), strict=True):
        torch.testing.assert_close(tap, expected.relu())


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("size", [64, 96, 224, 320, 512])
def test_features_and_logits_have_their_shapes(name, size):
    network = small(name, 5).eval()
    with torch.no_grad():
        features = network.features(torch.randn(1, 3, size, size))
        logits = network(torch.randn(1, 3, size, size))
    assert features.shape[-2:] == (size // 32, size // 32)
    assert logits.shape == (1, 5)
    assert torch.isfinite(logits).all()


def wake_blocks(network):
    for block in network.modules():
        if isinstance(block, ResidualBlock):  # they start as shortcuts, with weight 0
            nn.init.ones_(block.convolutions[1][1].weight)


@pytest.mark.parametrize("name", NETWORKS)
def test_gradients_reach_every_parameter(name):
    network = small(name)
    wake_blocks(network)
    network(torch.randn(4, 3, 64, 64)).square().sum().backward()
    dead = [n for n, p in network.named_parameters() if p.grad is None or not p.grad.any()]
    assert dead == []


def test_residual_blocks_start_as_shortcuts():
    block = ResidualBlock(8).eval()
    map_ = torch.rand(1, 8, 4, 4)
    assert torch.equal(block(map_), map_)


@pytest.mark.parametrize("name", NETWORKS)
def test_evaluation_is_deterministic_and_treats_each_image_alone(name):
    network = small(name).eval()
    images = torch.randn(3, 3, 64, 64)
    before = {key: value.clone() for key, value in network.state_dict().items()}
    with torch.no_grad():
        together = network(images)
        assert torch.equal(together, network(images))
        alone = torch.cat([network(image[None]) for image in images])
    torch.testing.assert_close(together, alone, rtol=1e-4, atol=1e-5)
    assert all(torch.equal(before[key], value) for key, value in network.state_dict().items())


@pytest.mark.parametrize("name", NETWORKS)
def test_training_drops_out_but_follows_the_seed(name):
    images = torch.randn(4, 3, 64, 64)
    runs = []
    for seed in (1, 1, 2):
        network = small(name).train()
        torch.manual_seed(seed)
        with torch.no_grad():
            runs.append(network(images))
    assert torch.equal(runs[0], runs[1])
    assert not torch.equal(runs[0], runs[2])


@pytest.mark.parametrize("name", NETWORKS)
def test_torchscript_gives_the_same_logits(name):
    network = small(name).eval()
    wake_blocks(network)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # torch.jit is to go
        traced = torch.jit.trace(network, torch.randn(1, 3, 64, 64))
    images = torch.randn(2, 3, 96, 96)  # another batch, another size
    with torch.no_grad():
        torch.testing.assert_close(traced(images), network(images), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("width", "channels"),
    [(0.01, (8, 8, 8, 8)), (0.125, (8, 16, 32, 64)), (0.3, (16, 40, 80, 152))],
)
def test_width_scales_all_channels_in_steps_of_8(width, channels):
    network = HistoNet33(3, width=width)
    assert tuple(stage[0][0].out_channels for stage in network.stages) == channels
    assert network.stem[0].out_channels == channels[0]
    assert network.head[0].in_features == channels[0] * 2 + channels[1] + channels[3]


@pytest.mark.parametrize("width", [0, -1, float("nan"), float("inf"), "wide"])
def test_width_must_be_a_number_above_0(width):
    with pytest.raises(SpecError, match=r"width=.* must be a number above 0"):
        make_network("histonet33", 3, width=width)


@pytest.mark.parametrize(
    "name", ["resnet18", "squeezenet1_1", "mobilenet_v3_small", "shufflenet_v2_x0_5", "googlenet"]
)
def test_networks_of_torchvision_give_one_answer_in_training(name):
    network = make_network(name, 4).train()
    assert network(torch.randn(2, 3, 96, 96)).shape == (2, 4)


def test_inception_has_no_second_answer():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        network = make_network("inception_v3", 4)
    assert network.AuxLogits is None


@pytest.mark.parametrize(
    ("name", "arguments", "message"),
    [
        ("resnet_of_dreams", {}, "'histonet33', 'resnet34_taps' or .* 'resnet34'"),
        ("histonet33", {"depth": 7}, "does not take .*depth"),
        ("resnet34_taps", {"width": 0.5}, "does not take .*width"),
        ("googlenet", {"aux_logits": True}, "leave aux_logits out"),
        ("resnet18", {"weights": "DEFAULT"}, "does not take .*weights"),  # would be downloaded
        ("resnet18", {"groups": 2}, "BasicBlock only supports groups=1"),
        ("vit_b_16", {"image_size": 100}, "indivisible by patch size"),
    ],
)
def test_what_does_not_fit_is_refused_with_a_way_out(name, arguments, message):
    with pytest.raises(SpecError, match=message):
        make_network(name, 3, **arguments)


@pytest.mark.parametrize("n_classes", [0, -3, 2.5, "three"])
def test_classes_are_counted_from_1(n_classes):
    with pytest.raises(SpecError, match="n_classes"):
        make_network("histonet33", n_classes, width=0.125)
