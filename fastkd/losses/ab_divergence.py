"""The alpha-beta divergence (Wang et al.: "ABKD: pursuing a proper allocation of the probability mass in knowledge
distillation via α-β-divergence", ICML 2025, arXiv 2505.04560)."""

from typing import NamedTuple, Unpack

from torch import Tensor

from fastkd.losses.module import checked_numbers, takes_numbers
from fastkd.losses.pair import PairLoss, named, pair_loss
from fastkd.ops.numbers import ABNumbers


class ABDivergenceTerms(NamedTuple):
    """ce_weight · CE + weight · divergence."""

    total: Tensor
    """The one differentiable value."""
    ce: Tensor
    divergence: Tensor
    """The alpha-beta divergence, before its weight."""
    hits: Tensor
    """[2] int64: top-1 and top-5 hits."""


@takes_numbers("ab")
def ab_divergence_loss(
    student_logits: Tensor,
    teacher_logits: Tensor,
    labels: Tensor,
    *,
    continuous: bool = False,
    standardise: bool = False,
    ignore_index: int = -100,
    **numbers: Unpack[ABNumbers],
) -> ABDivergenceTerms:
    """The alpha-beta divergence (ABKD, Wang et al. 2025): ce_weight · CE + weight · D(teacher ‖ student) at τ.

    D = -1/(αβ) Σ [p^α q^β − α/(α+β) p^(α+β) − β/(α+β) q^(α+β)], p the teacher's and q the student's probabilities, and
    the limits of this where α, β or α + β is 0. (1, 0) is KL(p ‖ q), (0, 1) is KL(q ‖ p).

    student_logits, teacher_logits: [B,K]; labels: [B] int64.
    continuous: the limits as the paper has them. The authors' code, the default, has them times α (where β or α + β is
        0) or β (where α is 0), so that D jumps there.
    standardise: compare the logits of each row as multiples of their deviation, less their mean (Sun et al. 2024); CE
        is always that of the logits themselves.

    There is no factor τ². No gradient reaches the teacher. Errors as in `ce_loss`.
    """
    checked = checked_numbers("ab_divergence_loss", "ab", numbers, student_logits)
    form = named("ab_continuous" if continuous else "ab", standardise)
    return pair_loss(form, ABDivergenceTerms, student_logits, teacher_logits, labels, checked, ignore_index)


class ABDivergenceLoss(PairLoss):
    """`ab_divergence_loss` as a module, with the numbers of the authors' example on CIFAR-100.

    Its numbers may be set at any time.
    """

    form = "ab"
    Terms = ABDivergenceTerms

    def __init__(
        self,
        *,
        continuous: bool = False,
        standardise: bool = False,
        ignore_index: int = -100,
        **numbers: Unpack[ABNumbers],
    ):
        super().__init__("ab_continuous" if continuous else "ab", standardise, ignore_index, numbers)
        self.continuous = continuous
