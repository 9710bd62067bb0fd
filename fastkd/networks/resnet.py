"""Residual networks (He et al. 2015) with the activation after the sum: for CIFAR and for ImageNet.

One class builds them all: RepDistiller's and SimKD's resnet8 … resnet200 with their wide variants, the four-block
ResNet18 … ResNet152 for 32x32 images (kuangliu's, used by RepDistiller as `resnetv2` and by Teacher-free-KD),
torchvision's ResNets and ResNeXts, SimKD's doubled ImageNet ResNets, and Teacher-free-KD's ResNeXt29.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

from torch import Tensor, nn

from fastkd.networks.base import Head, Network
from fastkd.networks.initialisation import he_normal, zero_linear_bias
from fastkd.networks.layers import Block, conv_norm_relu, with_preact


def _shortcut(in_channels: int, out_channels: int, stride: int) -> nn.Module:
    if stride == 1 and in_channels == out_channels:
        return nn.Identity()
    return nn.Sequential(
        nn.Conv2d(in_channels, out_channels, 1, stride, bias=False),
        nn.BatchNorm2d(out_channels),
    )


class BasicUnit(nn.Module):
    """Two convolutions, of 3x3 by default, and a shortcut; the stride is on the first."""

    def __init__(self, in_channels: int, out_channels: int, stride: int, *, kernel_size: int = 3):
        super().__init__()
        padding = kernel_size // 2
        self.conv1 = nn.Conv2d(in_channels, out_channels, kernel_size, stride, padding, bias=False)
        self.bn1 = nn.BatchNorm2d(out_channels)
        self.conv2 = nn.Conv2d(out_channels, out_channels, kernel_size, padding=padding, bias=False)
        self.bn2 = nn.BatchNorm2d(out_channels)
        self.downsample = _shortcut(in_channels, out_channels, stride)

    def forward(self, x: Tensor, preacts: bool = False) -> Tensor | tuple[Tensor, Tensor]:
        residual = self.bn1(self.conv1(x)).relu()
        residual = self.bn2(self.conv2(residual))
        return with_preact(residual + self.downsample(x), preacts)

    @property
    def last_norm(self) -> nn.BatchNorm2d:
        return self.bn2


class Bottleneck(nn.Module):
    """1x1, 3x3 and 1x1 convolutions and a shortcut; the stride is on the 3x3.

    inner: the width of the 3x3 convolution as a multiple of the unit's output, 1/4 in a ResNet.
    """

    def __init__(self, in_channels: int, out_channels: int, stride: int, *, inner: float = 0.25, groups: int = 1):
        super().__init__()
        width = int(out_channels * inner)
        self.conv1 = nn.Conv2d(in_channels, width, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, stride, padding=1, groups=groups, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.conv3 = nn.Conv2d(width, out_channels, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(out_channels)
        self.downsample = _shortcut(in_channels, out_channels, stride)

    def forward(self, x: Tensor, preacts: bool = False) -> Tensor | tuple[Tensor, Tensor]:
        residual = self.bn1(self.conv1(x)).relu()
        residual = self.bn2(self.conv2(residual)).relu()
        residual = self.bn3(self.conv3(residual))
        return with_preact(residual + self.downsample(x), preacts)

    @property
    def last_norm(self) -> nn.BatchNorm2d:
        return self.bn3


class ResNet(Network):
    """A stem, one block for each entry of `widths`, each but the first halving the map, and a linear classifier.

    unit: what the blocks are made of, called as unit(in_channels, out_channels, stride).
    depths, widths: units in each block, channels each block returns.
    stem: "cifar" is one 3x3 convolution; "imagenet" a 7x7 of stride 2 and a max-pool, so F^0 has a quarter of the
    image's side.

    The preact is the sum before a block's last ReLU; the BatchNorm in front of it sees the residual path only.
    """

    PUBLIC_NAMES: Mapping[str, str] = {
        "stem.0": "conv1",
        "stem.1": "bn1",
        "blocks.0": "layer1",
        "blocks.1": "layer2",
        "blocks.2": "layer3",
        "blocks.3": "layer4",
        "head.classifier": "fc",
    }

    def __init__(
        self,
        unit: Callable[[int, int, int], nn.Module],
        *,
        num_classes: int,
        depths: Sequence[int],
        widths: Sequence[int],
        stem: Literal["cifar", "imagenet"] = "cifar",
        stem_width: int = 64,
    ):
        super().__init__()
        if stem == "imagenet":
            self.stem = conv_norm_relu(3, stem_width, 7, stride=2)
            self.stem.append(nn.MaxPool2d(3, stride=2, padding=1))
        else:
            self.stem = conv_norm_relu(3, stem_width, 3)

        self.blocks = nn.ModuleList()
        in_channels = stem_width
        for depth, width in zip(depths, widths, strict=True):
            first_stride = 2 if len(self.blocks) else 1
            strides = [first_stride] + [1] * (depth - 1)
            inputs = [in_channels] + [width] * (depth - 1)
            self.blocks.append(Block(*(unit(c, width, s) for c, s in zip(inputs, strides, strict=True))))
            in_channels = width

        self.head = Head(nn.Linear(in_channels, num_classes))
        self.initialise_all()

    def initialise(self, module: nn.Module) -> None:
        he_normal(module)

    @property
    def preact_norms(self) -> tuple[nn.BatchNorm2d, ...]:
        blocks: Any = self.blocks  # indexed as what they are; torch types every child as a plain Module
        return tuple(block[-1].last_norm for block in blocks)


class KuangliuResNet(ResNet):
    """The same network under the names of RepDistiller's `resnetv2.py` and Teacher-free-KD's `resnet.py`."""

    PUBLIC_NAMES: Mapping[str, str] = {
        **ResNet.PUBLIC_NAMES,
        **{f"blocks.{i}.0.downsample": f"layer{i + 1}.0.shortcut" for i in range(4)},
        "head.classifier": "linear",
    }


class TfResNeXt(ResNet):
    """Teacher-free-KD's ResNeXt29 (prlz77's CIFAR ResNeXt): its names, and its initialisation of the classifier."""

    PUBLIC_NAMES: Mapping[str, str] = {
        "stem.0": "conv_1_3x3",
        "stem.1": "bn_1",
        **{
            f"blocks.{i}.{j}.{ours}": f"stage_{i + 1}.stage_{i + 1}_bottleneck_{j}.{theirs}"
            for i in range(3)
            for j in range(3)
            for ours, theirs in {
                "conv1": "conv_reduce",
                "bn1": "bn_reduce",
                "conv2": "conv_conv",
                "bn2": "bn",
                "conv3": "conv_expand",
                "bn3": "bn_expand",
                "downsample.0": "shortcut.shortcut_conv",
                "downsample.1": "shortcut.shortcut_bn",
            }.items()
        },
        "head.classifier": "classifier",
    }

    def initialise(self, module: nn.Module) -> None:
        he_normal(module)
        zero_linear_bias(module)
        if isinstance(module, nn.Linear):
            nn.init.kaiming_normal_(module.weight)


def cifar_resnet(depth: int, *, num_classes: int, width: int = 1, stem_width: int = 16) -> ResNet:
    """resnet`depth`x`width` of RepDistiller and SimKD: 6n + 2 layers, three blocks of n basic units.

    The x4 networks double the stem to 32 channels, the x2 networks do not.
    """
    if depth < 8 or (depth - 2) % 6:
        raise ValueError(f"a CIFAR resnet has 6n + 2 layers, for example 20, 32 or 56; got {depth}")
    depths = ((depth - 2) // 6,) * 3
    widths = (16 * width, 32 * width, 64 * width)
    return ResNet(BasicUnit, num_classes=num_classes, depths=depths, widths=widths, stem_width=stem_width)
