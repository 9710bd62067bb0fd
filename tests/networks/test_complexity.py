"""Parameters and FLOPs, against counts by hand."""

import pytest
import torch
from torch import nn

from fastkd.networks.__main__ import main
from fastkd.networks.complexity import complexity
from fastkd.support.errors import UserError

PARAMETERS = 83_892
"""What resnet8 has with 100 classes, see test_golden.py."""


def test_a_network_by_hand():
    """A convolution has 3·5·3·3 weights and 5 biases, used at 4·4 places; the classifier 5·7 and 7."""
    network = nn.Sequential(nn.Conv2d(3, 5, 3, padding=1), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(5, 7))
    assert complexity(network, 4) == (135 + 5 + 35 + 7, 135 * 16 + 35)
    assert network.training


def test_nothing_is_computed_on_the_meta_device_and_too_small_images_are_a_line():
    with torch.device("meta"):
        network = nn.Conv2d(3, 5, 3)
    assert complexity(network, 3).multiply_adds == 135
    with pytest.raises(UserError, match="takes no images of 2 pixels"):
        complexity(network, 2)


def test_the_command(capsys):
    assert main(["resnet8", "--image-size", "32"]) == 0
    assert f"{PARAMETERS:,}" in capsys.readouterr().out.replace(" ", "")
