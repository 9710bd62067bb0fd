"""Networks as a user of fastkd has them: plain modules in a module of their own."""

from typing import NamedTuple

import torch
from torch import Tensor, nn


def three_lines(num_classes: int) -> nn.Module:
    layers = nn.Conv2d(3, 8, 3, stride=2, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 16, 3, 2, 1)
    pool = nn.AdaptiveAvgPool2d(1), nn.Flatten()
    return nn.Sequential(*layers, *pool, nn.Linear(16, num_classes))


def ten_classes() -> nn.Module:
    return three_lines(10)


def at_width(width: int = 4, num_classes: int = 1000) -> nn.Module:
    return nn.Sequential(nn.Conv2d(3, width, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(width, num_classes))


class Said(NamedTuple):
    loss: float
    logits: Tensor


class Other(nn.Module):
    """One that returns its logits in another way."""

    def __init__(self, how: str, num_classes: int):
        super().__init__()
        self.how, self.body = how, three_lines(num_classes)

    def forward(self, images: Tensor):
        logits = self.body(images)
        ways = {"tuple": (logits, images), "object": Said(0.0, logits), "dict": {"logits": logits}}
        return ways.get(self.how, torch.zeros(2, 3, 4))


def returns_tuple(num_classes: int) -> nn.Module:
    return Other("tuple", num_classes)


def returns_object(num_classes: int) -> nn.Module:
    return Other("object", num_classes)


def returns_dict(num_classes: int) -> nn.Module:
    return Other("dict", num_classes)


def returns_nonsense(num_classes: int) -> nn.Module:
    return Other("nonsense", num_classes)


instance = three_lines(10)
not_a_module = 3
