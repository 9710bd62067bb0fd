"""Every network against its reference implementation: sizes, shapes, and a functional fingerprint in float64.

`golden/models.json` was recorded from RepDistiller, SimKD and Teacher-free-KD; its rule for filling the weights
depends on their roles and shapes alone.
"""

import functools
import json

import numpy as np
import pytest
import torch
from helpers.filled import fill, pseudo_random
from helpers.golden import GOLDEN as GOLDEN_FOLDER
from torch import Tensor, nn

from fastkd.networks import NETWORKS, Network, Output, build, output_shapes

GOLDEN = json.loads((GOLDEN_FOLDER / "models.json").read_text())
ENTRIES = [key for key in GOLDEN if not key.startswith("_")]

# Where our name is not the reference's. SimKD's ImageNet networks are torchvision's.
OUR_NAMES = {
    "SimKD/ResNet18": "torchvision_resnet18",
    "SimKD/ResNet50": "torchvision_resnet50",
    "SimKD/resnext50_32x4d": "torchvision_resnext50_32x4d",
    "SimKD/MobileNetV2_Imagenet": "torchvision_mobilenet_v2",
    "Teacher-free-KD/MobileNetV2": "tf_mobilenet_v2",
    "Teacher-free-KD/GoogLeNet": "tf_googlenet",
    "Teacher-free-KD/ResNeXt29_8x64d": "tf_resnext29_8x64d",
}


def our_name(entry: str) -> str:
    return OUR_NAMES.get(entry, entry.split("/")[1])


@functools.cache
def on_meta(entry: str) -> Network:
    with torch.device("meta"):
        return build(our_name(entry), num_classes=GOLDEN[entry]["num_classes"])


def count(network: nn.Module, kind: type[nn.Module]) -> int:
    return sum(p.numel() for module in network.modules() if isinstance(module, kind) for p in module.parameters())


@functools.cache
def fingerprint(name: str, num_classes: int, mode: str) -> dict[str, list | float]:
    with torch.device("meta"):
        network = build(name, num_classes=num_classes)
    network = network.to(torch.float64).to_empty(device="cpu")
    fill(network)
    images = ((2 * pseudo_random(4 * 3 * 32 * 32, 12345) - 1) * np.sqrt(3)).view(4, 3, 32, 32)
    network.train(mode == "train")
    for module in network.modules():
        if isinstance(module, nn.Dropout):
            module.eval()
    with torch.no_grad():
        output = network(images)
    maps = reference_features(output)
    return {
        "logits_first8": output.logits[:2, :8].tolist(),
        "logits_mean": output.logits.mean().item(),
        "logits_l2": output.logits.norm().item(),
        "feat_l2": [x.norm().item() for x in maps],
        "feat_mean": [x.mean().item() for x in maps],
    }


def reference_features(output: Output) -> list[Tensor]:
    """The list that RepDistiller's and SimKD's networks return."""
    return [output.stem, *output.features, output.embedding]


def reference_preacts(output: Output) -> list[Tensor]:
    return [output.stem, *output.preacts, output.embedding]


@pytest.mark.parametrize("entry", ENTRIES)
def test_layers(entry: str):
    golden, network = GOLDEN[entry], on_meta(entry)
    norms = [module for module in network.modules() if isinstance(module, nn.BatchNorm2d)]
    convolutions = [module for module in network.modules() if isinstance(module, nn.Conv2d)]
    assert sum(p.numel() for p in network.parameters()) == golden["params"]
    assert count(network, nn.Conv2d) == golden["params_conv"]
    assert count(network, nn.BatchNorm2d) == golden["params_bn"]
    assert count(network, nn.Linear) == golden["params_linear"]
    assert len(norms) == golden["bn_layers"]
    assert sum(norm.num_features for norm in norms) == golden["bn_channels_total"]
    assert len(convolutions) == golden["conv_layers"]
    assert sum(convolution.bias is not None for convolution in convolutions) == golden["conv_with_bias"]
    unusual = [[norm.eps, norm.momentum] for norm in norms if (norm.eps, norm.momentum) != (1e-5, 0.1)]
    assert unusual == [setting for _, *setting in golden["bn_nondefault"]]


@pytest.mark.parametrize("entry", ENTRIES)
def test_shapes(entry: str):
    golden, network = GOLDEN[entry], on_meta(entry)
    output = output_shapes(network, 32)
    assert list(output.logits.shape) == golden["logit_shape"]
    assert output.embedding.shape == (2, golden["pooled_dim"])
    if "feat_shapes" in golden:
        assert [list(x.shape) for x in reference_features(output)] == golden["feat_shapes"]
    if "feat_shapes_224_b1" in golden:
        at_224 = reference_features(output_shapes(network, 224))
        assert [list(x.shape)[1:] for x in at_224] == [shape[1:] for shape in golden["feat_shapes_224_b1"]]


@pytest.mark.parametrize("entry", [entry for entry in ENTRIES if GOLDEN[entry].get("preact_shapes")])
def test_preacts(entry: str):
    golden = GOLDEN[entry]
    torch.manual_seed(0)
    network = build(our_name(entry)).eval()
    with torch.no_grad():
        output = network(torch.randn(2, 3, 32, 32), preacts=True)
    features, preacts = reference_features(output), reference_preacts(output)
    assert [list(x.shape) for x in preacts] == golden["preact_shapes"]
    different = [not torch.equal(f, p) for f, p in zip(features, preacts, strict=True)]
    assert different == golden["preact_differs"]


@pytest.mark.parametrize("entry", [entry for entry in ENTRIES if "bn_before_relu_channels" in GOLDEN[entry]])
def test_norms_before_preacts(entry: str):
    norms = on_meta(entry).preact_norms
    channels = [norm.num_features if norm is not None else None for norm in norms]
    assert channels == (GOLDEN[entry]["bn_before_relu_channels"] or [None] * len(norms))


LONG_TO_RUN = ("Teacher-free-KD/ResNeXt29_8x64d", "SimKD/ResNet34x2", "SimKD/ResNet18x2")
"""Wide ones: others of their families stand in for them by day."""


@pytest.mark.parametrize(
    "entry", [pytest.param(entry, marks=pytest.mark.slow if entry in LONG_TO_RUN else ()) for entry in ENTRIES]
)
@pytest.mark.parametrize("mode", ["eval", pytest.param("train", marks=pytest.mark.slow)])
def test_fingerprint(entry: str, mode: str):
    golden = GOLDEN[entry]["fingerprint"][mode]
    ours = fingerprint(our_name(entry), GOLDEN[entry]["num_classes"], mode)
    for quantity in ours.keys() & golden.keys():
        np.testing.assert_allclose(ours[quantity], golden[quantity], rtol=1e-8, atol=1e-10, err_msg=quantity)


# Parameters with 100 classes, from the networks of the papers and of the authors' code.
PARAMETERS_100 = {
    "resnet8": 83_892,
    "resnet14": 181_108,
    "resnet20": 278_324,
    "resnet32": 472_756,
    "resnet44": 667_188,
    "resnet56": 861_620,
    "resnet110": 1_736_564,
    "resnet116": 1_833_780,
    "resnet8x2": 315_764,
    "resnet110x2": 6_911_220,
    "resnet8x4": 1_233_540,
    "resnet32x4": 7_433_860,
    "resnet110x4": 27_584_900,
    "wrn_16_1": 180_916,
    "wrn_40_1": 569_780,
    "wrn_16_2": 703_284,
    "wrn_40_2": 2_255_156,
    "wrn_28_2": 1_479_220,
    "wrn_28_4": 5_872_180,
    "wrn_16_4": 2_772_020,
    "wrn_40_4": 8_972_340,
    "resnet38": 569_972,
    "resnet38x2": 2_255_604,
    "resnet14x2": 703_732,
    "resnet38x4": 8_983_940,
    "resnet14x4": 2_783_620,
    "vgg8": 3_965_028,
    "vgg11": 9_277_284,
    "vgg13": 9_462_180,
    "vgg16": 14_774_436,
    "vgg19": 20_086_692,
    "MobileNetV2": 812_836,
    "MobileNetV2x2": 2_353_060,
    "ShuffleV1": 949_258,
    "ShuffleV2_0_5": 443_716,
    "ShuffleV2": 1_355_528,
    "ShuffleV2_1_5": 2_580_548,
    "ResNet18": 11_220_132,
    "ResNet34": 21_328_292,
    "ResNet50": 23_705_252,
    "ResNet101": 42_697_380,
    "ResNet152": 58_341_028,
    "tf_densenet121": 7_048_548,
    "tf_resnext29_8x64d": 34_518_948,
    # torchvision's, with a 3x3 stem and 100 classes.
    "tf_resnext101_32x8d": 88_791_336 - (7 * 7 - 3 * 3) * 3 * 64 - 2049 * 900,
    "tf_googlenet": 6_258_500,
    "tf_cnn": 369_124,
    "tf_mobilenet_v2": 2_369_380,
    "tf_shufflenet_v2": 1_360_896,
    "tf_alexnet": 2_495_396,
    "torchvision_efficientnet_b0": 4_135_648,
}
# With 1000 classes (2.4).
PARAMETERS_1000 = {
    "torchvision_resnet18": 11_689_512,
    "torchvision_resnet34": 21_797_672,
    "torchvision_resnet50": 25_557_032,
    "torchvision_resnet101": 44_549_160,
    "torchvision_resnet152": 60_192_808,
    "torchvision_resnext101_32x8d": 88_791_336,
    "torchvision_mobilenet_v2": 3_504_872,
    "torchvision_densenet121": 7_978_856,
    "torchvision_efficientnet_b0": 5_288_548,
    "torchvision_shufflenet_v2_x1_0": 2_278_604,
    "MobileNetV1": 4_231_976,
}
# (F^0, then the features) as channels@side, for small images at 32, for ImageNet's at 224 (2.1, 2.4).
MAPS = {
    ("resnet110x2", 32): "16@32 32@32 64@16 128@8",
    ("wrn_40_4", 32): "16@32 64@32 128@16 256@8",
    ("vgg16", 32): "64@32 128@16 256@8 512@4 512@4",
    ("vgg16", 64): "64@64 128@32 256@16 512@8 512@4",
    ("MobileNetV2x2", 32): "32@16 24@16 32@8 96@4 320@2",
    ("ShuffleV2_1_5", 32): "24@32 176@16 352@8 704@4",
    ("tf_densenet121", 32): "64@32 128@16 256@8 512@4 1024@4",
    ("tf_resnext29_8x64d", 32): "64@32 256@32 512@16 1024@8",
    ("tf_googlenet", 32): "192@32 480@32 832@16 1024@8",
    ("tf_cnn", 32): "3@32 32@16 64@8 128@4",
    ("tf_mobilenet_v2", 32): "32@34 24@17 32@9 96@5 320@5",
    ("tf_shufflenet_v2", 32): "24@32 116@16 232@8 464@4",
    ("torchvision_resnet34", 224): "64@56 64@56 128@28 256@14 512@7",
    ("torchvision_resnext101_32x8d", 224): "64@56 256@56 512@28 1024@14 2048@7",
    ("torchvision_mobilenet_v2", 224): "32@112 24@56 32@28 96@14 320@7",
    ("torchvision_densenet121", 224): "64@56 128@28 256@14 512@7 1024@7",
    ("torchvision_efficientnet_b0", 224): "32@112 24@56 40@28 112@14 320@7",
    ("torchvision_shufflenet_v2_x1_0", 224): "24@56 116@28 232@14 464@7",
    ("MobileNetV1", 224): "32@112 128@56 256@28 512@14 1024@7",
}


@pytest.mark.parametrize(
    ("name", "classes", "parameters"),
    [(name, 100, n) for name, n in PARAMETERS_100.items()] + [(name, 1000, n) for name, n in PARAMETERS_1000.items()],
)
def test_published_size(name: str, classes: int, parameters: int):
    with torch.device("meta"):
        network = build(name, num_classes=classes)
    assert sum(p.numel() for p in network.parameters()) == parameters


@pytest.mark.parametrize(
    ("name", "options", "parameters"),
    [("resnet8x2", {"stem_width": 32}, 320_260), ("tf_cnn", {"num_classes": 10}, 357_514)],
)
def test_published_size_with_options(name: str, options: dict[str, int], parameters: int):
    assert sum(p.numel() for p in build(name, **options).parameters()) == parameters


@pytest.mark.parametrize(("name", "side"), MAPS)
def test_published_maps(name: str, side: int):
    with torch.device("meta"):
        output = output_shapes(build(name), side)
    assert all(x.shape[2] == x.shape[3] for x in output.features)
    assert " ".join(f"{x.shape[1]}@{x.shape[2]}" for x in (output.stem, *output.features)) == MAPS[name, side]


def test_every_runnable_entry_is_in_the_table():
    assert {our_name(entry) for entry in ENTRIES} <= NETWORKS.keys()
