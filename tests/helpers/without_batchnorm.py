"""`python -m fastkd.train` with one network more, `plain8`, that has no BatchNorm: run by test_distributed.py."""

import sys

from torch import nn

from fastkd import networks, train
from fastkd.support.command_line import command


def plain8(num_classes):
    network = networks.build("resnet8", num_classes=num_classes)
    for module in list(network.modules()):
        for name, child in list(module.named_children()):
            if isinstance(child, nn.BatchNorm2d):
                setattr(module, name, nn.Identity())
    return network


networks.NETWORKS["plain8"] = plain8

if __name__ == "__main__":
    sys.exit(command(train.main))
