"""Which implementation of an operation runs, and why: the one place that decides and that reads the environment.

FASTKD_OPS=distill_loss=reference forces one; several are separated by commas. FASTKD_CHECK_LABELS=1 makes the kernels
assert on the device that labels are in range (on a CPU they always are checked).
"""

import functools
import importlib.util
import os
from collections.abc import Callable

import torch

from fastkd.ops.compiled import instructions
from fastkd.ops.compiled import obstacle as missing
from fastkd.support.environment import without_bfloat16
from fastkd.support.errors import UserError, nearest

FORCED = "forced by FASTKD_OPS"


Reasons = tuple[tuple[str, str], ...]
"""(implementation, reason) pairs."""


def choose(operation: str, device: str, impossible: Reasons = (), unsuitable: Reasons = ()) -> tuple[str, str]:
    """(implementation, reason) for tensors on a `device` type ("cpu", "cuda", …).

    impossible, unsuitable: implementations that this call's tensors rule out; an unsuitable one can still be forced.

    Raises UserError if FASTKD_OPS names what does not exist or what cannot run there.
    """
    return _chosen(operation, device, impossible, unsuitable, os.environ.get("FASTKD_OPS", ""), interpreting())


@functools.cache
def _chosen(
    operation: str, device: str, impossible: Reasons, unsuitable: Reasons, forcing: str, interpreted: bool
) -> tuple[str, str]:
    """What can run is found once in a process: losses of few numbers would wait for the search."""
    implementations, ruled_out, disliked = OPERATIONS[operation], dict(impossible), dict(unsuitable)
    forced = _forced_by(forcing).get(operation)
    if forced is not None:
        if obstacle := implementations[forced](device, interpreted) or ruled_out.get(forced):
            raise UserError(f"FASTKD_OPS={operation}={forced}: {obstacle}")
        return forced, FORCED
    obstacles = []
    for name, obstacle_on in implementations.items():
        obstacle = obstacle_on(device, False) or ruled_out.get(name) or disliked.get(name)
        if not obstacle:
            return name, "; ".join(dict.fromkeys(obstacles)) or f"preferred on {device}"
        obstacles.append(obstacle)
    raise AssertionError(f"{operation} has no implementation that runs everywhere")


def choices(device: str) -> dict[str, str]:
    """`implementation (reason)` of every operation on a device type, for the records of a run."""
    return {operation: _described(*choose(operation, device)) for operation in OPERATIONS}


def _described(implementation: str, reason: str) -> str:
    compiled_for = f" {instructions()}" if implementation.startswith("cpu") else ""
    return f"{implementation}{compiled_for} ({reason})"


def words(device: str) -> dict[str, str]:
    """The same for a person, who is told of what could be otherwise: what is forced, and what is missing here.

    That kernels for a GPU do not run on a CPU is no news.
    """
    found = {}
    for operation, implementations in OPERATIONS.items():
        if operation in PARTS:
            continue
        chosen, reason = choose(operation, device)
        better = list(implementations)[: list(implementations).index(chosen)]
        missing = [implementations[name](device, False) for name in better if MADE_FOR.get(name, device) == device]
        remarks = [FORCED] if reason == FORCED else [*dict.fromkeys(filter(None, missing))]
        found[operation] = _CALLED.get(chosen, chosen) + (f" ({'; '.join(remarks)})" if remarks else "")
    return found


def able(operation: str, implementation: str, device: str) -> bool:
    """Whether an implementation could run on a device type, chosen or not."""
    return not OPERATIONS[operation][implementation](device, False)


# Dynamo does not trace through these: it calls them once, when it compiles, and takes the answers as constants.
# (This is what torch.compiler.assume_constant_result sets, without the second that importing Dynamo takes.)
choose._dynamo_marked_constant = True  # pyright: ignore[reportFunctionMemberAccess]
able._dynamo_marked_constant = True  # pyright: ignore[reportFunctionMemberAccess]


def forced_implementations() -> dict[str, str]:
    """{operation: implementation}, as FASTKD_OPS has them. Raises UserError for names that do not exist."""
    return _forced_by(os.environ.get("FASTKD_OPS", ""))


def _forced_by(text: str) -> dict[str, str]:
    forced = {}
    for item in filter(None, (part.strip() for part in text.split(","))):
        operation, equals, implementation = (part.strip() for part in item.partition("="))
        if not equals:
            raise UserError(f"FASTKD_OPS is OPERATION=IMPLEMENTATION[,…], got {item!r}")
        if operation not in OPERATIONS:
            raise UserError(f"FASTKD_OPS: no operation {operation!r}{nearest(operation, OPERATIONS)}")
        if implementation not in OPERATIONS[operation]:
            hint = nearest(implementation, OPERATIONS[operation])
            raise UserError(f"FASTKD_OPS: {operation} has no implementation {implementation!r}{hint}")
        forced[operation] = implementation
    return forced


def interpreting() -> bool:
    """Whether Triton interprets its kernels on the CPU, slowly: for tests."""
    return os.environ.get("TRITON_INTERPRET") == "1"


def checks_labels() -> bool:
    """Whether the kernels assert that labels are in range."""
    return os.environ.get("FASTKD_CHECK_LABELS") == "1"


def _triton_obstacle(device: str, interpreted: bool) -> str:
    if importlib.util.find_spec("triton") is None:
        return "triton is not installed"
    if device == "cuda" or (device == "cpu" and interpreted):
        return ""
    return f"triton does not run on {device}" + (" without TRITON_INTERPRET=1" if device == "cpu" else "")


def _dense_obstacle(device: str, interpreted: bool) -> str:
    return _triton_obstacle(device, interpreted) or _old_gpu(device)


def _gather_obstacle(device: str, interpreted: bool) -> str:
    return _compiled_obstacle("cuda")(device, interpreted) or _old_gpu(device)


def _old_gpu(device: str) -> str:
    """CRD's kernels multiply in bfloat16, or are compiled for what does."""
    old = without_bfloat16(torch.device(device)) if device == "cuda" else ""
    return f"the {old} has no bfloat16" if old else ""


def _compiled_obstacle(library: str) -> Callable[[str, bool], str]:
    def obstacle(device: str, interpreted: bool) -> str:
        return f"the compiled {library} code does not run on {device}" if device != library else missing(library)

    return obstacle


def _runs_everywhere(device: str, interpreted: bool) -> str:
    return ""


MADE_FOR = {"cuda": "cuda", "triton": "cuda", "dense": "cuda", "gather": "cuda", "cpu_tiles": "cpu", "cpu": "cpu"}
"""The device type that an implementation was made for; one that is not here was made for all."""
PARTS = ("crd_marks",)
"""Operations within others, of which nobody is told that does not ask."""
_CALLED = {
    "reference": "PyTorch",
    "triton": "Triton",
    "dense": "Triton (dense)",
    "gather": "CUDA",
    "cuda": "CUDA",
    "cpu_tiles": "C++",
    "cpu": "C++",
}


OPERATIONS: dict[str, dict[str, Callable[[str, bool], str]]] = {
    "distill_loss": {
        "triton": _triton_obstacle,
        "cpu": _compiled_obstacle("cpu"),
        "reference": _runs_everywhere,
    },
    "row_loss": {"triton": _triton_obstacle, "cpu": _compiled_obstacle("cpu"), "reference": _runs_everywhere},
    "crd": {
        "dense": _dense_obstacle,
        "gather": _gather_obstacle,
        "cpu_tiles": _compiled_obstacle("cpu"),
        "cpu": _compiled_obstacle("cpu"),
        "reference": _runs_everywhere,
    },
    "crd_marks": {"cuda": _compiled_obstacle("cuda"), "triton": _triton_obstacle, "reference": _runs_everywhere},
    "augment": {"triton": _triton_obstacle, "reference": _runs_everywhere},
}
"""Implementations in the order of preference, each with what keeps it from running on a device ("": nothing).

The interpreter counts only for what is forced: who debugs kernels of their own does not want ours interpreted.
"""
