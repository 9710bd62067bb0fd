"""Running means stay on the device until somebody looks, survive a checkpoint, and are those of all ranks."""

import copy
import math
from dataclasses import replace

import pytest
import torch
from helpers.tiny import CPU

from fastkd.training.laps import Lap
from fastkd.training.meter import GRAD_NORM, Meter, Totals
from fastkd.training.stages import StageLoss


def loss(total, hits=(0, 0), **terms):
    values = {name: torch.tensor(value) for name, value in terms.items()}
    return StageLoss(torch.tensor(total, requires_grad=True), values, torch.tensor(hits))


def add(meter, one, norm=1.0):
    meter.add(one.numbers(), one.hits, torch.tensor(norm))


def filled():
    meter = Meter(CPU)
    for total, hits, images in ((1.0, (1, 3), 4), (2.0, (2, 4), 4), (6.0, (0, 1), 2)):
        add(meter, loss(total, hits, ce=total / 2))
        meter.count(images)
    return meter


def test_a_new_meter_has_nothing_to_say():
    assert Meter(CPU).read() == Totals({}, (0, 0), 0, 0)
    assert Meter(CPU).read().means() == {}


def test_terms_are_means_over_steps_and_hits_over_images():
    totals = filled().read()
    assert totals == Totals({"loss": 9.0, "ce": 4.5}, (3, 8), 3, 10)
    assert totals.means() == {"loss": 3.0, "ce": 1.5, "top1": 0.3, "top5": 0.8}


def test_several_steps_may_be_counted_at_once():
    meter = Meter(CPU)
    meter.count(40, steps=10)
    assert (meter.steps, meter.images) == (10, 40)


def test_adding_changes_the_same_tensors_and_keeps_no_graph():
    """A recorded step has their addresses."""
    meter = filled()
    before = [meter.hits, meter.values, meter.largest]
    add(meter, loss(1.0, (1, 1), ce=1.0))
    meter.clear()
    add(meter, loss(5.0, (1, 2), ce=1.0))
    assert all(old is new for old, new in zip(before, (meter.hits, meter.values, meter.largest), strict=True))
    assert not meter.values.requires_grad
    assert meter.sums["loss"] == 5.0 and meter.hits.tolist() == [1, 2]


def test_many_small_terms_are_summed_without_loss():
    meter = Meter(CPU)
    for _ in range(1000):
        add(meter, loss(1e8, ce=1e8 + 0.0))
        add(meter, loss(0.25, ce=0.25))
    assert meter.read().sums["loss"] == 1e11 + 250


def test_since_gives_what_came_after():
    meter = filled()
    earlier = meter.read()
    add(meter, loss(4.0, (1, 1), ce=1.0))
    meter.count(2)
    assert meter.read().since(earlier).means() == {"loss": 4.0, "ce": 1.0, "top1": 0.5, "top5": 0.5}
    assert meter.read().since(None) == meter.read()
    assert meter.read().since(meter.read()).means() == {}


def test_what_was_counted_goes_on_after_a_checkpoint():
    meter, again = filled(), Meter(CPU)
    again.load(copy.deepcopy(meter.state()))
    for each in (meter, again):
        add(each, loss(3.0, (1, 1), ce=0.5))
        each.count(4)
    assert again.read() == meter.read()


def test_what_a_checkpoint_keeps_is_on_the_host(monkeypatch):
    """Other ranks unpickle it. A meta tensor stands for one of a GPU."""
    monkeypatch.setattr(torch.Tensor, "cpu", lambda value: torch.empty_like(value, device="cpu"))
    meter = Meter(torch.device("meta"))
    meter.names, meter.values = ("loss",), torch.ones(1, dtype=torch.float64, device="meta")
    state = meter.state()
    assert [value.device for value in (state["hits"], state["largest"], *state["sums"].values())] == [CPU] * 3


@pytest.mark.parametrize("among", (1, 2, 3))
@pytest.mark.parametrize("began", (1, 2, 4))
def test_another_number_of_ranks_counts_on_with_the_same_means_and_hits(began, among):
    """A rank's sums are its own, its steps and images those of all."""
    states = []
    for rank in range(began):
        meter = Meter(CPU)
        add(meter, loss(1.0 + rank, (rank, rank + 1), ce=2.0 * rank))
        meter.steps, meter.images = 1, 4 * began
        states.append(meter.state())
    shared = [Meter(CPU).load(state) for state in Meter.shared(states, among)]
    assert len(shared) == among
    mean_of_ranks = sum(meter.read().sums["loss"] for meter in shared) / among
    assert mean_of_ranks == pytest.approx(sum(1.0 + rank for rank in range(began)) / began)
    assert sum(meter.hits for meter in shared).tolist() == sum(state["hits"] for state in states).tolist()
    assert {(meter.steps, meter.images) for meter in shared} == {(1, 4 * began)}


def test_ranks_that_share_a_state_do_not_share_its_tensors():
    first, second = (Meter(CPU).load(state) for state in Meter.shared([filled().state()], 2))
    first.hits.add_(1)
    first.values.add_(1)
    assert second.hits.tolist() == [0, 0] and second.sums["loss"] == 9.0


def test_terms_that_a_step_names_in_another_order_or_for_the_first_time_keep_their_sums():
    meter = Meter(CPU)
    add(meter, loss(1.0, kl=2.0, ce=3.0))
    add(meter, loss(10.0, ce=30.0, at=40.0))
    add(meter, loss(100.0, ce=300.0, at=400.0))
    assert meter.read().sums == {"loss": 111.0, "kl": 2.0, "ce": 333.0, "at": 440.0}


def test_it_returns_to_an_earlier_state_in_place():
    """Warming up adds to it, and may name terms for the first time."""
    meter, empty = filled(), Meter(CPU)
    then, of_empty = meter.state(), empty.state()
    for one in (meter, empty):
        add(one, loss(7.0, (3, 3), ce=1.0, kl=5.0))
    where = meter.values
    meter.put_back(then)
    empty.put_back(of_empty)
    assert meter.values is where
    assert meter.read() == replace(filled().read(), sums={"loss": 9.0, "ce": 4.5, "kl": 0.0})
    assert empty.read() == Totals({"loss": 0.0, "ce": 0.0, "kl": 0.0}, (0, 0), 0, 0)


def test_a_state_holds_nothing_that_goes_on_changing():
    meter = filled()
    then = meter.state()
    add(meter, loss(1.0, (1, 1), ce=1.0))
    assert then["sums"] == {"loss": 9.0, "ce": 4.5} and then["hits"].tolist() == [3, 8]
    assert all(value.device == CPU for value in (*then["sums"].values(), then["hits"]))


class TestNorms:
    """The norm of the gradients is a number of the step beside the loss, and no term of it."""

    def filled(self, *norms):
        meter = Meter(CPU)
        for norm in norms:
            one, norm = loss(1.0), torch.tensor(norm)
            meter.add(one.numbers({GRAD_NORM: norm}), one.hits, norm)
            meter.count(4)
        return meter

    def test_the_mean_stands_beside_the_terms(self):
        totals = self.filled(1.0, 5.0, 3.0).read()
        assert totals.grad_norm == 3.0 and totals.means().keys() == {"loss", "top1", "top5"}
        assert math.isnan(Meter(CPU).read().grad_norm)

    def test_the_largest_is_that_since_the_last_record_and_that_of_the_epoch(self):
        meter = self.filled(1.0, 5.0, 3.0)
        assert meter.take_largest() == (5.0, 5.0)
        add(meter, loss(1.0), 2.0)
        assert meter.take_largest() == (2.0, 5.0)
        meter.clear()
        add(meter, loss(1.0), 4.0)
        assert meter.take_largest() == (4.0, 4.0)

    def test_both_go_on_after_a_checkpoint_and_come_back_after_warming_up(self):
        meter = self.filled(1.0, 5.0)
        state = copy.deepcopy(meter.state())
        add(meter, loss(1.0), 9.0)
        meter.put_back(state)
        for each in (meter, Meter(CPU).load(state)):
            assert each.read().sums[GRAD_NORM] == 6.0 and each.take_largest() == (5.0, 5.0)

    def test_what_an_older_checkpoint_does_not_know_is_no_number(self):
        state = {
            name: value for name, value in filled().state().items() if name not in ("largest", "seconds", "waited")
        }
        meter = Meter(CPU).load(state)
        assert all(math.isnan(norm) for norm in meter.take_largest())
        add(meter, loss(1.0), 2.0)
        recent, of_epoch = meter.take_largest()
        assert recent == 2.0 and math.isnan(of_epoch) and meter.read().lap == Lap(0.0, 0.0)


def test_laps_are_added_up_and_forgotten_with_the_sums():
    meter = filled()
    meter.took(Lap(2.0, 0.5))
    earlier = meter.read()
    meter.took(Lap(1.0, 0.25))
    assert meter.read().lap == Lap(3.0, 0.75) and meter.read().since(earlier).lap == Lap(1.0, 0.25)
    assert Meter(CPU).load(meter.state()).read().lap == Lap(3.0, 0.75)
    meter.clear()
    assert meter.read().lap == Lap() and Lap().share == 0.0 and Lap(4.0, 1.0).share == 0.25
