"""Paths are a function of (seed, step); what is learned of them is the policy gradient, written out."""

import math
from collections import Counter

import pytest
import torch

from fastkd.networks.gtn_nas import Row
from fastkd.networks.supernet import Candidates, ReconfigurableLayer
from fastkd.training.paths import Paths, PathSettings


def layers(count: int, how: Candidates | None = None) -> list[ReconfigurableLayer]:
    row = Row(2, 2)
    return [ReconfigurableLayer(row, how or Candidates(), last=number == count - 1) for number in range(count)]


def paths(*lengths: int, seed: int = 7, candidates: Candidates | None = None, **how) -> Paths:
    with torch.device("meta"):
        branches = [layers(length, candidates) for length in lengths]
    return Paths(branches, PathSettings(**how), seed=seed, classes=10)


def at(step: int) -> torch.Tensor:
    return torch.tensor(step)


def test_a_path_is_a_function_of_seed_and_step():
    one, again, other = paths(5, 4, 2), paths(5, 4, 2), paths(5, 4, 2, seed=8)
    steps = range(40)
    drawn = [one.drawn(at(step)) for step in steps]
    assert all(torch.equal(path, again.drawn(at(step))) for step, path in reversed(list(enumerate(drawn))))
    assert len({tuple(path.flatten().tolist()) for path in drawn}) == 40
    assert any(not torch.equal(path, other.drawn(at(step))) for step, path in enumerate(drawn))
    assert drawn[0].shape == (3, 5)


def test_uniform_paths_are_uniform_and_branches_have_their_own():
    one, steps = paths(3, 2), 1500
    drawn = torch.stack([one.drawn(at(step)) for step in range(steps)])
    for path, layer in ((0, 0), (0, 2), (1, 1)):
        counts = Counter(drawn[:, path, layer].tolist())
        chi_squared = sum((counts[number] - steps / 8) ** 2 / (steps / 8) for number in range(8))
        assert chi_squared < 24.3, "beyond the 99.9th percentile of 7 degrees of freedom"
    same = (drawn[:, 0, 1] == drawn[:, 1, 1]).double().mean().item()
    assert abs(same - 1 / 8) < 4 * math.sqrt(7 / 64 / steps)


def test_a_candidate_that_is_none_is_never_drawn():
    one = paths(3, candidates=Candidates(zeros="but_last"))
    drawn = torch.cat([one.drawn(at(step)) for step in range(300)])
    assert drawn[:, :2].max() == 7 and drawn[:, 2].max() == 6
    learned = paths(3, candidates=Candidates(zeros="but_last"), learned=True)
    drawn = torch.cat([learned.drawn(at(step)) for step in range(300)])
    assert drawn[:, :2].max() == 7 and drawn[:, 2].max() == 6


def test_branches_end_alike_and_may_share_one_path():
    one = paths(4, 2, shared=True)
    path = one.drawn(at(3))
    assert path.shape == (1, 4)
    one.choose(path.tolist())
    long, short = ([layer.drawn for layer in branch] for branch in one.branches)
    assert long == path[0].tolist() and short == long[2:]


@pytest.mark.parametrize("tested", ["drawn", "largest", "likeliest"])
def test_the_path_of_a_test(tested):
    one = paths(3, 2, tested=tested, learned=tested == "likeliest")
    first, second = one.tested(at(0)), one.tested(at(1))
    assert torch.equal(first, one.tested(at(0)))
    if tested == "drawn":
        assert not torch.equal(first, second)
        assert not torch.equal(first, one.drawn(at(0))), "a test draws other numbers than the step of that number"
    elif tested == "largest":
        assert (first == 5).all() and [one.branches[0][0].names[5]] == ["k5d3"]
    else:
        with torch.no_grad():
            one.logits_PLO[1, 2, 6] = 1.0
        assert one.tested(at(0))[1].tolist() == [0, 0, 6]


def test_learned_draws_follow_the_distribution():
    one = paths(2, learned=True)
    with torch.no_grad():
        one.logits_PLO[0, 1] = torch.tensor([0.1, 0.2, 0.05, 0.05, 0.3, 0.1, 0.1, 0.1]).log()
    drawn = torch.cat([one.drawn(at(step)) for step in range(1000)])
    share = (drawn[:, 1] == 4).double().mean().item()
    assert abs(share - 0.3) < 4 * math.sqrt(0.21 / 1000)


@pytest.mark.parametrize("shared", [False, True])
def test_the_loss_of_learned_paths_is_the_policy_gradient(shared):
    """d/da of (CE - b) ln p(path) is (CE - b) (one-hot - p), in float64, for each layer that a branch has."""
    one = paths(3, 2, learned=True, shared=shared, baseline_decay=0.9)
    torch.manual_seed(0)
    with torch.no_grad():
        one.logits_PLO.normal_()
        one.baseline_N.copy_(torch.tensor([2.0, 1.5]))
    path, found = one.drawn(at(5)), torch.tensor([2.4, 0.7])
    loss = one.loss(path, found)
    loss.backward()
    probabilities = one.logits_PLO.detach().double().softmax(-1)
    better, total = found.double() - torch.tensor([2.0, 1.5]).double(), torch.zeros(()).double()
    expected = torch.zeros_like(probabilities)
    for branch, first in ((0, 0), (1, 1)):
        place = 0 if shared else branch
        for layer in range(first, 3):
            drawn = path[place, layer]
            total += better[branch] * probabilities[place, layer, drawn].log() / 2
            expected[place, layer] -= better[branch] * probabilities[place, layer] / 2
            expected[place, layer, drawn] += better[branch] / 2
    torch.testing.assert_close(loss.detach().double(), total, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(one.logits_PLO.grad.double(), expected, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(one.baseline_N, torch.tensor([2.04, 1.42]))


def test_the_first_baseline_is_the_loss_of_knowing_nothing():
    assert paths(2, learned=True).baseline_N.tolist() == pytest.approx([math.log(10)])


def test_a_zero_cuts_its_branch_off_and_what_is_drawn_elsewhere_is_used():
    branches = [[ReconfigurableLayer(Row(2, 2), Candidates(), last=False) for _ in range(count)] for count in (3, 2)]
    one = Paths(branches, PathSettings(), seed=0, classes=10)
    for path, cut in (
        ([[0, 1, 2], [3, 4, 5]], [False, False]),
        ([[0, 7, 2], [7, 6, 6]], [True, False]),
        ([[6, 5, 7], [0, 0, 7]], [True, True]),
    ):
        paths_PL = torch.tensor(path)
        assert one.cut_off(paths_PL).tolist() == cut
        entries = one.used(paths_PL, one.cut_off(paths_PL))
        found = {id(parameter) for parameters, used in entries if used for parameter in parameters}
        expected = [
            layer.stacks[layer.names[drawn]].parameters()
            for layers, drawn_ones, is_cut in zip(branches, path, cut, strict=True)
            for layer, drawn in zip(layers, drawn_ones[-len(layers) :], strict=True)
            if not is_cut and drawn < 6
        ]
        assert found == {id(parameter) for parameters in expected for parameter in parameters}
