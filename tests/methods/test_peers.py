"""Several networks that learn from each other."""

import pytest
import torch
import torch.nn.functional as F
from method_cases import batch, output

from fastkd.methods.dml import DML, DMLSettings
from fastkd.methods.kdcl import KDCL, KDCLSettings

LABELS = torch.tensor([3, 0, 5, 5, 1])


def networks(count):
    torch.manual_seed(0)
    logits = [(3 * torch.randn(5, 6)).double().requires_grad_() for _ in range(count)]
    return logits, [output(logits=z, embedding=z) for z in logits]


def divergence(target, own, temperature):
    target, own = (target.detach() / temperature).softmax(1), (own / temperature).log_softmax(1)
    return temperature**2 * F.kl_div(own, target, reduction="batchmean")


@pytest.mark.parametrize("count", (2, 3))
def test_dml_learns_from_the_mean_of_the_others(count):
    logits, outputs = networks(count)
    found = DML(DMLSettings(kl_weight=0.5)).double()(outputs, batch(LABELS))
    for place, loss in enumerate(found):
        others = [divergence(z, logits[place], 1.0) for z in logits if z is not logits[place]]
        expected = F.cross_entropy(logits[place], LABELS) + 0.5 * torch.stack(others).mean()
        torch.testing.assert_close(loss.total, expected)
        gradients = torch.autograd.grad(loss.total, logits, allow_unused=True)
        assert [gradient is not None for gradient in gradients] == [z is logits[place] for z in logits]


@pytest.mark.parametrize("kind", ("naive", "min_logit"))
def test_kdcl_learns_from_one_target(kind):
    logits, outputs = networks(3)
    rows = []
    for row, label in enumerate(LABELS.tolist()):
        own = [z.detach()[row] for z in logits]
        if kind == "naive":
            rows.append(min(own, key=lambda z, label=label: F.cross_entropy(z, torch.tensor(label))))
        else:
            rows.append(torch.stack([z - z[label] for z in own]).min(0).values)
    found = KDCL(KDCLSettings(target=kind)).double()(outputs, batch(LABELS))
    for own, loss in zip(logits, found, strict=True):
        expected = F.cross_entropy(own, LABELS) + divergence(torch.stack(rows), own, 2.0)
        torch.testing.assert_close(loss.total, expected)
