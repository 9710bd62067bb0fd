"""The kernels in Triton's interpreter: against float64, with every teacher, label, divergence, and in the hard cases."""

import pytest
import torch
from helpers.row_cases import DIVERGENCES, KINDS, Options, assert_no_worse, make

pytestmark = pytest.mark.filterwarnings("ignore::RuntimeWarning")  # numpy, where -inf meets -inf
CAPPED = Options(logit_scale=1.5, softcap=5.0, teacher_logit_scale=0.7, teacher_softcap=4.0)
EVERY = [
    (kind, divergence)
    for kind in KINDS
    for divergence in DIVERGENCES
    if (kind, divergence) not in (("sampled", "reverse"), ("none", "jsd"), ("none", "reverse"))
]


@pytest.fixture(autouse=True, scope="module")
def poisoned_memory():
    """What the kernels do not write is NaN."""
    torch.use_deterministic_algorithms(True)
    assert torch.utils.deterministic.fill_uninitialized_memory
    yield
    torch.use_deterministic_algorithms(False)


@pytest.mark.parametrize("kind, divergence", EVERY)
@pytest.mark.parametrize("classes, labels", ((7, "classes"), (4099, "probabilities")))
def test_every_teacher(kind, divergence, classes, labels):
    case = make(kind, 4, classes, labels)
    assert_no_worse(case._replace(weights=torch.tensor([0.5, 0.0, 2.0, 1.0])), divergence)
