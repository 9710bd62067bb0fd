"""Which image comes when: a function of (seed, epoch, step), shared out over the ranks."""

import functools
import operator

import pytest
import torch

from fastkd.data.order import InOrder, Order
from fastkd.support.errors import UserError


def epoch_of(order, epoch=0, start=0):
    return [batch.tolist() for batch in order.epoch(epoch, start)]


def test_same_seed_and_epoch_same_batches():
    assert epoch_of(Order(100, 8, seed=1)) == epoch_of(Order(100, 8, seed=1))


def test_epochs_and_seeds_differ():
    order = Order(100, 8, seed=1)
    assert epoch_of(order, 0) != epoch_of(order, 1)
    assert epoch_of(order, 0) != epoch_of(Order(100, 8, seed=2), 0)


def test_an_epoch_has_every_image_at_most_once():
    images = functools.reduce(operator.iadd, epoch_of(Order(100, 8, seed=0)), [])
    assert len(images) == len(set(images)) == 96


def test_the_partial_batch_may_be_kept():
    order = Order(100, 8, seed=0, drop_last=False)
    batches = epoch_of(order)
    assert order.steps == len(batches) == 13
    assert sorted(functools.reduce(operator.iadd, batches, [])) == list(range(100))
    assert len(batches[-1]) == 4


@pytest.mark.parametrize("start", (0, 1, 7, 11, 12))
def test_any_step_can_be_started_from(start):
    order = Order(100, 8, seed=3)
    assert epoch_of(order, 2, start) == epoch_of(order, 2)[start:]


@pytest.mark.parametrize("ranks", range(2, 9))
@pytest.mark.parametrize("samples, drop_last", [(100, True), (108, False), (109, False)])
def test_any_number_of_ranks_shares_out_the_global_batch(ranks, samples, drop_last):
    """The same batches in the same number of steps, the last one too; nobody has more than one image above another."""
    whole = epoch_of(Order(samples, 10, seed=5, drop_last=drop_last), 1)
    orders = [Order(samples, 10, seed=5, drop_last=drop_last, rank=rank, world_size=ranks) for rank in range(ranks)]
    parts = [epoch_of(order, 1) for order in orders]
    assert [functools.reduce(operator.iadd, step, []) for step in zip(*parts, strict=True)] == whole
    for order, part in zip(orders, parts, strict=True):
        assert order.steps == len(whole) and order.largest == max(map(len, part))
        assert order.whole(1).tolist() == [own for own, batch in zip(part, whole, strict=True) if len(batch) == 10]
    for step in zip(*parts, strict=True):
        counts = [*map(len, step)]
        assert max(counts) - min(counts) <= 1 and min(counts) > 0


@pytest.mark.parametrize("ranks", (2, 3))
def test_with_partners_a_rank_loads_those_of_its_own_images_too(ranks):
    """The partner is the image as many places further on as is drawn for (seed, epoch, step), in the global batch."""
    orders = [Order(100, 8, seed=5, drop_last=False, rank=rank, world_size=ranks, mixed=True) for rank in range(ranks)]
    distances = set()
    for epoch in (0, 1):
        parts = [epoch_of(order, epoch) for order in orders]
        whole = epoch_of(Order(100, 8, seed=5, drop_last=False, mixed=True), epoch)
        for step, batch in enumerate(whole):
            own = [part[step][: len(part[step]) // 2] for part in parts]
            others = [part[step][len(part[step]) // 2 :] for part in parts]
            assert functools.reduce(operator.iadd, own, []) == batch
            partners = functools.reduce(operator.iadd, others, [])
            (distance,) = {(batch.index(b) - batch.index(a)) % len(batch) for a, b in zip(batch, partners, strict=True)}
            distances.add(distance)
        for order, part in zip(orders, parts, strict=True):
            assert order.whole(epoch).tolist() == part[:12] and epoch_of(order, epoch, 7) == part[7:]
    assert 0 not in distances and len(distances) > 4


@pytest.mark.parametrize("ranks", (1, 2, 4))
@pytest.mark.parametrize("drop_last", (True, False))
def test_whole_batches_as_one_tensor(ranks, drop_last):
    for rank in range(ranks):
        order = Order(100, 8, seed=5, drop_last=drop_last, rank=rank, world_size=ranks)
        assert order.whole(3).tolist() == [batch for batch in epoch_of(order, 3) if len(batch) == 8 // ranks]
        test = InOrder(50, 4, rank=rank, world_size=ranks)
        assert test.whole().tolist() == [batch for batch in epoch_of(test) if len(batch) == 4]


def test_evaluation_sees_every_image_once():
    batches = list(InOrder(10, 4).epoch())
    assert [len(batch) for batch in batches] == [4, 4, 2]
    assert torch.cat(batches).tolist() == list(range(10))


@pytest.mark.parametrize("samples", (1, 5, 10, 17, 64))
@pytest.mark.parametrize("ranks", (1, 2, 3, 4, 5))
@pytest.mark.parametrize("batch", (1, 4, 7, 100))
def test_ranks_evaluate_every_image_once_and_nothing_twice(samples, ranks, batch):
    if samples < ranks:
        with pytest.raises(UserError, match=f"a test set of {samples} images? cannot be shared by {ranks} processes"):
            InOrder(samples, batch, rank=0, world_size=ranks)
        return
    seen = []
    for rank in range(ranks):
        order = InOrder(samples, batch, rank=rank, world_size=ranks)
        batches = epoch_of(order)
        assert len(batches) == order.steps and all(1 <= len(found) <= batch for found in batches)
        assert epoch_of(order, 0, 1) == batches[1:]
        seen += functools.reduce(operator.iadd, batches, [])
    assert seen == list(range(samples))


@pytest.mark.parametrize(
    "samples, batch, ranks, words",
    [
        (10, 11, 1, "batch of 11 images is larger than the training set of 10"),
        (10, 0, 1, "at least 1"),
        (10, 2, 3, "a global batch of 2 images cannot be shared by 3 processes"),
        (10, 4, 3, "10 images in batches of 4. has 2 images for 3 processes: give --drop-last on, or another --batch"),
    ],
)
def test_mistakes(samples, batch, ranks, words):
    with pytest.raises(UserError, match=words):
        Order(samples, batch, 0, world_size=ranks, drop_last=False)
