"""What every network is (a stem, blocks and a head) and what every network returns."""

import copy
from collections.abc import Callable, Mapping
from typing import Any, Literal, NamedTuple, Self

import torch
from torch import Tensor, nn

Weights = Literal["fresh", "shared", "copied"]


class Output(NamedTuple):
    """Everything a distillation method may look at in one forward pass.

    Axes: B images, K classes, D channels of the embedding, C x H x W per feature map.
    """

    logits: Tensor
    """[B,K]"""
    stem: Tensor
    """F^0 [B,C,H,W]: the map the first block reads."""
    features: tuple[Tensor, ...]
    """F^1 … F^N: what each block returns."""
    final_map: Tensor
    """[B,C,H,W]: the map that is pooled. It differs from the last feature if the head has a neck."""
    embedding: Tensor
    """[B,D]: what the classifier reads."""
    preacts: tuple[Tensor, ...] | None = None
    """The features before their last activation, as the authors' code of the family has them; None unless asked for."""

    def mapped(self, change: Callable[[Tensor], Tensor]) -> Self:
        """The same output with every tensor changed."""

        def changed(value: Any) -> Any:
            if isinstance(value, tuple):
                return tuple(map(change, value))
            return change(value) if isinstance(value, Tensor) else value

        return self._make(map(changed, tuple.__iter__(self)))


class Head(nn.Module):
    """Neck, pool and classifier: from the last feature map to the logits."""

    def __init__(self, classifier: nn.Module, *, neck: nn.Module | None = None, pool: nn.Module | None = None):
        super().__init__()
        self.neck = nn.Identity() if neck is None else neck
        self.pool = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(1)) if pool is None else pool
        self.classifier = classifier

    def forward(self, feature: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The logits [B,K], the final map [B,C,H,W] and the embedding [B,D] of the last feature."""
        final_map = self.neck(feature)
        embedding = self.pool(final_map)
        return self.classifier(embedding), final_map, embedding


class Network(nn.Module):
    """A stem, a list of blocks, a head.

    A block is a module called as `block(x)` for its feature, or as `block(x, preacts=True)` for the pair (feature,
    preact). The second form is only used where a method asks for preacts, so nobody else pays for them.

    A subclass fills in `stem`, `blocks` and `head`, and names its family's initialisation in `initialise`.
    """

    stem: nn.Module
    blocks: nn.ModuleList
    head: Head

    PUBLIC_NAMES: Mapping[str, str] = {}
    """Prefixes of our parameter names -> the names used by the public checkpoints of this family."""
    is_cut: bool = True
    """Whether there are a stem, blocks and a head; else the network is run as a whole."""
    runs_on_meta: bool = True
    """Whether it can be run on tensors without numbers, for their shapes."""
    remake: "Callable[[], Network] | None" = None
    """Makes the network anew with fresh weights, where `initialise` does not say how."""

    taking: "Callable[..., Network] | None" = None
    """Makes the network with weights of other sizes, by its library's own rules: called with num_classes and weights,
    tensors by the library's names."""

    def __init__(self) -> None:
        super().__init__()
        self.as_map: nn.Module = nn.Identity()
        """The map [B,C,H,W] of what a block hands on, where that is something else, such as tokens."""
        self.preparation: nn.Module = nn.Identity()
        """What is done to images first, where the network is for others: `fastkd.networks.preparation`."""

    def forward(self, images_BCHW: Tensor, *, preacts: bool = False) -> Output:
        return self._run(self.stem(self.preparation(images_BCHW)), first_block=0, preacts=preacts)

    def _run(self, x: Tensor, *, first_block: int, preacts: bool) -> Output:
        stem, features, collected = self.as_map(x), [], []
        for block in list(self.blocks)[first_block:]:
            if preacts:
                x, preact = block(x, preacts=True)
                collected.append(self.as_map(preact))
            else:
                x = block(x)
            features.append(self.as_map(x))
        logits, final_map, embedding = self.head(x)
        return Output(logits, stem, tuple(features), final_map, embedding, tuple(collected) if preacts else None)

    @property
    def classifier(self) -> nn.Module:
        """What makes logits of an embedding."""
        return self.head.classifier

    def last_layers(self) -> list[nn.Linear]:
        """The linear layers that end in the classes, which another number of classes replaces; mostly there is one."""
        return [module for module in self.classifier.modules() if isinstance(module, nn.Linear)][-1:]

    def entrance(self) -> nn.Module:
        """What makes of a map [B,C,H,W] that which the blocks hand on: the front of a tail."""
        return nn.Identity()

    def initialise(self, module: nn.Module) -> None:
        """Gives one freshly made leaf module the family's published initialisation; by default PyTorch's own stays."""

    def initialise_all(self) -> None:
        self.apply(self.initialise)

    @property
    def preact_norms(self) -> tuple[nn.BatchNorm2d | None, ...]:
        """The BatchNorm in front of each block's preact, from which OH reads its margins; None if there is no such
        layer (the authors' code of OH refuses these networks as teachers)."""
        return (None,) * len(self.blocks)

    def trunk(self, blocks: int) -> "Trunk":
        """The stem and the first `blocks` blocks, sharing this network's weights."""
        return Trunk(self, blocks)

    def tail(self, first_block: int, weights: Weights = "fresh") -> "Tail":
        """The blocks from `first_block` (counted from 0) and the head: what SFTN grafts on a teacher.

        weights: "fresh" are newly initialised by the family's rule, "copied" are an independent copy, "shared" are this
        network's own.
        """
        if not 0 <= first_block <= len(self.blocks):
            raise ValueError(f"a tail starts at block 0 to {len(self.blocks)}, got {first_block}")
        if weights not in ("fresh", "shared", "copied"):
            raise ValueError(f"weights is 'fresh', 'shared' or 'copied', got {weights!r}")
        if weights == "fresh" and self.remake is not None:
            return Tail(self.remake(), first_block)
        tail = Tail(self, first_block)
        if weights != "shared":
            tail = copy.deepcopy(tail)
        if weights == "fresh":
            tail.apply(reset_parameters)
            tail.apply(self.initialise)
        return tail


class Trunk(nn.Module):
    """The front of a network: images [B,3,H,W] to (F^0, F^1, …, F^n)."""

    def __init__(self, network: Network, blocks: int):
        super().__init__()
        if not 0 <= blocks <= len(network.blocks):
            raise ValueError(f"a trunk has 0 to {len(network.blocks)} blocks, got {blocks}")
        self.stem, self.as_map = network.stem, network.as_map
        self.blocks = nn.ModuleList(list(network.blocks)[:blocks])

    def forward(self, images_BCHW: Tensor) -> tuple[Tensor, ...]:
        x = self.stem(images_BCHW)
        maps = [self.as_map(x)]
        for block in self.blocks:
            x = block(x)
            maps.append(self.as_map(x))
        return tuple(maps)


class Tail(nn.Module):
    """The back of a network: a feature map F^i [B,C,H,W] to an `Output` whose `stem` is that map."""

    def __init__(self, network: Network, first_block: int):
        super().__init__()
        self.entrance, self.as_map = network.entrance(), network.as_map
        self.blocks = nn.ModuleList(list(network.blocks)[first_block:])
        self.head = network.head

    def forward(self, feature_BCHW: Tensor) -> Output:
        x, features = self.entrance(feature_BCHW), []
        for block in self.blocks:
            x = block(x)
            features.append(self.as_map(x))
        logits, final_map, embedding = self.head(x)
        return Output(logits, feature_BCHW, tuple(features), final_map, embedding)


def reset_parameters(module: nn.Module) -> None:
    """Gives one leaf module PyTorch's own initialisation, if it has one."""
    reset: Callable[[], None] | None = getattr(module, "reset_parameters", None)
    if reset is not None:
        reset()


@torch.no_grad()
def output_shapes(network: Network, image_size: int, *, preacts: bool = False) -> Output:
    """The shapes of everything the network returns for two images of that size: an `Output` of meta tensors.

    Nothing is computed and the network is not touched; code that no meta tensor goes through is run on the CPU.
    """
    twin = copy.deepcopy(network).to("meta" if network.runs_on_meta else "cpu").eval()
    images = torch.zeros(2, 3, image_size, image_size, device=next(twin.parameters()).device)
    return twin(images, preacts=preacts).mapped(lambda value: value.to("meta"))
