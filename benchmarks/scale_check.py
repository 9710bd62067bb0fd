"""The pieces of a step of two processes, each by itself, and the step whole: what `scale` is checked by."""

import os
import statistics
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn
from torch.multiprocessing.spawn import spawn
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DataLoader, IterableDataset

from fastkd import networks

CLASSES, ROUNDS = 100, 5


class Check(NamedTuple):
    name: str
    batch: int
    gradient_bytes: float
    compute_s: float
    """A step without the other process, which computes at the same time."""
    reduce_s: float
    """The gradients summed, with nothing beside it."""
    read_s: float
    """Until the reader has the next batch, if nobody computes."""
    step_s: float
    """The step of both, whole."""


class Case(NamedTuple):
    network: str
    batch: int
    size: int
    read_s: float = 0.0
    """What a store takes for a batch."""

    def __str__(self) -> str:
        waits = f", {self.read_s * 1e3:.0f} ms a batch" if self.read_s else ""
        return f"{self.network} B={self.batch} {self.size} px{waits}"


CASES = (Case("resnet8", 64, 32), Case("vgg8", 32, 32), Case("resnet8", 16, 8, read_s=0.12))


def checks(*, quick: bool) -> Iterator[Check]:
    """Each case, measured by two processes that this one starts."""
    for case in CASES:
        with tempfile.TemporaryDirectory() as folder:
            spawn(_process, (folder, case, 3 if quick else 12), nprocs=2)
            found = torch.load(Path(folder) / "found.pt", weights_only=True)
        yield Check(str(case), case.batch, **found)


class _Store(IterableDataset[Tensor]):
    """Batches that lie far away: whoever asks sleeps."""

    def __init__(self, case: Case):
        self.case = case

    def __iter__(self) -> Iterator[Tensor]:
        images = torch.randn(self.case.batch, 3, self.case.size, self.case.size)
        while True:
            time.sleep(self.case.read_s)
            yield images


def _process(rank: int, folder: str, case: Case, steps: int) -> None:
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2)
    found = _measured(case, steps)
    if rank == 0:
        torch.save(found, Path(folder) / "found.pt")
    dist.barrier()
    os._exit(0)  # threads of gloo that wait for the interpreter while it ends would abort it


def _measured(case: Case, steps: int) -> dict[str, float]:
    """Every piece in turn, round after round, so that all meet the same disturbances."""
    network = networks.build(case.network, num_classes=CLASSES).train()
    both = DistributedDataParallel(networks.build(case.network, num_classes=CLASSES).train())
    size = sum(weight.numel() for weight in network.parameters())
    images = torch.randn(case.batch, 3, case.size, case.size)
    flat = torch.randn(size)
    alone, together = _step_of(network, case), _step_of(both, case)
    workers = 1 if case.read_s else 0
    ahead, waited = (iter(DataLoader(_Store(case), batch_size=None, num_workers=workers)) for _ in range(2))
    fetch = (lambda: next(ahead)) if case.read_s else (lambda: images)
    calls: dict[str, Callable[[], object]] = {
        "compute_s": lambda: alone(images),
        "reduce_s": lambda: dist.all_reduce(flat),
        "read_s": (lambda: next(waited)) if case.read_s else (lambda: None),
        "step_s": lambda: together(fetch()),
    }
    seconds: dict[str, list[float]] = {name: [] for name in calls}
    for turn in range(1 + ROUNDS):
        for name, call in calls.items():
            dist.barrier()
            call()  # what a reader has fetched ahead meanwhile
            for _ in range(3 if name in ("read_s", "step_s") and case.read_s else 0):
                call()
            started = time.perf_counter()
            for _ in range(steps):
                call()
            if turn:
                seconds[name].append((time.perf_counter() - started) / steps)
    return {"gradient_bytes": 4.0 * size} | {name: statistics.median(taken) for name, taken in seconds.items()}


def _step_of(network: nn.Module, case: Case) -> Callable[[Tensor], None]:
    optimizer = torch.optim.SGD(network.parameters(), lr=1e-4, momentum=0.9)
    labels = torch.arange(case.batch) % CLASSES

    def step(images: Tensor) -> None:
        optimizer.zero_grad()
        F.cross_entropy(network(images).logits, labels).backward()
        optimizer.step()

    return step
