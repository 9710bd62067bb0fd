"""Trains `CRDLoss` for four steps in two processes, each with its part of every batch, and in one with the whole.

python -m helpers.crd_two_processes FOLDER REPLACEMENT   writes whole.pt, rank0.pt and rank1.pt
"""

import os
import sys
from pathlib import Path

import torch
import torch.distributed as dist

from fastkd.losses import CRDLoss
from helpers.gloo_pair import run_in_two

SIZES = (5, 3)
"""The images of each process."""


def train(rank: int | None, folder: str, replacement: bool) -> None:
    torch.set_num_threads(1)
    torch.manual_seed(1)
    labels = torch.arange(60) % 7
    options = {"labels": labels, "embed_dim": 12, "negatives": 20, "replacement": replacement, "positive": "relaxed"}
    loss = CRDLoss(8, 10, 60, **options, seed=3)
    totals = []
    for step in range(4):
        generator = torch.Generator().manual_seed(step)
        student, teacher = (torch.randn(8, width, generator=generator) for width in (8, 10))
        # A row that stands twice in the batch, in different processes' parts.
        index = torch.cat((torch.randint(60, (7,), generator=generator), torch.tensor([5])))
        index[1] = 5
        if rank is not None:
            student, teacher, index = (tensor.split(SIZES)[rank] for tensor in (student, teacher, index))
        total = loss(student, teacher, index, sizes=() if rank is None else SIZES).total
        if rank is not None:
            total = total * (2 * SIZES[rank] / 8)
        total.backward()
        total = total.detach()
        for parameter in loss.parameters():
            if rank is not None:
                dist.all_reduce(parameter.grad)
                parameter.grad /= 2
            with torch.no_grad():
                parameter -= 0.05 * parameter.grad
            parameter.grad = None
        if rank is not None:
            dist.all_reduce(total)
            total /= 2
        totals.append(total)
    state = loss.state_dict() | {"totals": torch.stack(totals)}
    torch.save(state, Path(folder) / ("whole.pt" if rank is None else f"rank{rank}.pt"))


if __name__ == "__main__":
    os.environ |= {"OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE"}
    folder, replacement = sys.argv[1], sys.argv[2] == "1"
    train(None, folder, replacement)
    run_in_two(train, folder, replacement)
