"""Running means that stay on the device until somebody looks."""

import math
from dataclasses import dataclass, field
from typing import Self

import torch
from torch import Tensor

from fastkd.support.distributed import sum_over_ranks, world_size
from fastkd.training.laps import Lap
from fastkd.training.stages import Numbers

GRAD_NORM = "grad_norm"
"""What the norm of all gradients together is called among the numbers of a step; it is that before clipping."""


@dataclass(frozen=True)
class Totals:
    """Sums over steps and ranks, on the host."""

    sums: dict[str, float]
    hits: tuple[int, int]
    steps: int
    images: int
    seconds: float = field(default=0.0, compare=False)
    """How long the steps took on this rank."""
    waited: float = field(default=0.0, compare=False)
    """How long of it this rank waited for data."""

    @property
    def lap(self) -> Lap:
        return Lap(self.seconds, self.waited)

    def since(self, earlier: "Totals | None") -> "Totals":
        if earlier is None:
            return self
        sums = {name: value - earlier.sums.get(name, 0.0) for name, value in self.sums.items()}
        hits = (self.hits[0] - earlier.hits[0], self.hits[1] - earlier.hits[1])
        counts = (self.steps - earlier.steps, self.images - earlier.images)
        return Totals(sums, hits, *counts, *self.lap.since(earlier.lap))

    def means(self) -> dict[str, float]:
        """Means over the steps of every term; `top1` and `top5` as fractions of the images."""
        if not self.steps:
            return {}
        values = {name: value / self.steps for name, value in self.sums.items() if name != GRAD_NORM}
        return values | {"top1": self.hits[0] / self.images, "top5": self.hits[1] / self.images}

    @property
    def grad_norm(self) -> float:
        """The mean of the gradients' norm over the steps; NaN where there is none."""
        return self.sums[GRAD_NORM] / self.steps if self.steps and GRAD_NORM in self.sums else math.nan


class Meter:
    """Sums of loss terms and hits since the last `clear`; adding changes tensors in place and waits for nothing."""

    def __init__(self, device: torch.device, *, alike: bool = False):
        """alike: whether the numbers that are added are those of the whole batch in every process, not its share's."""
        self.device, self.alike = device, alike
        self.names: tuple[str, ...] = ()
        """The terms, in the order of `values`."""
        self.values = torch.zeros(0, dtype=torch.float64, device=device)
        """[terms] float64: their sums."""
        self.hits = torch.zeros(2, dtype=torch.int64, device=device)
        self.largest = torch.zeros(2, dtype=torch.float32, device=device)
        """[2] float32: the largest norm of the gradients since the last record, and since the last `clear`."""
        self.steps = 0
        self.images = 0
        """Images of these steps, over all ranks."""
        self.lap = Lap()
        """How long these steps took on this rank."""

    @property
    def sums(self) -> dict[str, Tensor]:
        """The sum of each term, a view of `values`."""
        return dict(zip(self.names, self.values.unbind(), strict=True))

    def add(self, numbers: Numbers, hits: Tensor, norm: Tensor) -> None:
        """Adds a step: this rank's hits, and its numbers, the means of which over the ranks are those of the batch.

        norm: [] float32, that of the gradients.
        """
        if self.names[: len(numbers.names)] != numbers.names:
            self._put_first(numbers.names)
        self.values[: len(numbers.names)].add_(numbers.values)
        self.hits.add_(hits)
        torch.maximum(self.largest, norm, out=self.largest)

    def _put_first(self, names: tuple[str, ...]) -> None:
        """Orders the terms so that those of a step are the first ones: they are added in one operation."""
        sums, zero = self.sums, torch.zeros((), dtype=torch.float64, device=self.device)
        self.names = (*names, *(name for name in self.names if name not in names))
        self.values = torch.stack([sums.get(name, zero) for name in self.names])

    def count(self, images: int, steps: int = 1) -> None:
        """Adds `steps` steps in which all ranks together saw so many images."""
        self.steps += steps
        self.images += images

    def took(self, lap: Lap) -> None:
        """Adds how long steps took that are counted."""
        self.lap = self.lap.plus(lap)

    def clear(self) -> None:
        for values in (self.values, self.hits, self.largest):
            values.zero_()
        self.steps = self.images = 0
        self.lap = Lap()

    def read(self) -> Totals:
        """The sums over all ranks; waits for the device."""
        of_all = self.values if self.alike else sum_over_ranks(self.values.clone()) / world_size()
        means = of_all.tolist()
        top1, top5 = sum_over_ranks(self.hits.clone()).tolist()
        return Totals(dict(zip(self.names, means, strict=True)), (top1, top5), self.steps, self.images, *self.lap)

    def own(self) -> Totals:
        """The sums of this rank alone, without its hits, beside the images of all; no message is sent."""
        sums = dict(zip(self.names, self.values.tolist(), strict=True))
        return Totals(sums, (0, 0), self.steps, self.images, *self.lap)

    def take_largest(self) -> tuple[float, float]:
        """The largest norms since the last call of this, and since the last `clear`; NaN where it is not known."""
        recent, of_all = self.largest.tolist()
        self.largest[0] = 0.0
        return recent, of_all

    def state(self) -> dict:
        """What `load` takes up, on the CPU: every rank gets it of all others, whose devices are not its own."""
        sums = [value.clone() for value in self.values.cpu().unbind()]
        of_names = dict(zip(self.names, sums, strict=True))
        on_host = {"hits": self.hits.cpu().clone(), "largest": self.largest.cpu().clone()}
        return {"sums": of_names, **on_host, "steps": self.steps, "images": self.images, **self.lap._asdict()}

    def put_back(self, state: dict) -> None:
        """Returns to the sums and hits of an earlier state, in place; a term that it has not is zero."""
        sums = [float(state["sums"].get(name, 0.0)) for name in self.names]
        self.values.copy_(torch.tensor(sums, dtype=torch.float64))
        self.hits.copy_(state["hits"])
        self.largest.copy_(state["largest"])

    @staticmethod
    def shared(states: list[dict], among: int) -> list[dict]:
        """The states of so many ranks, made into those of `among` ranks whose means and hits are the same."""
        first = states[0]
        means = {name: _mean([state["sums"][name] for state in states]) for name in first["sums"]}
        hits = torch.stack([state["hits"] for state in states]).sum(0)
        return [first | {"sums": means, "hits": hits if rank == 0 else torch.zeros_like(hits)} for rank in range(among)]

    def load(self, state: dict) -> Self:
        self.names = tuple(state["sums"])
        self.values = torch.tensor([float(value) for value in state["sums"].values()], dtype=torch.float64)
        self.values = self.values.to(self.device)
        self.hits = state["hits"].to(self.device)
        unknown = torch.full((2,), math.nan)  # an older fastkd counted none
        self.largest = state.get("largest", unknown).to(self.device)
        self.steps, self.images = state["steps"], state["images"]
        self.lap = Lap(state.get("seconds", 0.0), state.get("waited", 0.0))
        return self


def _mean(values: list[Tensor]) -> Tensor:
    """The mean; of equal values it is exactly what each of them is."""
    return values[0] + torch.stack([value - values[0] for value in values]).mean()
