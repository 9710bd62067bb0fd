"""Triton's kernels as operations of PyTorch."""

import pytest
from helpers.distill_operation import OperationContract

pytestmark = [
    pytest.mark.filterwarnings("ignore::RuntimeWarning"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning:torch"),  # Inductor's own
]


class TestTriton(OperationContract):
    path = "triton"
