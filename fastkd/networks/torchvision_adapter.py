"""torchvision's networks cut into stem, blocks and head; torchvision itself is imported when one is built.

This serves the networks whose blocks end without an activation, so that a feature is its own preact. torchvision's
ResNets and ShuffleNets, whose preacts lie inside their last unit, are built by `resnet.py` and `shufflenet_v2.py`
under torchvision's names.
"""

import math
from collections.abc import Callable, Sequence
from itertools import pairwise

from torch import nn

from fastkd.networks.base import Head, Network
from fastkd.networks.initialisation import he_normal, small_linear, zero_linear_bias
from fastkd.networks.layers import LinearBlock


class TorchvisionNetwork(Network):
    """The modules of a torchvision `model`, rearranged.

    layers: the model's layers in order, as given to its pooling.
    taps: the number of layers up to F^0, up to F^1, …; what comes after the last is the head's neck.
    classifier: the model's last linear layer, behind a dropout of `dropout`.
    rule: the model's published initialisation of one leaf module.
    """

    def __init__(
        self,
        model: nn.Module,
        *,
        layers: Sequence[nn.Module],
        taps: Sequence[int],
        classifier: nn.Module,
        rule: Callable[[nn.Module], None],
        dropout: float = 0.0,
    ):
        super().__init__()
        self.rule = rule
        self.stem = nn.Sequential(*layers[: taps[0]])
        self.blocks = nn.ModuleList(LinearBlock(*layers[start:end]) for start, end in pairwise(taps))
        # torchvision's own dropout may work in place, which would overwrite the embedding.
        last = nn.Sequential(nn.Dropout(dropout), classifier) if dropout else classifier
        self.head = Head(last, neck=nn.Sequential(*layers[taps[-1] :]))
        theirs = {module: name for name, module in model.named_modules()}
        self.PUBLIC_NAMES = {ours: theirs[module] for ours, module in self.named_modules() if module in theirs}
        self.initialise_all()

    def initialise(self, module: nn.Module) -> None:
        self.rule(module)


def mobilenet_v2(*, num_classes: int) -> TorchvisionNetwork:
    """MobileNetV2 with SimKD's taps: 32 channels at 1/2 of the image's side; 24, 32, 96 and 320 at 1/4 … 1/32."""
    from torchvision.models import mobilenet_v2 as torchvision_mobilenet_v2

    model = torchvision_mobilenet_v2(num_classes=num_classes)
    return TorchvisionNetwork(
        model,
        layers=list(model.features),
        taps=(1, 4, 7, 14, 18),
        classifier=model.classifier[1],
        rule=_mobilenet_rule,
        dropout=0.2,
    )


def efficientnet_b0(*, num_classes: int) -> TorchvisionNetwork:
    """EfficientNet-B0: 32 channels at 1/2 of the image's side; 24, 40, 112 and 320 at 1/4, 1/8, 1/16 and 1/32."""
    from torchvision.models import efficientnet_b0 as torchvision_efficientnet_b0

    model = torchvision_efficientnet_b0(num_classes=num_classes)
    return TorchvisionNetwork(
        model,
        layers=list(model.features),
        taps=(1, 3, 4, 6, 8),
        classifier=model.classifier[1],
        rule=_efficientnet_rule,
        dropout=0.2,
    )


def densenet121(*, num_classes: int) -> TorchvisionNetwork:
    """DenseNet121: 64 channels at 1/4 of the image's side; transitions to 128, 256 and 512 at 1/8, 1/16 and 1/32,
    and the last dense block's 1024 at 1/32."""
    from torchvision.models import densenet121 as torchvision_densenet121

    model = torchvision_densenet121(num_classes=num_classes)
    return TorchvisionNetwork(
        model,
        layers=[*model.features, nn.ReLU(inplace=True)],
        taps=(4, 6, 8, 10, 11),
        classifier=model.classifier,
        rule=_densenet_rule,
    )


def _mobilenet_rule(module: nn.Module) -> None:
    he_normal(module)
    small_linear(module)


def _efficientnet_rule(module: nn.Module) -> None:
    he_normal(module)
    zero_linear_bias(module)
    if isinstance(module, nn.Linear):
        bound = 1 / math.sqrt(module.out_features)
        nn.init.uniform_(module.weight, -bound, bound)


def _densenet_rule(module: nn.Module) -> None:
    zero_linear_bias(module)
    if isinstance(module, nn.Conv2d):
        nn.init.kaiming_normal_(module.weight)
