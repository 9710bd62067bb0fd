"""Refined logit distillation (Sun et al.: "Knowledge distillation with refined logits", arXiv 2408.07703)."""

from typing import NamedTuple, Unpack

from torch import Tensor

from fastkd.losses.module import checked_numbers, takes_numbers
from fastkd.losses.pair import PairLoss, named, pair_loss
from fastkd.losses.rows import Counting, Reduction
from fastkd.ops.numbers import RLDNumbers, Scalar


class RLDTerms(NamedTuple):
    """ce_weight · CE + alpha · τ_a² SCD + beta · τ² MCD."""

    total: Tensor
    """The one differentiable value."""
    ce: Tensor
    scd: Tensor
    """τ_a² KL from the teacher's (greatest class, all others) to the student's (label, all others)."""
    mcd: Tensor
    """τ² KL within the classes to which the teacher gives less than to the label."""
    hits: Tensor
    """[2] int64: top-1 and top-5 hits."""


@takes_numbers("rld")
def rld_loss(
    student_logits: Tensor,
    teacher_logits: Tensor,
    labels: Tensor,
    *,
    standardise: bool = False,
    weights: Tensor | None = None,
    reduction: Reduction = "mean",
    count: Scalar | None = None,
    ignore_index: int = -100,
    **numbers: Unpack[RLDNumbers],
) -> RLDTerms:
    """Refined logit distillation (Sun et al. 2024): ce_weight · CE + alpha · τ_a² SCD + beta · τ² MCD.

    student_logits, teacher_logits: [B,K], [B,T,K] or [B,K,H,W]; labels: int64, a label a row; probabilities,
        which name no single class, are refused.
    standardise: compare the logits of each row as multiples of their deviation, less their mean (Sun et al. 2024); CE
        is always that of the logits themselves.
    weights, reduction, count: see `kd_loss`; what is not the mean over the rows that count is plain PyTorch.

    SCD is KL from the teacher's (greatest class, all others) to the student's (label, all others), at τ_a: the authors'
    code pairs them so even where the teacher is wrong, and has τ_a = 1 by default. MCD is KL at τ within the classes
    whose teacher logit is below the label's; it is 0 in a row that has none. No gradient reaches the teacher. Errors as
    in `ce_loss`.
    """
    checked = checked_numbers("rld_loss", "rld", numbers, student_logits)
    form = named("rld", standardise)
    counting = Counting(ignore_index, weights, reduction, count)
    return pair_loss(form, RLDTerms, student_logits, teacher_logits, labels, checked, counting)


class RLDLoss(PairLoss):
    """`rld_loss` as a module, with the authors' numbers for CIFAR-100. Its numbers may be set at any time."""

    form = "rld"
    Terms = RLDTerms

    def __init__(
        self,
        *,
        standardise: bool = False,
        reduction: Reduction = "mean",
        ignore_index: int = -100,
        **numbers: Unpack[RLDNumbers],
    ):
        super().__init__("rld", standardise, reduction, ignore_index, numbers)
