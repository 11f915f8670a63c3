"""`resnet34_taps`: ResNet-34 tapped at convolutions 1, 10, 15 and 33, the patent read literally.

Counted without the projections in shortcuts (He et al. 2016, table 1): the stem is convolution 1,
layer1 has 2–7, layer2 8–15, layer3 16–27 and layer4 28–33. Convolution 10 is thus the first one of
layer2's second block.
"""

from torch import Tensor
from torchvision.models import resnet34
from torchvision.models.feature_extraction import create_feature_extractor

from histo_nb.model.fusion import FusedNetwork

# Node of torchvision's graph → number of the convolution; each tap is taken after the activation.
TAPS = {"relu": "1", "layer2.1.relu": "10", "layer2": "15", "layer4": "33"}
CHANNELS = (64, 128, 128, 512)  # of the taps, 832 together


class ResNet34Taps(FusedNetwork):
    """torchvision's ResNet-34 without its classifier, four taps, two fully connected layers.

    For 224 px the taps are maps of 112, 28, 28 and 7 px.

    Parameters
    ----------
    n_classes
        Length of the output.
    """

    def __init__(self, n_classes: int) -> None:
        super().__init__()
        self.backbone = create_feature_extractor(resnet34(weights=None), TAPS)
        self.add_head(CHANNELS, n_classes)

    def taps(self, x: Tensor) -> list[Tensor]:
        """Return the outputs of convolutions 1, 10, 15 and 33 for (N, 3, H, W)."""
        taps = self.backbone(x)
        return [taps[number] for number in TAPS.values()]
