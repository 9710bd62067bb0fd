"""A teacher of which k of K classes are kept: its form, a pure value that stores write and losses read."""

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
