"""Images that torch's DataLoader reads as they are needed."""

import torch
from helpers.loader_contract import FileLoaderContract, batches, train


class TestStreamingLoader(FileLoaderContract):
    kind = "torchvision"


def test_workers_leave_the_global_generator_alone(photographs):
    torch.manual_seed(0)
    before = torch.get_rng_state()
    batches(train(photographs, "torchvision", workers=2))
    assert torch.equal(torch.get_rng_state(), before)
