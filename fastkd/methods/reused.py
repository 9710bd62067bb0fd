"""What SimKD puts between a student and its teachers' classifiers: projectors, and the student that carries them."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from fastkd.methods.projectors import PROJECTORS, ProjectedMap
from fastkd.networks.base import Head, Network
from fastkd.support.pooling import pooled_to

VECTORS = ("vector", "vector-full")
"""The projectors of embeddings; the others are of maps."""
MAPPED = ("full", "depthwise", "1x1", "1x1-1x1", "normalised", "orthogonal")
NARROWED = ("full", "depthwise", "1x1-1x1", "vector-full")
"""The projectors with an inner width."""


class Deployed(Network):
    """The student's stem and blocks under another head; it shares their weights."""

    def __init__(self, student: Network, blocks: list[nn.Module], head: Head, encoder: Sequence[nn.Module]):
        """encoder: what leads from the last block to the student's own embedding, in front of any projector."""
        super().__init__()
        self.stem, self.blocks, self.head, self.as_map = student.stem, nn.ModuleList(blocks), head, student.as_map
        self._encoder = tuple(encoder)  # whose weights are registered already

    def encoded(self, images_BCHW: Tensor) -> Tensor:
        """[B,D]: the embedding of the student itself, pooled and not projected."""
        x = self.stem(images_BCHW)
        for layer in (*self.blocks, *self._encoder):
            x = layer(x)
        return x


class Projections(nn.Module):
    """One projector for each teacher, each at that teacher's size or the student's, whichever is smaller."""

    def __init__(self, projectors: list[nn.Module]):
        super().__init__()
        self.projectors = nn.ModuleList(projectors)

    def each(self, x: Tensor) -> list[Tensor]:
        return [projector(x) for projector in self.projectors]

    def forward(self, x: Tensor) -> Tensor:
        return joined_maps(self.each(x))


def joined_maps(projected: list[Tensor]) -> Tensor:
    """The maps side by side as channels, at the smallest of their sizes."""
    if len(projected) == 1:
        return projected[0]
    if projected[0].ndim == 4:
        smallest = min((x.shape[2:] for x in projected), key=lambda size: size[0])
        projected = [pooled_to(x, smallest) for x in projected]
    return torch.cat(projected, 1)


class MeanOfClassifiers(nn.Module):
    """Reads the teachers' embeddings side by side and averages the logits of their classifiers."""

    def __init__(self, widths: list[int], classifiers: list[nn.Module]):
        super().__init__()
        self.widths, self.classifiers = widths, nn.ModuleList(classifiers)

    def forward(self, embeddings: Tensor) -> Tensor:
        parts = embeddings.split(self.widths, 1)
        return torch.stack([classify(x) for classify, x in zip(self.classifiers, parts, strict=True)]).mean(0)


class Shrink(nn.Module):
    """Average pooling of the student's map to a smaller size."""

    def __init__(self, size: tuple[int, int]):
        super().__init__()
        self.size = size

    def forward(self, x: Tensor) -> Tensor:
        return pooled_to(x, self.size)


def projection(kind: str, student: Tensor, teacher: Tensor, inner: int) -> nn.Module:
    """The projector from a student's map or embedding to a teacher's. inner: the width between its layers."""
    channels, goal = student.shape[1], teacher.shape[1]
    if kind == "vector":
        return nn.Linear(channels, goal, bias=False)
    if kind in PROJECTORS:
        projector: nn.Module = ProjectedMap(kind, channels, goal)
    else:
        projector = nn.Sequential(*LAYERS[kind](channels, inner, goal))
    if student.ndim == 2 or student.shape[2] <= teacher.shape[2]:
        return projector
    return nn.Sequential(Shrink((teacher.shape[2], teacher.shape[3])), projector)


def observe(projector: nn.Module, teacher: Tensor) -> None:
    """Lets a projector that restores the teacher's scale see its map."""
    for module in projector.modules():
        if isinstance(module, ProjectedMap):
            module.observe(teacher)


def _convolution(channels: int, width: int, side: int = 1, *, groups: int = 1) -> list[nn.Module]:
    layer = nn.Conv2d(channels, width, side, padding=side // 2, groups=groups, bias=False)
    return [layer, nn.BatchNorm2d(width), nn.ReLU()]


def _matrix(channels: int, width: int) -> list[nn.Module]:
    return [nn.Linear(channels, width, bias=False), nn.BatchNorm1d(width), nn.ReLU()]


def _bottleneck(channels: int, inner: int, goal: int, *, groups: int = 1) -> list[nn.Module]:
    middle = _convolution(inner, inner, 3, groups=groups)
    return [*_convolution(channels, inner), *middle, *_convolution(inner, goal)]


LAYERS: dict[str, Callable[[int, int, int], list[nn.Module]]] = {
    "full": _bottleneck,
    "depthwise": lambda channels, inner, goal: _bottleneck(channels, inner, goal, groups=inner),
    "1x1": lambda channels, inner, goal: _convolution(channels, goal),
    "1x1-1x1": lambda channels, inner, goal: [*_convolution(channels, inner), *_convolution(inner, goal)],
    "vector-full": lambda channels, inner, goal: [
        *_matrix(channels, inner),
        *_matrix(inner, inner),
        *_matrix(inner, goal),
    ],
}
"""(student's width, inner width, teacher's width) → layers of a projector: Tables 5 and S.1, and section 4.3."""
