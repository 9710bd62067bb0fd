"""The kernels in Triton's interpreter: against float64, with every teacher and divergence, and in the hard cases."""

import pytest
from helpers.row_kernels import HARD, HardCases, KernelContract, poisoned_memory  # noqa: F401

pytestmark = [
    pytest.mark.usefixtures("poisoned_memory"),
    pytest.mark.filterwarnings("ignore::RuntimeWarning"),  # numpy, where -inf meets -inf
]


class TestKernels(KernelContract):
    path = "triton"


@pytest.mark.parametrize("kind, divergence", HARD)
class TestHardCases(HardCases):
    path = "triton"
