"""The benchmark of the methods compares like with like."""

import pytest
import torch

from benchmarks.methods import LEFT_OUT, Case, agree, contenders, given
from benchmarks.plain_methods import PLAIN
from fastkd.methods import METHODS

TINY = Case("tiny", "resnet14", "resnet8", 32, 10, 6)


@pytest.mark.parametrize("name", PLAIN)
def test_the_plain_form_is_the_same_loss(name):
    calls = contenders(name, given(name, TINY, "cpu"))
    ours, plain = calls["ours"](), calls["reference"]()
    assert ours[0].item() > 0
    assert agree(ours, plain)


@pytest.mark.parametrize("name", sorted(METHODS.keys() - LEFT_OUT.keys() - PLAIN.keys()))
def test_every_other_method_runs(name):
    total, *gradients = contenders(name, given(name, TINY, "cpu"))["ours"]()
    assert total.isfinite() and any(gradient is not None for gradient in gradients)


def test_another_result_does_not_agree():
    one = torch.ones(3)
    assert agree([one, None], [one.clone(), None])
    assert agree([one, None], [one.clone(), torch.zeros(2)])
    assert not agree([one, None], [one.clone(), torch.ones(2)])
    assert not agree([one], [1.01 * one])
