"""The compiled libraries (csrc/, built by setup.py): found beside the package, loaded when they are first needed.

They hold no schemas: those stand beside the operations' Python, so a library may be missing, and nothing else changes.
"""

import functools
import os
from pathlib import Path

import torch

from fastkd.support.errors import UserError, nearest

_PACKAGE = Path(__file__).parents[1]
INSTRUCTIONS = ("baseline", "avx2", "avx512")
INTERFACE = "_interface_3"
"""What libraries of these sources implement; csrc/inputs.h has it, too."""
_used = ""

_library = torch.library.Library("fastkd", "FRAGMENT")
_library.define("_instructions(str most) -> str")
_library.define("_distill_forms() -> str")
_library.define(f"{INTERFACE}(Tensor any) -> ()")


def obstacle(device: str) -> str:
    """What keeps the library for a device type ("cpu", "cuda") from being used; "" if nothing does."""
    if _file(device) is None:
        return f"the compiled {device} library was not built"
    try:
        load(device)
    except OSError as error:  # as CUDA's does beside a torch without CUDA
        return f"the compiled {device} library does not load: {error.__cause__ or error}"
    return "" if _is_current(device) else f"the compiled {device} library is of older sources, build it again"


@functools.cache
def load(device: str) -> None:
    """Loads the library for a device type, once in a process. Raises UserError as `use_instructions`."""
    file = _file(device)
    assert file is not None, f"load({device!r}) comes after obstacle({device!r})"
    torch.ops.load_library(file)
    if device == "cpu" and _is_current(device):
        use_instructions(os.environ.get("FASTKD_CPU", ""))


def use_instructions(most: str) -> str:
    """The instruction set that the compiled kernels use from here on: the best one of this CPU, up to `most` if not "".

    Raises UserError for one that does not exist, or that this CPU does not have.
    """
    if most and most not in INSTRUCTIONS:
        raise UserError(f"FASTKD_CPU: no instruction set {most!r}{nearest(most, INSTRUCTIONS)}")
    global _used
    _used = torch.ops.fastkd._instructions(most)
    if most and _used != most:
        raise UserError(f"FASTKD_CPU={most}: this CPU has {_used} at most")
    return _used


def instructions() -> str:
    """The instruction set that the compiled kernels use."""
    load("cpu")
    return _used


def has_form(form: str) -> bool:
    """Whether the CPU library is there and has a kernel of this form of the distillation loss."""
    return not obstacle("cpu") and form in _forms()


has_form._dynamo_marked_constant = True  # pyright: ignore[reportFunctionMemberAccess]


@functools.cache
def _forms() -> frozenset[str]:
    return frozenset(torch.ops.fastkd._distill_forms().split(","))


def _is_current(device: str) -> bool:
    return torch._C._dispatch_has_kernel_for_dispatch_key(f"fastkd::{INTERFACE}", device.upper())


@functools.cache
def _file(device: str) -> Path | None:
    # _fastkd_cpu.abi3.so on Linux and macOS
    return next(iter(sorted(_PACKAGE.glob(f"_fastkd_{device}.*so"))), None)
