"""Sets that live on the device: the loader only says which images come next."""

import pytest
import torch
from helpers.loader_contract import LoaderContract, train

from fastkd.data import ResidentLoader
from fastkd.data.order import InOrder, Order


def loader_of(order, device=None):
    return ResidentLoader(torch.arange(order.samples) % 2, ("ant", "bee"), order, device)


class TestResidentLoader(LoaderContract):
    kind = "resident"


@pytest.mark.parametrize("rank", (0, 1))
def test_the_order_of_a_resident_set_is_one_tensor(photographs, rank):
    loader = train(photographs, "resident", batch_size=6, drop_last=False, rank=rank, world_size=2).loader
    indices = [raw.index for raw in loader.epoch(3)]
    order = loader.order(3)
    assert order.shape == (4, 3) and order.dtype == torch.int64
    assert torch.equal(order, torch.stack(indices[:4]))
    (last,) = loader.epoch(3, start=len(order))
    assert torch.equal(last.index, indices[4]) and len(last.index) == 1


@pytest.mark.parametrize("samples, batch_size, whole", ((1, 1, 1), (1, 4, 0), (7, 7, 1), (9, 4, 2)))
def test_the_order_has_whole_batches_and_the_epoch_the_rest(samples, batch_size, whole):
    loader = loader_of(InOrder(samples, batch_size))
    order, rest = loader.order(0), list(loader.epoch(0, whole))
    assert order.shape == (whole, batch_size) and len(rest) == loader.steps - whole
    seen = [*order.flatten().tolist(), *(place for raw in rest for place in raw.index.tolist())]
    assert seen == list(range(samples))


def test_nothing_comes_after_the_last_step():
    loader = loader_of(Order(8, 4, seed=0))
    assert list(loader.epoch(0, loader.steps)) == []


def test_the_order_lies_on_the_device_and_the_batches_on_the_host():
    """The step moves those that it is handed; for an order there is nobody who would."""
    loader = loader_of(Order(8, 4, seed=0), torch.device("meta"))
    assert loader.order(0).is_meta
    assert [raw.index.device.type for raw in loader.epoch(0)] == ["cpu", "cpu"]
    assert all(raw.images is None for raw in loader.epoch(0))
