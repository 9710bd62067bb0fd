"""Random numbers of a synthesis: each a function of a seed and a place, so that there is no state to save."""

import math
import zlib

import torch
from torch import Tensor

from fastkd.ops.philox import philox, split_seed

_WORD = float(1 << 32)
_STREAM = 0x5A17
"""Apart from those of the augmentation, which has the same keys."""


def seeded(seed: int, *place: object) -> torch.Generator:
    """A generator on the CPU for what is drawn at a place, such as ("views", round, step)."""
    return torch.Generator().manual_seed(zlib.crc32("/".join(map(str, (seed, *place))).encode()))


def normal(seed: int, index_B: Tensor, columns: int, *, stream: int = 0) -> Tensor:
    """[B,columns] float32 from N(0, 1): the vector of each index, on its device, without anything read on the host."""
    fours = torch.arange(-(-columns // 4), device=index_B.device)
    words = philox(split_seed(seed), (index_B[:, None], fours, stream, _STREAM))
    even = [(word.double() + 0.5) / _WORD for word in words]
    pairs = []
    for radius, angle in ((even[0], even[1]), (even[2], even[3])):
        length = (-2 * radius.log()).sqrt()
        pairs += [length * (2 * math.pi * angle).cos(), length * (2 * math.pi * angle).sin()]
    return torch.stack(pairs, 2).flatten(1)[:, :columns].float()
