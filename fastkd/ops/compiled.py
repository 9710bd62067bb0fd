"""The compiled libraries (csrc/, built by setup.py): found beside the package, loaded when they are first needed.

They hold no schemas: those stand beside the operations' Python, so a library may be missing, and nothing else changes.
"""

import functools
from pathlib import Path

import torch

_PACKAGE = Path(__file__).parents[1]


def obstacle(device: str) -> str:
    """What keeps the library for a device type ("cpu", "cuda") from being used; "" if nothing does."""
    return "" if _file(device) else f"the compiled {device} library was not built"


@functools.cache
def load(device: str) -> None:
    """Loads the library for a device type, once in a process."""
    file = _file(device)
    assert file is not None, f"load({device!r}) comes after obstacle({device!r})"
    torch.ops.load_library(file)


@functools.cache
def _file(device: str) -> Path | None:
    # _fastkd_cpu.abi3.so on Linux and macOS
    return next(iter(sorted(_PACKAGE.glob(f"_fastkd_{device}.*so"))), None)
