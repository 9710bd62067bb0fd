"""MobileNetV2 (Sandler et al. 2018) for small images: RepDistiller's and Teacher-free-KD's, which differ a lot.

torchvision's, for ImageNet, is in `torchvision_adapter.py`.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor, nn

from fastkd.networks.base import Head, Network
from fastkd.networks.initialisation import he_normal, small_linear
from fastkd.networks.layers import LinearBlock, conv_norm_relu, depthwise


class InvertedResidual(nn.Module):
    """1x1 convolution to `expand` times the channels, 3x3 depthwise, 1x1 back without activation."""

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        stride: int,
        *,
        expand: int,
        activation: type[nn.Module],
        bias: bool,
    ):
        super().__init__()
        width = in_channels * expand
        self.adds_input = stride == 1 and in_channels == out_channels
        self.conv = nn.Sequential(
            nn.Conv2d(in_channels, width, 1, bias=bias),
            nn.BatchNorm2d(width),
            activation(inplace=True),
            depthwise(width, stride=stride, bias=bias),
            nn.BatchNorm2d(width),
            activation(inplace=True),
            nn.Conv2d(width, out_channels, 1, bias=bias),
            nn.BatchNorm2d(out_channels),
        )

    def forward(self, x: Tensor) -> Tensor:
        return x + self.conv(x) if self.adds_input else self.conv(x)


class MobileNetV2(Network):
    """RepDistiller's variant: seven groups of inverted residuals in four blocks, and a neck to 1280 channels.

    It has ReLU instead of ReLU6, a 1x1 expansion even if that expands by 1, and a stem of stride 2. Width 0.5 is what
    the field calls MobileNetV2. The features are linear, so each is its own preact.
    """

    PUBLIC_NAMES: Mapping[str, str] = {
        "stem": "conv1",
        "blocks.0.0": "blocks.0",
        "blocks.0.1": "blocks.1",
        "blocks.1.0": "blocks.2",
        "blocks.2.0": "blocks.3",
        "blocks.2.1": "blocks.4",
        "blocks.3.0": "blocks.5",
        "blocks.3.1": "blocks.6",
        "head.neck": "conv2",
        "head.classifier": "classifier.0",
    }

    EXPAND = (1, 6, 6, 6, 6, 6, 6)
    CHANNELS = (16, 24, 32, 64, 96, 160, 320)
    UNITS = (1, 2, 3, 4, 3, 3, 1)
    GROUPS_OF_BLOCKS = ((0, 1), (2,), (3, 4), (5, 6))

    def __init__(
        self,
        *,
        num_classes: int,
        width: float = 1.0,
        strides: Sequence[int] = (1, 1, 2, 2, 1, 2, 1),
        stem: nn.Module | None = None,
        classifier: nn.Module | None = None,
        activation: type[nn.Module] = nn.ReLU,
        bias: bool = False,
    ):
        super().__init__()
        in_channels = int(32 * width)
        self.stem = conv_norm_relu(3, in_channels, 3, stride=2) if stem is None else stem

        groups = []
        for expand, base, units, stride in zip(self.EXPAND, self.CHANNELS, self.UNITS, strides, strict=True):
            group = nn.Sequential()
            channels = int(base * width)
            for unit_stride in [stride] + [1] * (units - 1):
                group.append(
                    InvertedResidual(
                        in_channels, channels, unit_stride, expand=expand, activation=activation, bias=bias
                    )
                )
                in_channels = channels
            groups.append(group)
        self.blocks = nn.ModuleList(LinearBlock(*(groups[i] for i in block)) for block in self.GROUPS_OF_BLOCKS)

        neck = conv_norm_relu(in_channels, 1280, 1, bias=bias, activation=activation)
        self.head = Head(nn.Linear(1280, num_classes) if classifier is None else classifier, neck=neck)
        self.initialise_all()

    def initialise(self, module: nn.Module) -> None:
        he_normal(module)
        small_linear(module)

    @property
    def preact_norms(self) -> tuple[nn.BatchNorm2d | None, ...]:
        blocks: Any = self.blocks  # indexed as what they are; torch types every child as a plain Module
        return tuple(block[-1][-1].conv[-1] for block in blocks)


class PointwiseClassifier(nn.Conv2d):
    """A linear layer that is stored as a 1x1 convolution: [B,D] to [B,K]."""

    def __init__(self, width: int, num_classes: int):
        super().__init__(width, num_classes, 1)

    def forward(self, embedding_BD: Tensor) -> Tensor:
        return super().forward(embedding_BD[:, :, None, None]).flatten(1)


class TfMobileNetV2(MobileNetV2):
    """Teacher-free-KD's variant: ReLU6, biased convolutions, other strides, a padded 1x1 stem (34x34 from 32x32)."""

    PUBLIC_NAMES: Mapping[str, str] = {
        "stem": "pre",
        **{
            f"blocks.{block}.{place}.{unit}.conv": f"stage{group + 1}.{unit}.residual"
            for block, groups in enumerate(MobileNetV2.GROUPS_OF_BLOCKS)
            for place, group in enumerate(groups)
            for unit in range(MobileNetV2.UNITS[group])
        },
        "blocks.0.0.0.conv": "stage1.residual",
        "blocks.3.1.0.conv": "stage7.residual",
        "head.neck": "conv1",
        "head.classifier": "conv2",
    }

    def __init__(self, *, num_classes: int):
        super().__init__(
            num_classes=num_classes,
            strides=(1, 2, 2, 2, 1, 1, 1),
            stem=conv_norm_relu(3, 32, 1, padding=1, bias=True, activation=nn.ReLU6),
            classifier=PointwiseClassifier(1280, num_classes),
            activation=nn.ReLU6,
            bias=True,
        )

    def initialise(self, module: nn.Module) -> None:
        """Leaves PyTorch's own initialisation."""

    @property
    def preact_norms(self) -> tuple[None, ...]:
        return (None,) * len(self.blocks)
