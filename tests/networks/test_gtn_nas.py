"""GTN's students against Tables 1-3 of its supplement, layer by layer."""

import pytest
import torch
from torch import nn

from fastkd.networks import build, output_shapes
from fastkd.networks.resnet import BasicUnit

# The rows as printed: layer, channels in and out, kernel, stride; (xn) is the number in front.
TABLES = {
    "gtn_nas_s": """
        Conv 3 16 3 1 | Id 16 16 | 1 Res 16 64 3 1 | 1 Res 64 128 3 2 | 1 Res 128 256 3 2 | Conv 256 1280 1 1
        Linear 1280 100""",
    "gtn_nas_m": """
        Conv 3 16 3 1 | Id 16 16 | 2 Res 16 64 3 1 | 1 Res 64 64 3 1 | Id 64 64 | 2 Res 64 128 5 2
        1 Res 128 256 3 2 | 1 Res 256 512 3 2 | Conv 512 1280 1 1 | Linear 1280 100""",
    "gtn_nas_l": """
        Conv 3 16 3 1 | Id 16 16 | 2 Res 16 64 3 1 | Id 64 64 | 3 Res 64 64 3 1 | Id 64 128 | 3 Res 128 128 3 2
        Id 128 128 | 3 Res 128 128 3 1 | 3 Res 128 256 3 2 | 3 Res 256 512 3 2 | Conv 512 1280 1 1 | Linear 1280 100""",
}


def printed(name: str) -> list[str]:
    """The layers of a table; an identity that does nothing leaves no trace, and (xn) are n blocks of which the first
    has the stride and the change of channels."""
    found = []
    for row in TABLES[name].replace("\n", " | ").split("|"):
        words = row.split()
        if not words or (words[0] == "Id" and words[1] == words[2]):
            continue
        if words[0].isdecimal():
            count, _, before, after, kernel, stride = words
            found.append(f"Res {before} {after} {kernel} {stride}")
            found += [f"Res {after} {after} {kernel} 1"] * (int(count) - 1)
        else:
            found.append(" ".join(words))
    return found


def built(name: str) -> list[str]:
    found = []
    for module in _leaves(build(name)):
        if isinstance(module, BasicUnit):
            first, second = module.conv1, module.conv2
            assert second.in_channels == second.out_channels == first.out_channels
            assert (second.kernel_size, second.stride) == (first.kernel_size, (1, 1))
            found.append(f"Res {first.in_channels} {first.out_channels} {first.kernel_size[0]} {first.stride[0]}")
        elif isinstance(module, nn.Conv2d):
            sizes = f"{module.in_channels} {module.out_channels}"
            changes = module.kernel_size == (1, 1) and module.out_channels < 1280
            found.append(f"Id {sizes}" if changes else f"Conv {sizes} {module.kernel_size[0]} {module.stride[0]}")
        elif isinstance(module, nn.Linear):
            found.append(f"Linear {module.in_features} {module.out_features}")
    return found


def _leaves(module: nn.Module):
    for child in module.children():
        if isinstance(child, BasicUnit) or not list(child.children()):
            yield child
        else:
            yield from _leaves(child)


@pytest.mark.parametrize("name", TABLES)
def test_a_student_is_its_table(name):
    with torch.device("meta"):
        assert built(name) == printed(name)


@pytest.mark.parametrize("name, millions", [("gtn_nas_s", 1.66), ("gtn_nas_m", 7.02), ("gtn_nas_l", 19.3)])
def test_parameters_are_those_of_a_count_by_hand(name, millions):
    """The notes on the methods have counted the printed rows, with 1x1 shortcuts where a block changes its shape."""
    with torch.device("meta"):
        count = sum(parameter.numel() for parameter in build(name).parameters())
    assert count / 1e6 == pytest.approx(millions, rel=0.003)


def test_blocks_have_the_maps_of_the_supernet():
    with torch.device("meta"):
        maps = {name: [tuple(x.shape[1:]) for x in output_shapes(build(name), 32).features] for name in TABLES}
        imagenet = output_shapes(build("gtn_nas_m_imagenet"), 224)
    assert maps["gtn_nas_m"] == maps["gtn_nas_l"] == [(64, 32, 32), (64, 32, 32), (128, 16, 16), (512, 4, 4)]
    assert maps["gtn_nas_s"] == [(64, 32, 32), (128, 16, 16), (256, 8, 8)]
    assert [x.shape[2] for x in imagenet.features] == [56, 56, 28, 7]
