"""The first step that was not finite is kept, with its terms; those before and after it are not."""

import pytest
import torch
from helpers.tiny import CPU

from fastkd.training.first_bad import FirstBad
from fastkd.training.stages import Numbers


def kept(*bad):
    """What is kept of steps of which those are bad; step n has the terms 10n and 10n + 1."""
    found = FirstBad(CPU)
    for step in range(6):
        values = torch.tensor([10.0 * step, 10.0 * step + 1])
        numbers, flag = Numbers(("loss", "ce"), values), torch.tensor(float(step in bad))
        found.keep(flag, torch.tensor(step + 1), numbers)
    return found


@pytest.mark.parametrize("bad", ((0,), (0, 1), (2,), (2, 3, 5), (5,)))
def test_the_first_one_is_kept(bad):
    found, first = kept(*bad), bad[0]
    assert found.step == first
    assert found.terms == {"loss": 10.0 * first, "ce": 10.0 * first + 1}


def test_nothing_is_kept_of_good_steps():
    found = kept()
    assert found.step == -1 and found.terms == {"loss": 0.0, "ce": 0.0}


def test_it_is_changed_in_place():
    found = kept()
    before = found.steps, found.values
    found.keep(torch.tensor(1.0), torch.tensor(7), Numbers(("loss", "ce"), torch.tensor([1.0, 2.0])))
    assert found.steps is before[0] and found.values is before[1] and found.step == 6
