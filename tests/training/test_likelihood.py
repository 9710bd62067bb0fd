"""Likelihood and entropy against float64 written out, and against PyTorch's distributions."""

import pytest
import torch
from torch.distributions import Categorical

from fastkd.training.likelihood import Likelihood


def test_batches_add_up_to_the_formulas():
    generator = torch.Generator().manual_seed(0)
    logits = 5 * torch.randn(11, 7, generator=generator, dtype=torch.float64)
    labels = torch.randint(7, (11,), generator=generator)
    measured = Likelihood()
    for part, own in zip(logits.split(4), labels.split(4), strict=True):
        measured.add(part, own)
    found = measured.read()
    said = Categorical(logits=logits)
    assert found["nll"] == pytest.approx(-said.log_prob(labels).mean().item(), rel=1e-14)
    assert found["entropy"] == pytest.approx(said.entropy().mean().item(), rel=1e-13)
    assert found["top1"] == int((logits.argmax(1) == labels).sum()) and found["samples"] == 11
    top5 = logits.topk(5).indices == labels.unsqueeze(1)
    assert found["top5"] == int(top5.any(1).sum())


def test_what_is_certain_has_no_entropy():
    measured = Likelihood()
    measured.add(torch.tensor([[1e4, -1e4, 0.0]]), torch.tensor([0]))
    assert measured.read()["nll"] == 0.0 and measured.read()["entropy"] == 0.0
