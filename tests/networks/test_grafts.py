"""Grafts against the SFTN paper: the VGG13/VGG8 tables of its supplement, and the transforms of every pair."""

import pytest
import torch
from helpers.golden import GOLDEN
from torch.utils._python_dispatch import TorchDispatchMode

from fastkd import networks
from fastkd.networks.grafts import aligned, feature_transform, graft
from fastkd.support.errors import UserError


def tables() -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for line in (GOLDEN / "sftn_vgg_tables.txt").read_text().splitlines():
        if line.startswith("["):
            rows = found[line.strip("[]")] = []
        elif not line.startswith("#"):
            rows.append(line)
    return found


class Layers(TorchDispatchMode):
    """Writes down what is executed, as the tables print it."""

    def __init__(self):
        super().__init__()
        self.rows: list[str] = []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        name = function.overloadpacket.__name__
        output = result[0] if isinstance(result, tuple) else result
        if name == "convolution":
            filters, stride, padding = args[1].shape[2:], args[3], args[4]
            self.row("conv", args[0], output, "x".join(map(str, filters)), stride[0], padding[0])
        elif name == "native_batch_norm":
            self.row("bn", args[0], output)
        elif name in ("relu", "relu_"):
            self.row("relu", args[0], output)
        elif name == "max_pool2d_with_indices":
            self.row("maxpool", args[0], output, "x".join(map(str, args[1])), args[2][0], 0)
        elif name == "mean":
            self.row("avgpool", args[0], output)
        elif name == "addmm":
            self.rows.append(f"linear {args[1].shape[1]}x1x1 - - - {output.shape[1]}")
        return result

    def row(self, layer, before, after, filters="-", stride="-", padding="-"):
        shapes = ("x".join(map(str, tensor.shape[1:])) for tensor in (before, after))
        self.rows.append(f"{layer} {next(shapes)} {filters} {stride} {padding} {next(shapes)}")


def executed(module, *arguments) -> list[str]:
    with torch.no_grad(), Layers() as layers:
        module(*arguments)
    return layers.rows


@pytest.fixture(scope="module")
def vgg_pair():
    teacher, student = networks.build("vgg13"), networks.build("vgg8")
    return teacher, student, graft(teacher, student, 32)


def test_vgg13_and_vgg8_equal_tables_20_and_21(vgg_pair):
    teacher, student, _ = vgg_pair
    assert executed(teacher, torch.randn(2, 3, 32, 32)) == tables()["teacher"]
    assert executed(student, torch.randn(2, 3, 32, 32)) == tables()["student"]


@pytest.mark.parametrize("block", (1, 2, 3))
def test_branches_equal_table_22(vgg_pair, block):
    teacher, _, branches = vgg_pair
    feature = teacher(torch.randn(2, 3, 32, 32)).features[block - 1]
    assert list(branches) == ["1", "2", "3"]
    assert executed(branches[str(block)], feature) == tables()[f"branch {block}"]


# Pairs of the paper: what stands at each graft (notes on the method, from its tables and code).
PAIRS = [
    ("wrn_40_2", "wrn_16_2", 32, [("Conv2d", 32, 32, 1), ("Conv2d", 64, 64, 1)]),
    ("wrn_40_2", "wrn_40_1", 32, [("Conv2d", 32, 16, 1), ("Conv2d", 64, 32, 1)]),
    ("resnet32x4", "resnet8x4", 32, [("Conv2d", 64, 64, 1), ("Conv2d", 128, 128, 1)]),
    ("resnet32x4", "resnet8x2", 32, [("Conv2d", 64, 32, 1), ("Conv2d", 128, 64, 1)]),
    ("resnet32x4", "ShuffleV1", 32, [("Conv2d", 64, 240, 3), ("Conv2d", 128, 480, 3)]),
    ("resnet32x4", "ShuffleV2", 32, [("Conv2d", 64, 116, 3), ("Conv2d", 128, 232, 3)]),
    ("wrn_40_2", "ShuffleV2", 32, [("Conv2d", 32, 116, 3), ("Conv2d", 64, 232, 3)]),
    ("ResNet50", "vgg8", 32, [("Conv2d", 256, 128, 3), ("Conv2d", 512, 256, 3), ("Conv2d", 1024, 512, 3)]),
    ("ResNet18", "MobileNetV2", 32, [("Conv2d", 64, 12, 3), ("Conv2d", 128, 16, 3), ("Conv2d", 256, 48, 3)]),
    (
        "torchvision_resnet50",
        "torchvision_resnet34",
        224,
        [("Conv2d", 256, 64, 1), ("Conv2d", 512, 128, 1), ("Conv2d", 1024, 256, 1)],
    ),
    ("ShuffleV2", "resnet8x4", 32, [("ConvTranspose2d", 116, 64, 4), ("ConvTranspose2d", 232, 128, 4)]),
]


@pytest.mark.parametrize(
    "teacher, student, size, expected", PAIRS, ids=lambda value: value if isinstance(value, str) else ""
)
def test_transforms_of_the_papers_pairs(teacher, student, size, expected):
    with torch.device("meta"):
        branches = graft(networks.build(teacher), networks.build(student), size)
    found = []
    for branch in branches.values():
        convolution = branch.transform[0]
        kernel = convolution.kernel_size[0]
        found.append((type(convolution).__name__, convolution.in_channels, convolution.out_channels, kernel))
    assert found == expected


def test_transforms_meet_the_target_shape():
    for source, target in (((5, 8, 8), (7, 8, 8)), ((5, 8, 8), (7, 4, 4)), ((5, 8, 8), (7, 16, 16))):
        transform = feature_transform(source, target)
        assert transform(torch.randn(2, *source)).shape == (2, *target)
        assert (transform(torch.randn(2, *source)) >= 0).all()
    assert feature_transform((5, 8, 8), (7, 3, 3)) is None


def test_every_branch_has_its_own_new_tail():
    student = networks.build("resnet8", num_classes=10)
    branches = graft(networks.build("resnet20", num_classes=10), student, 32)
    first, second = (branches[block].tail.head.classifier.weight for block in ("1", "2"))
    assert not torch.equal(first, second)
    assert not torch.equal(first, student.head.classifier.weight)
    assert [len(branches[block].tail.blocks) for block in ("1", "2")] == [2, 1]


def test_blocks_may_be_chosen():
    networks_ = networks.build("resnet20"), networks.build("resnet8")
    assert list(graft(*networks_, 32, blocks=(2,))) == ["2"]


@pytest.mark.parametrize(
    "teacher, branch, blocks, words",
    [
        ("resnet20", "vgg8", None, r"cannot graft student \(4 blocks: 128x16x16, .*\) on teacher \(3 blocks: 16x32x32"),
        (
            "ResNet18",
            "torchvision_resnet18",
            None,
            "cannot graft student on teacher after block 1: the maps are 64x8x8",
        ),
        ("resnet20", "resnet8", (3,), r"branch blocks are among 1 to 2 and distinct, got \[3\]"),
        ("resnet20", "resnet8", (1, 1), "distinct"),
        ("resnet20", "resnet8", (), "branch blocks"),
    ],
)
def test_pairs_that_cannot_be_grafted(teacher, branch, blocks, words):
    with pytest.raises(UserError, match=words):
        graft(networks.build(teacher), networks.build(branch), 32, blocks=blocks, names=("teacher", "student"))


def test_branches_may_stand_on_the_stem_and_leave_out_other_blocks_than_the_teacher():
    """GTN: a teacher of three blocks, a branch network of four; positions are pairs, aligned at the end."""
    teacher, branch = networks.build("resnet8x4"), networks.build("gtn_nas_m")
    assert aligned(3, 4) == ((0, 1, 2), (1, 2, 3))
    assert aligned(4, 4) == ((1, 2, 3), (1, 2, 3))
    assert aligned(4, 3) == ((2, 3), (1, 2))
    branches = graft(teacher, branch, 32, blocks=(0, 1, 2), starts=(1, 2, 3))
    output = teacher(torch.randn(2, 3, 32, 32))
    for (block, one), feature, length in zip(
        branches.items(), (output.stem, *output.features), (3, 2, 1), strict=False
    ):
        assert len(one.tail.blocks) == length
        assert one(feature).logits.shape == (2, 100), block
    assert list(branches) == ["0", "1", "2"]
    assert [one.transform[0].in_channels for one in branches.values()] == [32, 64, 128]


@pytest.mark.parametrize(
    "blocks, starts, words",
    [
        ((0,), None, r"without --branch-blocks and --branch-starts"),
        ((0, 1), (1,), r"branch starts are 2, one for each branch, from 0 to 3, got \[1\]"),
        ((0, 1), (1, 4), "branch starts are 2"),
        ((4,), (1,), r"branch blocks are among 0 to 3"),
        ((3,), (1,), "cannot graft student on teacher after block 3: the maps are 64x32x32 and 256x8x8"),
    ],
)
def test_positions_that_are_none(blocks, starts, words):
    teacher, branch = networks.build("ResNet18" if blocks == (3,) else "resnet8x4"), networks.build("gtn_nas_m")
    with pytest.raises(UserError, match=words):
        graft(teacher, branch, 32, blocks=blocks, starts=starts, names=("teacher", "student"))
