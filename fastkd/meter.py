"""Running means that stay on the device until somebody looks."""

import torch
from torch import Tensor

from fastkd.stages import StageLoss


class Meter:
    """Sums of loss terms and hits over the steps since the last `clear`."""

    def __init__(self) -> None:
        self.clear()

    def clear(self) -> None:
        self.sums: dict[str, Tensor] = {}
        self.hits: Tensor | None = None
        self.steps = 0
        self.images = 0

    def add(self, loss: StageLoss, images: int) -> None:
        for name, value in {"loss": loss.total, **loss.terms}.items():
            self.sums[name] = self.sums[name] + value.double() if name in self.sums else value.double()
        self.hits = loss.hits if self.hits is None else self.hits + loss.hits
        self.steps += 1
        self.images += images

    def read(self) -> dict[str, float]:
        """Means over the steps of every term; `top1` and `top5` as fractions of the images. Waits for the device."""
        if not self.steps:
            return {}
        assert self.hits is not None
        values = {name: value.item() / self.steps for name, value in self.sums.items()}
        top1, top5 = (self.hits.double() / self.images).tolist()
        return values | {"top1": top1, "top5": top5}

    def state(self) -> dict:
        return {"sums": self.sums, "hits": self.hits, "steps": self.steps, "images": self.images}

    def load(self, state: dict, device: torch.device) -> None:
        self.sums = {name: value.to(device) for name, value in state["sums"].items()}
        self.hits = None if state["hits"] is None else state["hits"].to(device)
        self.steps, self.images = state["steps"], state["images"]
