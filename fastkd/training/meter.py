"""Running means that stay on the device until somebody looks."""

from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor

from fastkd.support.distributed import sum_over_ranks, world_size
from fastkd.training.stages import StageLoss


@dataclass(frozen=True)
class Totals:
    """Sums over steps and ranks, on the host."""

    sums: dict[str, float]
    hits: tuple[int, int]
    steps: int
    images: int

    def since(self, earlier: "Totals | None") -> "Totals":
        if earlier is None:
            return self
        sums = {name: value - earlier.sums[name] for name, value in self.sums.items()}
        hits = (self.hits[0] - earlier.hits[0], self.hits[1] - earlier.hits[1])
        return Totals(sums, hits, self.steps - earlier.steps, self.images - earlier.images)

    def means(self) -> dict[str, float]:
        """Means over the steps of every term; `top1` and `top5` as fractions of the images."""
        if not self.steps:
            return {}
        values = {name: value / self.steps for name, value in self.sums.items()}
        return values | {"top1": self.hits[0] / self.images, "top5": self.hits[1] / self.images}


class Meter:
    """Sums of loss terms and hits since the last `clear`; adding changes tensors in place and waits for nothing."""

    def __init__(self, device: torch.device):
        self.device = device
        self.sums: dict[str, Tensor] = {}
        self.hits = torch.zeros(2, dtype=torch.int64, device=device)
        self.steps = 0
        self.images = 0
        """Images of these steps, over all ranks."""

    def add(self, loss: StageLoss) -> None:
        for name, value in {"loss": loss.total, **loss.terms}.items():
            if name not in self.sums:
                self.sums[name] = torch.zeros((), dtype=torch.float64, device=self.device)
            self.sums[name].add_(value.detach())
        self.hits.add_(loss.hits)

    def count(self, images: int, steps: int = 1) -> None:
        """Adds `steps` steps in which this rank saw `images` images altogether."""
        self.steps += steps
        self.images += images * world_size()

    def clear(self) -> None:
        for value in (*self.sums.values(), self.hits):
            value.zero_()
        self.steps = self.images = 0

    def read(self) -> Totals:
        """The sums over all ranks; waits for the device."""
        names = list(self.sums)
        values = torch.stack([self.sums[name] for name in names]) if names else torch.zeros(0, device=self.device)
        means = (sum_over_ranks(values) / world_size()).tolist()
        top1, top5 = sum_over_ranks(self.hits.clone()).tolist()
        return Totals(dict(zip(names, means, strict=True)), (top1, top5), self.steps, self.images)

    def state(self) -> dict:
        """What a checkpoint keeps, on the host: every rank gets it of all others, whose devices are not its own."""
        sums = {name: value.cpu() for name, value in self.sums.items()}
        return {"sums": sums, "hits": self.hits.cpu(), "steps": self.steps, "images": self.images}

    @staticmethod
    def shared(states: list[dict], among: int) -> list[dict]:
        """The states of so many ranks, made into those of `among` ranks whose means and hits are the same."""
        first = states[0]
        means = {name: sum(state["sums"][name] for state in states) / len(states) for name in first["sums"]}
        hits = torch.stack([state["hits"] for state in states]).sum(0)
        return [first | {"sums": means, "hits": hits if rank == 0 else torch.zeros_like(hits)} for rank in range(among)]

    def load(self, state: dict) -> Self:
        self.sums = {name: value.to(self.device) for name, value in state["sums"].items()}
        self.hits = state["hits"].to(self.device)
        self.steps, self.images = state["steps"], state["images"]
        return self
