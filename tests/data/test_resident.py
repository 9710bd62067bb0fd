"""Sets that live on the device: the loader only says which images come next."""

import pytest
import torch
from helpers.loader_contract import LoaderContract, train


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
