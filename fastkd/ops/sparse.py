"""A teacher of which k of K classes are kept: a value that stores write and losses read, and how logits become it."""

from typing import Literal, NamedTuple

import torch
from torch import Tensor

Tail = Literal["renormalised", "lumped", "sampled"]
TAILS = ("renormalised", "lumped", "sampled")


class SparseTeacher(NamedTuple):
    """A teacher's distribution at the temperature of the loss: k classes by name, and what the others are.

    Where k = K, a lumped and a renormalised one are the loss with the teacher's logits.
    """

    indices: Tensor
    """[…,k] integers: the kept classes of every row, each once; a number below 0 is padding."""
    log_probabilities: Tensor
    """[…,k]: log_softmax(z / τ) at the kept classes.

    "renormalised" divides by their sum itself; "sampled" takes any weights that a row's samples shall have.
    """
    tail: Tensor | Tail = "lumped"
    """What the other classes are.

    […] floating point: they are one class, and this is the logarithm of its probability, -inf where it has none. The
        student's one class is the sum of what it gives to them.
    "lumped": the same, of what the kept ones lack to 1. The difference has the rounding of 1: a small tail wants to be
        given.
    "renormalised": they do not exist; teacher and student are compared within the kept classes.
    "sampled": the teacher gives nothing to them; the kept classes are draws with their weights, whose expectation is
        the whole teacher (Anshumann et al., ACL 2025: "Sparse logit sampling", random sampling KD).
    """

    @property
    def kind(self) -> str:
        """The word for the tail."""
        return "lumped" if isinstance(self.tail, Tensor) else self.tail

    def log_rest(self) -> Tensor:
        """[…]: the logarithm of what a lump has."""
        if isinstance(self.tail, Tensor):
            return self.tail
        wide = torch.promote_types(self.log_probabilities.dtype, torch.float32)
        kept = torch.where(self.indices >= 0, self.log_probabilities.to(wide).exp(), 0)
        return (1 - kept.sum(-1)).clamp(min=0).log()

    def log_rest_of(self, classes: int) -> Tensor:
        """The same among so many classes: nothing where all of them are kept, whatever rounding leaves."""
        rest = self.log_rest()
        if self.indices.shape[-1] < classes:
            return rest
        return torch.where((self.indices >= 0).sum(-1) == classes, -torch.inf, rest)


def largest_logits(logits_BK: Tensor, labels_B: Tensor, k: int) -> Tensor:
    """[B,k] int64: the classes of the k largest logits; the label takes the place of the smallest if it is not one."""
    indices = logits_BK.topk(k, 1).indices
    label = labels_B[:, None]
    last = torch.where((indices == label).any(1, keepdim=True), indices[:, -1:], label)
    return torch.cat([indices[:, :-1], last], 1)


def tail_of(logits_BK: Tensor, indices_Bk: Tensor, temperature: float) -> Tensor:
    """[B]: the log-sum-exp of the logits over the temperature, over the classes that are not among the indices."""
    return (logits_BK / temperature).scatter(1, indices_Bk, -torch.inf).logsumexp(1)


def normalised(indices_Bk: Tensor, logits_Bk: Tensor, tail_B: Tensor, temperature: float) -> SparseTeacher:
    """The distribution of kept logits; tail_B: as `tail_of` gives it at the same temperature."""
    scaled = logits_Bk / temperature
    total = torch.logaddexp(scaled.logsumexp(1), tail_B)
    return SparseTeacher(indices_Bk, scaled - total[:, None], tail_B - total)
