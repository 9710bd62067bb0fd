"""What the BatchNorms of a network are given: the statistics that images should have, and CMI's features of them."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn


class NormInput(NamedTuple):
    norm: nn.BatchNorm2d
    map: Tensor
    """[B,C,H,W]: what the layer was given, before it normalised."""


@contextmanager
def norm_inputs(network: nn.Module) -> Iterator[list[NormInput]]:
    """Yields a list that the network's passes within it fill with what each BatchNorm gets, in the order of calls.

    Nothing stays on a module afterwards.
    """
    found: list[NormInput] = []

    def keep(norm: Any, inputs: tuple[Tensor, ...]) -> None:
        found.append(NormInput(norm, inputs[0]))

    norms = (module for module in network.modules() if isinstance(module, nn.BatchNorm2d))
    handles = [norm.register_forward_pre_hook(keep) for norm in norms]
    try:
        yield found
    finally:
        for handle in handles:
            handle.remove()


def statistics_distances(inputs: Sequence[NormInput]) -> Tensor:
    """[layers]: how far each layer's batch is from the statistics that the layer holds (DeepInversion, as in DataFree).

    It is ‖variance difference‖ + ‖mean difference‖ over the channels, of the biased variance; lengths are not squared,
    and one of exactly 0 has no gradient.
    """
    return torch.stack([_distance(norm, map_BCHW) for norm, map_BCHW in inputs])


def _distance(norm: nn.BatchNorm2d, map_BCHW: Tensor) -> Tensor:
    assert norm.running_mean is not None and norm.running_var is not None, "a teacher's statistics are its own"
    wide = map_BCHW.to(torch.promote_types(map_BCHW.dtype, torch.float32))
    variance, mean = torch.var_mean(wide, (0, 2, 3), correction=0)
    return torch.linalg.vector_norm(norm.running_var - variance) + torch.linalg.vector_norm(norm.running_mean - mean)


def instance_features(inputs: Sequence[NormInput]) -> Tensor:
    """[B, channels of all layers]: the means over space of what each layer was given, one after the other (CMI)."""
    return torch.cat([map_BCHW.mean((2, 3)) for _, map_BCHW in inputs], 1)
