"""What a process has of a global batch and what it counts; the processes take turns in one."""

import pytest
import torch
from helpers.steps import make_step
from helpers.without_batchnorm import plain8

from fastkd import networks
from fastkd.data import RawBatch
from fastkd.data.base import Batch, Mixed
from fastkd.data.shares import Place, sizes
from fastkd.training import parts
from fastkd.training.parts import Placed, Placing, in_parts


@pytest.fixture
def as_rank(monkeypatch):
    def become(rank, processes):
        monkeypatch.setattr(parts, "rank", lambda: rank)
        monkeypatch.setattr(parts, "world_size", lambda: processes)

    return become


def gradients(step, raw):
    """Those of a batch of this process, before any message, and the loss."""
    batch = step._placed(step.prepare(raw, step.done, step.epoch), raw)
    loss = step._accumulate(batch, step.placing.weight(raw))
    found = torch.cat([parameter.grad.flatten() for parameter in step.stage.parameters()])
    step.optimizer.zero_grad()
    return found, loss.total * step.placing.weight(raw)


@pytest.mark.parametrize("processes", (2, 3, 5))
@pytest.mark.parametrize("images", (32, 7))
@pytest.mark.parametrize("accumulate", (1, 2))
def test_the_mean_over_uneven_shares_is_that_over_the_images(processes, images, accumulate, as_rank, monkeypatch):
    monkeypatch.setitem(networks.NETWORKS, "plain8", plain8)
    step, raws = make_step(network="plain8", batch_size=32, accumulate=accumulate)
    index = raws[0].index[:images]
    whole, loss = gradients(step, RawBatch(index))
    means, losses, seen = [], [], []
    for rank in range(processes):
        as_rank(rank, processes)
        step.placing = Placing(32)
        first = step.placing.place(RawBatch(index, whole=images)).first
        own = index[first : first + sizes(images, processes)[rank]]
        seen += own.tolist()
        gradient, own_loss = gradients(step, RawBatch(own, whole=images))
        means.append(gradient / processes)
        losses.append(own_loss / processes)
    assert seen == index.tolist()
    torch.testing.assert_close(sum(means), whole, rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(sum(losses), loss)


def test_equal_shares_are_weighed_by_exactly_one(as_rank):
    """There is nothing to multiply then."""
    for processes in (1, 2, 3, 6):
        as_rank(0, processes)
        placing = Placing(42)
        assert placing.weight(RawBatch(torch.arange(42 // processes))) == 1
        assert placing.weight(RawBatch(torch.arange(6 // processes), whole=6)) == 1


def test_a_loader_tells_how_many_images_the_last_batch_has(as_rank):
    as_rank(1, 3)

    class Loader:
        steps, samples, labels, classes = 3, 21, None, ()

        def epoch(self, epoch, start=0):
            yield from [RawBatch(torch.arange(3))] * (3 - start)

    told = Placing(8).told(Loader())
    assert isinstance(told, Placed)
    assert [raw.whole for raw in told.epoch(0)] == [8, 8, 5]
    assert [raw.whole for raw in told.epoch(0, 2)] == [5]
    assert Placing(8).place(RawBatch(torch.arange(3))) == Place(2, (2, 3, 3))


@pytest.mark.parametrize("first, everybody", [(0, ()), (5, (5, 5, 6)), (2, (2, 5))])
def test_parts_know_where_they_stand_and_every_process_has_as_many(first, everybody):
    five = torch.arange(5)
    mixed = Mixed(five + 10, five / 10)
    batch = Batch(torch.rand(2, 5, 3, 4, 4), five + 20, five + 30, five[0], five[0], (five[:, None],), mixed)
    batch = batch._replace(place=Place(first, everybody))
    found = in_parts(batch, 4)
    assert len(found) == min(4, *(everybody or (5,)))
    assert torch.cat([part.images for part in found], 1).equal(batch.images)
    for name in ("labels", "index"):
        assert torch.cat([getattr(part, name) for part in found]).equal(getattr(batch, name))
    assert torch.cat([part.mixed.share for part in found]).equal(mixed.share)
    at = first
    for part in found:
        assert part.place.first == at and part.taught[0].flatten().equal(part.labels - 20)
        at += len(part.labels)
    for number, count in enumerate(everybody):
        assert sum(part.place.sizes[number] for part in found) == count
        assert all(part.place.sizes[number] for part in found)
