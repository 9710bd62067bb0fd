"""Which bank rows a sample is contrasted with, in plain PyTorch; csrc/draws.h and the Triton kernel draw the same.

The bank is sorted by class: class c has rows starts[c] … starts[c+1]-1, so its n - size negatives are the two ranges
around them and no table is read. A draw is a function of (seed, step, place in the global batch, column) alone.

With replacement, column k takes a word of Philox (16 counters give 64 columns: their first words, then their second
ones, and so on, so that a vector unit stores side by side what it computes). Without, the K negatives of a sample are
the first K places of a keyed permutation of all of them: a Feistel network of additions on pairs (left < a, right < b)
with a · b >= n, whose walk goes on while it stands outside 0 … n-1 ("cycle walking"). Because a · b - n < a, about √n,
hardly any place walks at all. Where a class has fewer negatives than K, its samples draw with replacement, as in the
authors' code.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from fastkd.ops.philox import below, philox, split_seed

STREAM = 0x43524400  # "CRD" in ASCII: other users of the same seed have another number in this place
POSITIVE_COUNTER, KEY_COUNTER = 0xFFFFFFFF, 0xFFFFFFFE

LANES = 16
AT_ONCE = 1 << 16

_LOW = 0xFFFFFFFF
_Words = tuple[Tensor, Tensor, Tensor, Tensor]


class DrawPlan(NamedTuple):
    """What the draws of one step depend on."""

    starts: Tensor
    """[classes+1] int64: the first row of each class, then n."""
    step: Tensor
    """int64 scalar on the device"""
    negatives: int
    seed: int
    first_place: int
    """The place in the global batch of this process's first sample."""
    replacement: bool
    """Whether a sample may draw the same negative more than once."""
    relaxed: bool
    """Whether the positive is any row of the sample's class instead of its own."""
    scarce: bool = True
    """Whether a class may have fewer negatives than are drawn: its samples draw with replacement all the same. The host
    knows, so that nothing is asked of the device."""

    @property
    def distinct(self) -> bool:
        """Whether no sample draws a row twice."""
        return not (self.replacement or self.scarce)


def draw(rows_B: Tensor, plan: DrawPlan) -> Tensor:
    """[B,K+1] int64: the positive row, then the K negative rows, of the samples that own `rows_B`."""
    starts, ends = _own_classes(rows_B, plan.starts)
    sizes = ends - starts
    others = plan.starts[-1] - sizes
    places = torch.arange(len(rows_B), device=rows_B.device) + plan.first_place
    enough = others >= plan.negatives
    if plan.distinct:
        negatives = _without_replacement(places, others, plan)
    elif plan.replacement or not bool(enough.any()):
        negatives = _with_replacement(places, others, plan)
    else:
        negatives = _without_replacement(places, torch.where(enough, others, plan.negatives), plan)
        if not bool(enough.all()):
            negatives = torch.where(enough[:, None], negatives, _with_replacement(places, others, plan))
    negatives = torch.where(negatives < starts[:, None], negatives, negatives + sizes[:, None])
    positives = rows_B
    if plan.relaxed:
        positives = starts + below(_words(plan, places, POSITIVE_COUNTER)[0], sizes)
    return torch.cat((positives[:, None], negatives), 1)


def mark(rows_B: Tensor, plan: DrawPlan, n: int, bits: Tensor, positives: Tensor) -> None:
    """Fills `bits` [B,words] int32 and `positives` [B] with what `draw` draws, where no row comes twice."""
    drawn = draw(rows_B, plan)
    positives.copy_(drawn[:, 0])
    marked = torch.zeros(len(rows_B), 32 * bits.shape[1], dtype=torch.int64, device=rows_B.device)
    marked.scatter_(1, drawn[:, 1:], 1)
    words = (marked.view(len(rows_B), -1, 32) << torch.arange(32, device=rows_B.device)).sum(2)
    bits.copy_(words - (words >> 31 << 32))  # the same 32 bits as a signed number


def permute(place: Tensor, n: Tensor, keys: _Words) -> Tensor:
    """The permutation of 0 … n-1 that belongs to the keys, at `place`; n and the keys are broadcast to its shape."""
    a = n.to(torch.float64).sqrt().ceil().to(torch.int64)
    b = (n + a - 1) // a
    image = _once(place, a, b, *keys)
    while len(walking := (image >= n).nonzero()):
        walking = walking.unbind(1)
        a_, b_, *keys_ = (tensor.expand(image.shape)[walking] for tensor in (a, b, *keys))
        image[walking] = _once(image[walking], a_, b_, *keys_)
    return image


def _once(place: Tensor, a: Tensor, b: Tensor, key0: Tensor, key1: Tensor, key2: Tensor, key3: Tensor) -> Tensor:
    """One step of the walk: the result may stand outside 0 … n-1."""
    left = place // b
    right = place - left * b
    left = _shift(left, right, key0, a)
    right = _shift(right, left, key1, b)
    left = _shift(left, right, key2, a)
    right = _shift(right, left, key3, b)
    return left.mul_(b).add_(right)


def _shift(value: Tensor, other: Tensor, key: Tensor, modulus: Tensor) -> Tensor:
    """Adds a number that depends on `other` and the key, modulo `modulus`."""
    # int64 may wrap around: its lower bits are still the right ones. In place, because memory is what this costs.
    mixed = (other + key).mul_(0x9E3779B1).bitwise_and_(_LOW)
    mixed = mixed.bitwise_xor_(mixed >> 15).mul_(0x85EBCA77).bitwise_and_(_LOW)
    moved = mixed.mul_(modulus).bitwise_right_shift_(32).add_(value)
    return moved.sub_((moved >= modulus) * modulus)


def _own_classes(rows_B: Tensor, starts: Tensor) -> tuple[Tensor, Tensor]:
    own = torch.searchsorted(starts, rows_B, right=True) - 1
    return starts[own], starts[own + 1]


def _words(plan: DrawPlan, places: Tensor, counter: int | Tensor) -> _Words:
    return philox(split_seed(plan.seed), (counter, places, plan.step & _LOW, STREAM))


def _with_replacement(places: Tensor, others: Tensor, plan: DrawPlan) -> Tensor:
    blocks = -(-plan.negatives // (4 * LANES))
    counters = torch.arange(blocks * LANES, device=places.device).view(blocks, LANES)
    words = torch.stack(_words(plan, places[:, None, None], counters), 2).flatten(1)[:, : plan.negatives]
    return below(words, others[:, None])


def _without_replacement(places: Tensor, others: Tensor, plan: DrawPlan) -> Tensor:
    column = torch.arange(plan.negatives, device=places.device)
    given = torch.stack((others, *_words(plan, places, KEY_COUNTER)))[..., None]
    # A few samples at a time, so that the numbers stay in a CPU's cache.
    at_once = max(AT_ONCE // plan.negatives, 1) if places.device.type == "cpu" else max(len(places), 1)
    parts = [
        permute(column.expand(n.shape[0], -1), n, (key0, key1, key2, key3))
        for n, key0, key1, key2, key3 in given.split(at_once, 1)
    ]
    return torch.cat(parts)
