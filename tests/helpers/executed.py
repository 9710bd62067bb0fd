"""fastkd's operations on a GPU that is not there: their Triton kernels as compiled PTX, on tensors of the CPU."""

import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from unittest import mock

import pytest
from ptx import Device, device
from ptx.native import compiler

from fastkd.ops import select
from fastkd.ops.crd import dense
from fastkd.ops.distill_loss import launch
from fastkd.ops.row_loss import launch as row_launch

needs_compiler = pytest.mark.skipif(
    compiler() is None, reason="there is no C++ compiler, and numpy would take minutes for this"
)
MULTIPROCESSORS = 132
"""Those of the GPU that is played: an H100's, whatever the architecture."""


@contextmanager
def executing(architecture: str, *, multiprocessors: int = MULTIPROCESSORS, **options) -> Iterator[Device]:
    """Within, every operation runs its Triton kernels. options: of `ptx.launch`."""
    able = {name: dict(rows, triton=_able) if "triton" in rows else rows for name, rows in select.OPERATIONS.items()}
    able["crd"] = dict(able["crd"], dense=_able)
    able["crd_marks"] = dict(able["crd_marks"], triton=_able)
    generation = int(architecture.removeprefix("sm_")) // 10
    forced = "distill_loss=triton,row_loss=triton,augment=triton,crd=dense,crd_marks=triton"
    with ExitStack() as stack:
        stack.enter_context(mock.patch.object(select, "OPERATIONS", able))
        stack.enter_context(mock.patch.object(dense, "_device", lambda tensor: (multiprocessors, generation)))
        for launches in (launch, row_launch):
            stack.enter_context(mock.patch.object(launches, "multiprocessors", lambda device: multiprocessors))
        stack.enter_context(mock.patch.dict(os.environ, FASTKD_OPS=forced))
        yield stack.enter_context(device(architecture, **options))


def _able(device: str, interpreted: bool) -> str:
    """No obstacle, as `select.OPERATIONS` has them."""
    return ""
