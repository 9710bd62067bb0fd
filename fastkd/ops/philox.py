"""Philox4x32-10, a counter-based random number generator (Salmon et al., "Parallel random numbers: as easy as 1, 2, 3",
SC 2011), on whole tensors.

A draw is a pure function of (key, counter), so any device, process or thread gets the same integers for the same
counter, in any order, and there is no state to save. Triton's `tl.philox` is the same function.
"""

import torch
from torch import Tensor

_LOW = 0xFFFFFFFF
_MULTIPLIERS = (0xD2511F53, 0xCD9E8D57)
_KEY_STEPS = (0x9E3779B9, 0xBB67AE85)


def philox(
    key: tuple[int | Tensor, int | Tensor], counter: tuple[int | Tensor, ...]
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Four words in 0 … 2³²-1, as int64 tensors of the broadcast shape of the four counter words.

    Words of key and counter are integers (or int64 tensors) in 0 … 2³²-1.
    """
    k0, k1 = key
    c0, c1, c2, c3 = torch.broadcast_tensors(*_as_tensors(counter))
    for _ in range(10):
        # A product of two 32-bit words may pass 2⁶³: int64 wraps around, and its bits are still the right ones.
        product_0, product_2 = c0 * _MULTIPLIERS[0], c2 * _MULTIPLIERS[1]
        c0, c1, c2, c3 = (
            ((product_2 >> 32) & _LOW) ^ c1 ^ k0,
            product_2 & _LOW,
            ((product_0 >> 32) & _LOW) ^ c3 ^ k1,
            product_0 & _LOW,
        )
        k0, k1 = (k0 + _KEY_STEPS[0]) & _LOW, (k1 + _KEY_STEPS[1]) & _LOW
    return c0, c1, c2, c3


def below(word: Tensor, n: int | Tensor) -> Tensor:
    """Maps a 32-bit word to 0 … n-1, n < 2³¹ (the multiply-shift map; its bias is below n / 2³²)."""
    return (word * n) >> 32


def split_seed(seed: int) -> tuple[int, int]:
    """A 64-bit seed as the two words of a key."""
    return seed & _LOW, (seed >> 32) & _LOW


def _as_tensors(counter: tuple[int | Tensor, ...]) -> list[Tensor]:
    device = next((word.device for word in counter if isinstance(word, Tensor)), None)
    # Filled on the device: torch.tensor would copy from the host, which a CUDA graph cannot capture.
    return [
        word if isinstance(word, Tensor) else torch.full((), word, dtype=torch.int64, device=device) for word in counter
    ]
