import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional
from torchvision.models import VisionTransformer

from histo_nb.errors import SpecError
from histo_nb.model.fusion import FusedNetwork
from histo_nb.model.gradcam import gradcam
from histo_nb.model.network import NETWORKS, make_network

CELL = 32  # px


def read_colours(linear):
    """Class 0 is what is red, class 1 what is green; blue speaks against both."""
    with torch.no_grad():
        linear.weight.copy_(torch.tensor([[1.0, 0, -1], [0, 1, -1]]))
        linear.bias.zero_()


class Fused(FusedNetwork):
    """Two taps, both the colours of cells; a head that reads the first one."""

    def __init__(self):
        super().__init__()
        self.add_head([3, 3], 2)
        self.head = nn.Linear(6, 2, bias=False)
        nn.init.zeros_(self.head.weight)
        with torch.no_grad():
            self.head.weight[:, :3] = torch.tensor([[1.0, 0, -1], [0, 1, -1]])

    def taps(self, x):
        return [functional.avg_pool2d(x, CELL // 2), functional.avg_pool2d(x, CELL)]


def plain():
    linear = nn.Linear(3, 2)
    read_colours(linear)
    return nn.Sequential(nn.AvgPool2d(CELL), nn.AdaptiveAvgPool2d(1), nn.Flatten(), linear)


def painted():
    """One image of 4×4 cells: a red one, a fainter red one, a green one, a blue one."""
    cells = torch.zeros(1, 3, 4, 4)
    cells[0, 0, 0, 1] = 1.0
    cells[0, 0, 2, 2] = 0.5
    cells[0, 1, 3, 0] = 0.9
    cells[0, 2, 1, 3] = 5.0
    return cells.repeat_interleave(CELL, 2).repeat_interleave(CELL, 3)


def centres(cam):
    return cam[:, CELL // 2 :: CELL, CELL // 2 :: CELL]


@pytest.mark.parametrize("network", [Fused(), plain()], ids=["fused", "hooked"])
def test_the_map_lights_up_where_the_class_is(network):
    network.eval()
    red = gradcam(network, painted(), 0)
    assert red.shape == (1, 128, 128)
    assert red.dtype == np.float32
    assert red.min() == 0
    assert red.max() == 1
    expected = np.zeros((4, 4))
    expected[0, 1], expected[2, 2] = 1, 0.5  # the green cell says nothing, the blue one is dropped
    np.testing.assert_allclose(centres(red)[0], expected, atol=0.05)
    green = centres(gradcam(network, painted(), 1))[0]
    assert np.unravel_index(green.argmax(), green.shape) == (3, 0)
    assert (np.delete(green.ravel(), 12) < 0.05).all()


def test_enlarging_is_bilinear():
    cam = gradcam(Fused().eval(), painted(), 1)[0]
    row = cam[3 * CELL + CELL // 2]
    np.testing.assert_allclose(np.diff(row[CELL // 2 : CELL + CELL // 2]), -1 / CELL, atol=1e-4)


def test_without_a_number_each_image_is_asked_for_its_own_class():
    network = Fused().eval()
    images = torch.cat([painted(), painted()])
    images[:, 2] = 0
    images[1, 1] *= 9
    each = gradcam(network, images)
    np.testing.assert_array_equal(each[0], gradcam(network, images, 0)[0])
    np.testing.assert_array_equal(each[1], gradcam(network, images, 1)[1])
    assert not np.array_equal(each[0], each[1])


def test_where_nothing_speaks_for_the_class_the_map_is_0():
    blue = painted()
    blue[:, :2] = 0
    assert not gradcam(Fused().eval(), blue, 0).any()


@pytest.mark.parametrize("name", [*NETWORKS, "resnet18", "densenet121", "swin_t", "squeezenet1_1"])
def test_nothing_stays_behind_and_inference_mode_makes_no_difference(name):
    torch.manual_seed(0)
    network = make_network(name, 3).eval()
    before = {key: value.clone() for key, value in network.state_dict().items()}
    images = torch.randn(2, 3, 96, 96)
    cam = gradcam(network, images, 1)
    with torch.inference_mode():
        inside = gradcam(network, images.clone(), 1)
        assert torch.is_inference_mode_enabled()
    np.testing.assert_array_equal(cam, inside)
    assert cam.shape == (2, 96, 96)
    assert np.isfinite(cam).all()
    assert cam.any()
    assert not images.requires_grad
    assert all(p.grad is None for p in network.parameters())
    assert not any(m._forward_hooks for m in network.modules())
    assert all(torch.equal(before[key], value) for key, value in network.state_dict().items())


def test_hooks_are_gone_when_the_network_fails():
    network = make_network("resnet18", 3).eval()
    with pytest.raises(RuntimeError):
        gradcam(network, torch.zeros(1, 7, 64, 64))
    assert not any(m._forward_hooks for m in network.modules())


def drawn(n, seed):
    """Return images (n, 3, 96, 96), labels and quadrants: class 1 has a disc in a quadrant."""
    generator = torch.Generator().manual_seed(seed)
    images = 0.3 * torch.randn(n, 3, 96, 96, generator=generator)
    y, x = torch.meshgrid(torch.arange(96), torch.arange(96), indexing="ij")
    labels, quadrants = torch.arange(n) % 2, torch.arange(n) // 2 % 4
    for i, quadrant in enumerate(quadrants):
        centre_x, centre_y = 24 + 48 * (quadrant % 2), 24 + 48 * (quadrant // 2)
        disc = (x - centre_x) ** 2 + (y - centre_y) ** 2 < 12**2
        images[i] += 2 * labels[i] * disc
    return images, labels, quadrants


def test_a_trained_network_looks_at_what_it_was_taught():
    torch.manual_seed(0)
    network = make_network("histonet33", 2, width=0.125)
    optimizer = torch.optim.AdamW(network.parameters(), 1e-3)
    images, labels, _ = drawn(32, seed=0)
    for _ in range(20):
        optimizer.zero_grad()
        functional.cross_entropy(network(images), labels).backward()
        optimizer.step()
    network.eval()
    images, labels, quadrants = drawn(16, seed=1)
    with torch.no_grad():
        assert torch.equal(network(images).argmax(dim=1), labels)
    cam = gradcam(network, images[labels == 1], 1)
    means = cam.reshape(8, 2, 48, 2, 48).mean(axis=(2, 4)).reshape(8, 4)
    np.testing.assert_array_equal(means.argmax(axis=1), quadrants[labels == 1])
    share = means.max(axis=1) / means.sum(axis=1)  # 0.25 by chance, 0.44 when this was written
    assert (share > 0.35).all()


@pytest.mark.parametrize("number", [-1, 2])
def test_a_class_must_exist(number):
    with pytest.raises(SpecError, match=f"class_number={number} must be one of 0 to 1"):
        gradcam(Fused().eval(), painted(), number)


@pytest.mark.parametrize(
    ("network", "images", "message"),
    [
        (Fused(), painted(), "training mode"),
        (Fused().eval(), painted()[0], "must be .N, 3, H, W. float"),
        (Fused().eval(), painted().byte(), "card's transform"),
        (
            nn.Sequential(nn.Flatten(), nn.Linear(48, 2)).eval(),
            torch.zeros(1, 3, 4, 4),
            "one place",
        ),
    ],
    ids=["training", "one image", "bytes", "no map"],
)
def test_what_cannot_be_looked_at_is_refused(network, images, message):
    with pytest.raises(SpecError, match=message):
        gradcam(network, images)


def test_a_transformer_without_places_is_refused():
    transformer = VisionTransformer(32, 16, 1, 1, 8, 8, num_classes=2).eval()
    with pytest.raises(SpecError, match="histonet33"):
        gradcam(transformer, torch.zeros(1, 3, 32, 32))
