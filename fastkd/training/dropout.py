"""Dropout whose draws belong to an image's place in the global batch, not to the process that happens to have it."""

import copy
from collections.abc import Iterator
from math import prod
from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn

from fastkd.data.base import Batch
from fastkd.networks.base import Network
from fastkd.ops.philox import philox

KEY = 0x64726F70
"""The second word of the key of these draws; the first is the stage's."""
EVERYWHERE = 2**32 - 1
"""The place of draws that are the same for all images of a batch."""

Unit = Literal["element", "channel", "image", "batch"]


class Kind(NamedTuple):
    """What a module of dropout leaves out."""

    unit: Unit
    """What is left out as a whole: an element, a channel of an image, an image, all images."""
    rate: float
    rescaled: bool = True
    """Whether what is kept is divided by the share that is."""


class KeyedDropout(nn.Module):
    """Takes the place of a dropout module of torch, torchvision or timm while a stage is trained.

    An element's draw is one of the four words of `philox` under the key (seed, KEY) at the counter (element // 4, the
    image's place in the global batch, the step, layer + 2^12 · view + 2^20 · call), that of element % 4: it is kept
    where the word is at least rate · 2^32. The elements of an image are its channels, or itself, where these are left
    out as a whole. What goes in has the images first, view by view.
    """

    where: Tensor

    def __init__(self, kind: Kind, layer: int, seed: int, where: Tensor):
        """where: [2] int64, the step and the place of the first image, shared by all layers."""
        super().__init__()
        self.unit, self.p, self.rescaled, self.layer, self.seed = kind.unit, kind.rate, kind.rescaled, layer, seed
        self.register_buffer("where", where, persistent=False)
        self.images, self.calls = 1, 0
        """The images of a view, and how often it was called in this forward pass of the stage."""

    def forward(self, x: Tensor) -> Tensor:
        if not self.training:
            return x
        kept = self._kept(x)
        self.calls += 1
        scale = 1 / (1 - self.p) if self.rescaled and self.p < 1 else 1.0
        return x * (kept.to(x.dtype) * scale)

    def _kept(self, x: Tensor) -> Tensor:
        """What of x is kept: bool, of its shape or with ones for dimensions that are kept or left out as a whole."""
        axes = {"element": x.dim(), "channel": 2, "image": 1, "batch": 0}[self.unit]
        shape = [*x.shape[:axes], *[1] * (x.dim() - axes)]
        each = prod(shape[1:])
        words = torch.stack(self._words(shape[0], -(-each // 4), x.device), dim=-1)
        return (words.flatten(1)[:, :each] >= round(self.p * 2**32)).view(shape)

    def _words(self, count: int, quads: int, device: torch.device) -> tuple[Tensor, ...]:
        """Four words [count,quads] for each image, or for the one draw of all."""
        number = torch.arange(count, device=device)
        view, first = number // self.images, self.where[1]
        place = torch.full_like(number, EVERYWHERE) if self.unit == "batch" else first + number % self.images
        stream = self.layer + (view << 12) + (self.calls << 20)
        counter = (torch.arange(quads, device=device), place[:, None], self.where[0], stream[:, None])
        return philox((self.seed, KEY), counter)

    def extra_repr(self) -> str:
        return f"p={self.p}, unit={self.unit}, layer={self.layer}"


class Keyed:
    """A stage whose dropout modules are keyed, until they are put back."""

    def __init__(self, stage: nn.Module, seed: int, device: torch.device):
        self.where = torch.zeros(2, dtype=torch.int64, device=device)
        self.layers: list[KeyedDropout] = []
        self._replaced = [*self._replace(stage, seed)]

    def _replace(self, stage: nn.Module, seed: int) -> Iterator[tuple[nn.Module, str, nn.Module]]:
        """Puts a keyed module wherever one of the stage's dropouts is; yields what was there."""
        found: dict[nn.Module, KeyedDropout] = {}
        for parent in [*stage.modules()]:
            for name, module in [*parent.named_children()]:
                kind = kind_of(module)
                if kind is None:
                    continue
                if module not in found:
                    found[module] = KeyedDropout(kind, len(found), seed, self.where).train(module.training)
                setattr(parent, name, found[module])
                yield parent, name, module
        self.layers = [*found.values()]

    def begin(self, batch: Batch) -> None:
        """Called before a forward pass of the stage."""
        if not self.layers:
            return
        self.where[0].copy_(batch.step)
        self.where[1].fill_(batch.place.first)
        for layer in self.layers:
            layer.images, layer.calls = len(batch.labels), 0

    def put_back(self) -> None:
        """Leaves the stage with the modules that it had."""
        for parent, name, module in self._replaced:
            setattr(parent, name, module.train(getattr(parent, name).training))
        self.layers, self._replaced = [], []


def kind_of(module: nn.Module) -> Kind | None:
    """What a module leaves out; None where it is no dropout that is keyed, or leaves out nothing."""
    kind = _kind(module)
    return kind if kind is not None and 0 < kind.rate <= 1 else None


def _kind(module: nn.Module) -> Kind | None:
    if type(module) is nn.Dropout:
        return Kind("element", module.p)
    if type(module) in (nn.Dropout1d, nn.Dropout2d, nn.Dropout3d):
        return Kind("channel", module.p)  # pyright: ignore[reportArgumentType]
    name, package = type(module).__name__, type(module).__module__.partition(".")[0]
    if (package, name) == ("torchvision", "StochasticDepth"):
        return Kind("image" if module.mode == "row" else "batch", float(module.p))  # pyright: ignore
    if (package, name) == ("timm", "DropPath"):
        return Kind("image", float(module.drop_prob or 0), bool(module.scale_by_keep))  # pyright: ignore
    return None


@torch.no_grad()
def draws_otherwise(network: Network, image_size: int, device: torch.device) -> bool:
    """Whether a network draws from torch's own generator in training, beside what is keyed: draws of each process."""
    tried = copy.deepcopy(network).to(device).train()
    Keyed(tried, 0, device)
    before = _generator_state(device)
    try:
        tried(torch.zeros(2, 3, image_size, image_size, device=device))
    except (RuntimeError, ValueError):  # what it cannot take is found elsewhere
        return False
    after = _generator_state(device)
    _set_generator_state(before, device)
    return not torch.equal(before, after)


def _generator_state(device: torch.device) -> Tensor:
    return torch.cuda.get_rng_state(device) if device.type == "cuda" else torch.get_rng_state()


def _set_generator_state(state: Tensor, device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.set_rng_state(state, device)
    else:
        torch.set_rng_state(state)
