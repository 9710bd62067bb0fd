"""Networks made of a stem, blocks and a head. `NETWORKS` is the table of all of them, `build` makes one.

A row of `SUPERNETS` is many networks at once, which can be grafted on a teacher and nothing else.
Networks from elsewhere (`timm:NAME`, `package.module:factory`) are named by `fastkd.networks.naming`.
"""

from collections.abc import Callable
from functools import partial

from fastkd.networks import torchvision_adapter
from fastkd.networks.base import Head, Network, Output, Tail, Trunk, output_shapes
from fastkd.networks.checkpoints import Report, load_weights, public_state_dict
from fastkd.networks.gtn_nas import LARGE, MEDIUM, SMALL, GTNStudent
from fastkd.networks.mobilenet_v1 import MobileNetV1
from fastkd.networks.mobilenet_v2 import MobileNetV2, TfMobileNetV2
from fastkd.networks.naming import is_given, is_outside, with_features
from fastkd.networks.outside import admit, build_outside, give, is_admitted
from fastkd.networks.resnet import BasicUnit, Bottleneck, KuangliuResNet, ResNet, TfResNeXt, cifar_resnet
from fastkd.networks.shufflenet_v1 import ShuffleNetV1
from fastkd.networks.shufflenet_v2 import ShuffleNetV2, TfShuffleNetV2, TorchvisionShuffleNetV2
from fastkd.networks.supernet import THIN_LAYERS, Candidates, Supernet
from fastkd.networks.tf_cnn import TfAlexNet, TfCNN
from fastkd.networks.tf_densenet import TfDenseNet
from fastkd.networks.tf_googlenet import TfGoogLeNet
from fastkd.networks.vgg import VGG
from fastkd.networks.wrn import WRN
from fastkd.support.errors import UserError, nearest

__all__ = [
    "NETWORKS",
    "SUPERNETS",
    "Head",
    "Network",
    "Output",
    "Report",
    "Tail",
    "Trunk",
    "admit",
    "build",
    "build_supernet",
    "give",
    "is_given",
    "is_known",
    "is_outside",
    "load_weights",
    "output_shapes",
    "public_state_dict",
    "with_features",
]

_NARROW = (64, 128, 256, 512)
_DOUBLE = (128, 256, 512, 1024)
_WIDE = (256, 512, 1024, 2048)
_imagenet_resnet = partial(ResNet, stem="imagenet")

NETWORKS: dict[str, Callable[..., Network]] = {
    # RepDistiller's and SimKD's ResNets of 6n + 2 layers, for 32x32 images.
    "resnet8": partial(cifar_resnet, 8),
    "resnet14": partial(cifar_resnet, 14),
    "resnet20": partial(cifar_resnet, 20),
    "resnet32": partial(cifar_resnet, 32),
    "resnet38": partial(cifar_resnet, 38),
    "resnet44": partial(cifar_resnet, 44),
    "resnet56": partial(cifar_resnet, 56),
    "resnet110": partial(cifar_resnet, 110),
    "resnet116": partial(cifar_resnet, 116),
    "resnet200": partial(cifar_resnet, 200),
    "resnet8x2": partial(cifar_resnet, 8, width=2),
    "resnet14x2": partial(cifar_resnet, 14, width=2),
    "resnet38x2": partial(cifar_resnet, 38, width=2),
    "resnet110x2": partial(cifar_resnet, 110, width=2),
    "resnet8x4": partial(cifar_resnet, 8, width=4, stem_width=32),
    "resnet14x4": partial(cifar_resnet, 14, width=4, stem_width=32),
    "resnet20x4": partial(cifar_resnet, 20, width=4, stem_width=32),
    "resnet26x4": partial(cifar_resnet, 26, width=4, stem_width=32),
    "resnet32x4": partial(cifar_resnet, 32, width=4, stem_width=32),
    "resnet38x4": partial(cifar_resnet, 38, width=4, stem_width=32),
    "resnet44x4": partial(cifar_resnet, 44, width=4, stem_width=32),
    "resnet56x4": partial(cifar_resnet, 56, width=4, stem_width=32),
    "resnet110x4": partial(cifar_resnet, 110, width=4, stem_width=32),
    # The four-block ResNets for 32x32 images.
    "ResNet18": partial(KuangliuResNet, BasicUnit, depths=(2, 2, 2, 2), widths=_NARROW),
    "ResNet34": partial(KuangliuResNet, BasicUnit, depths=(3, 4, 6, 3), widths=_NARROW),
    "ResNet50": partial(KuangliuResNet, Bottleneck, depths=(3, 4, 6, 3), widths=_WIDE),
    "ResNet101": partial(KuangliuResNet, Bottleneck, depths=(3, 4, 23, 3), widths=_WIDE),
    "ResNet152": partial(KuangliuResNet, Bottleneck, depths=(3, 8, 36, 3), widths=_WIDE),
    # Wide residual networks: wrn_DEPTH_WIDTH.
    "wrn_16_1": partial(WRN, 16, 1),
    "wrn_16_2": partial(WRN, 16, 2),
    "wrn_16_4": partial(WRN, 16, 4),
    "wrn_28_2": partial(WRN, 28, 2),
    "wrn_28_4": partial(WRN, 28, 4),
    "wrn_40_1": partial(WRN, 40, 1),
    "wrn_40_2": partial(WRN, 40, 2),
    "wrn_40_4": partial(WRN, 40, 4),
    # VGG with BatchNorm.
    "vgg8": partial(VGG, (1, 1, 1, 1, 1)),
    "vgg11": partial(VGG, (1, 1, 2, 2, 2)),
    "vgg13": partial(VGG, (2, 2, 2, 2, 2)),
    "vgg16": partial(VGG, (2, 2, 3, 3, 3)),
    "vgg19": partial(VGG, (2, 2, 4, 4, 4)),
    # Small networks for 32x32 images; the field's "MobileNetV2" has half the width.
    "MobileNetV2": partial(MobileNetV2, width=0.5),
    "MobileNetV2x2": MobileNetV2,
    "ShuffleV1": ShuffleNetV1,
    "ShuffleV2_0_2": partial(ShuffleNetV2, (40, 80, 160, 512), depths=(4, 4, 4)),
    "ShuffleV2_0_3": partial(ShuffleNetV2, (40, 80, 160, 512)),
    "ShuffleV2_0_5": partial(ShuffleNetV2, (48, 96, 192, 1024)),
    "ShuffleV2": partial(ShuffleNetV2, (116, 232, 464, 1024)),
    "ShuffleV2_1_5": partial(ShuffleNetV2, (176, 352, 704, 1024)),
    "ShuffleV2_2_0": partial(ShuffleNetV2, (224, 488, 976, 2048)),
    # Teacher-free-KD's networks for 32x32 images; its ResNets are the four-block ones above, its VGG is vgg19.
    "tf_cnn": TfCNN,
    "tf_alexnet": TfAlexNet,
    "tf_mobilenet_v2": TfMobileNetV2,
    "tf_shufflenet_v2": partial(TfShuffleNetV2, (116, 232, 464, 1024)),
    "tf_googlenet": TfGoogLeNet,
    "tf_densenet121": partial(TfDenseNet, (6, 12, 24, 16)),
    "tf_resnext29_8x64d": partial(
        TfResNeXt, partial(Bottleneck, inner=2, groups=8), depths=(3, 3, 3), widths=(256, 512, 1024)
    ),
    "tf_resnext101_32x8d": partial(
        KuangliuResNet, partial(Bottleneck, inner=1, groups=32), depths=(3, 4, 23, 3), widths=_WIDE
    ),
    # torchvision's networks for ImageNet, whose published weights load.
    "torchvision_resnet18": partial(_imagenet_resnet, BasicUnit, depths=(2, 2, 2, 2), widths=_NARROW),
    "torchvision_resnet34": partial(_imagenet_resnet, BasicUnit, depths=(3, 4, 6, 3), widths=_NARROW),
    "torchvision_resnet50": partial(_imagenet_resnet, Bottleneck, depths=(3, 4, 6, 3), widths=_WIDE),
    "torchvision_resnet101": partial(_imagenet_resnet, Bottleneck, depths=(3, 4, 23, 3), widths=_WIDE),
    "torchvision_resnet152": partial(_imagenet_resnet, Bottleneck, depths=(3, 8, 36, 3), widths=_WIDE),
    "torchvision_wide_resnet50_2": partial(
        _imagenet_resnet, partial(Bottleneck, inner=0.5), depths=(3, 4, 6, 3), widths=_WIDE
    ),
    "torchvision_resnext50_32x4d": partial(
        _imagenet_resnet, partial(Bottleneck, inner=0.5, groups=32), depths=(3, 4, 6, 3), widths=_WIDE
    ),
    "torchvision_resnext101_32x8d": partial(
        _imagenet_resnet, partial(Bottleneck, inner=1, groups=32), depths=(3, 4, 23, 3), widths=_WIDE
    ),
    "torchvision_mobilenet_v2": torchvision_adapter.mobilenet_v2,
    "torchvision_shufflenet_v2_x1_0": partial(TorchvisionShuffleNetV2, (116, 232, 464, 1024)),
    "torchvision_densenet121": torchvision_adapter.densenet121,
    "torchvision_efficientnet_b0": torchvision_adapter.efficientnet_b0,
    # SimKD's doubled ResNets and mdistiller's MobileNet.
    "ResNet10x2": partial(_imagenet_resnet, BasicUnit, depths=(1, 1, 1, 1), widths=_DOUBLE),
    "ResNet18x2": partial(_imagenet_resnet, BasicUnit, depths=(2, 2, 2, 2), widths=_DOUBLE),
    "ResNet34x2": partial(_imagenet_resnet, BasicUnit, depths=(3, 4, 6, 3), widths=_DOUBLE),
    "MobileNetV1": MobileNetV1,
    # GTN's students; those for ImageNet have another stem.
    "gtn_nas_s": partial(GTNStudent, SMALL),
    "gtn_nas_m": partial(GTNStudent, MEDIUM),
    "gtn_nas_l": partial(GTNStudent, LARGE),
    "gtn_nas_s_imagenet": partial(GTNStudent, SMALL, stem="imagenet"),
    "gtn_nas_m_imagenet": partial(GTNStudent, MEDIUM, stem="imagenet"),
    "gtn_nas_l_imagenet": partial(GTNStudent, LARGE, stem="imagenet"),
}

SUPERNETS: dict[str, Callable[..., Supernet]] = {
    "gtn_supernet": Supernet,
    "gtn_supernet_imagenet": partial(Supernet, stem="imagenet"),
    "gtn_supernet_thin": partial(Supernet, rows=THIN_LAYERS),  # for trying out
}


def build(name: str, *, num_classes: int = 100, image_size: int = 224, **options: object) -> Network:
    """Builds a network of the table, or one from elsewhere that has been admitted, freshly initialised.

    Raises UserError for a name that is not there. image_size: side of the images that it is for, which those of the
    table do not depend on. options: further arguments of its constructor, such as `stem_width` of a CIFAR resnet.
    """
    if name not in NETWORKS and not is_outside(name):
        raise UserError(f"no network {name!r}{nearest(name, NETWORKS)}")
    if not isinstance(num_classes, int) or isinstance(num_classes, bool) or num_classes < 2:
        raise UserError(f"a network needs a whole number of at least 2 classes, got {num_classes!r}")
    if is_outside(name):
        return build_outside(name, num_classes=num_classes, image_size=image_size)
    return NETWORKS[name](num_classes=num_classes, **options)


def build_supernet(name: str, how: Candidates, *, num_classes: int) -> Supernet:
    """Builds a supernet of the table with such candidates. Raises UserError for a name that is not there."""
    if name not in SUPERNETS:
        raise UserError(f"no supernet {name!r}{nearest(name, SUPERNETS)}")
    return SUPERNETS[name](how, num_classes=num_classes)


def is_known(name: str) -> bool:
    """Whether `build` makes it without anything being imported."""
    return name in NETWORKS or is_admitted(name)
