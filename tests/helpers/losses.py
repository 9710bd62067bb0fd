"""What the tests of the losses have in common: they run on the reference, and once more on the kernels."""

import os

import pytest
import torch

from helpers.places import TESTS

KERNEL = os.environ.get("FASTKD_OPS") == "distill_loss=triton"
DTYPES = (torch.float32,) if KERNEL else (torch.float64, torch.float32)
EXACT = DTYPES[0]
in_float64 = pytest.mark.skipif(KERNEL, reason="the kernel computes in float32")
FILES = [TESTS / "losses" / f"test_{name}.py" for name in ("kd", "sftn", "dkd", "smoothing", "pairs", "every_loss")]
"""Those that run on the kernels too."""
