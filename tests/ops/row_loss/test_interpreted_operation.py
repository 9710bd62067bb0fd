"""The kernels as operations: in place behind a linear layer, compiled, scaled in backward."""

import pytest
import torch
from helpers.row_cases import forced, make
from helpers.row_operation import OperationContract

from fastkd.losses import kd_loss
from fastkd.ops.row_loss import launch

pytestmark = pytest.mark.filterwarnings("ignore::RuntimeWarning")


class TestOperation(OperationContract):
    path = "triton"


def test_backward_of_a_mean_writes_nothing(monkeypatch):
    """Its scale is 1 for every row: the gradient has it from the forward pass."""
    scales = []
    monkeypatch.setattr(launch, "scale_in_place", lambda _, scale: scales.append(scale.clone()))
    case = make("logits", 3, 5)
    leaf = case.student.clone().requires_grad_()
    with forced("triton"):
        kd_loss(leaf, case.teacher, case.labels, weights=torch.rand(3)).total.backward()
    assert (scales[0] == 1).all()
