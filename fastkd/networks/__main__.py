"""python -m fastkd.networks NAME …: parameters and FLOPs of networks."""

import sys
from dataclasses import dataclass
from typing import Annotated

import torch
import tyro

from fastkd import networks
from fastkd.networks.complexity import complexity
from fastkd.support.command_line import command, read_options
from fastkd.support.console import new_table, table_console
from fastkd.support.ranges import Pixels, whole


@dataclass(frozen=True, kw_only=True)
class Options:
    """Prints the parameters of networks, and the multiplications and additions (FLOPs, each pair one) of an image."""

    names: Annotated[tyro.conf.Positional[tuple[str, ...]], tyro.conf.arg(metavar="NAME …")]
    """Networks of fastkd."""
    image_size: Pixels = 32
    """Height and width of the image."""
    classes: Annotated[int, whole(2, 1_000_000)] = 100
    """Classes of the classifier."""


def main(arguments: list[str]) -> int:
    options = read_options(Options, arguments, program="python -m fastkd.networks")
    title = f"images of {options.image_size} pixels, {options.classes} classes"
    table = new_table("network", title=title, right=["parameters", "FLOPs"])
    for name in options.names:
        with torch.device("meta"):
            found = complexity(networks.build(name, num_classes=options.classes), options.image_size)
        table.add_row(name, f"{found.parameters:,}", f"{found.multiply_adds:,}")
    table_console().print(table)
    return 0


if __name__ == "__main__":
    sys.exit(command(main))
