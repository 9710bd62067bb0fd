"""The alpha-beta divergence (Wang et al.: "ABKD: pursuing a proper allocation of the probability mass in knowledge
distillation via α-β-divergence", ICML 2025, arXiv 2505.04560)."""

from typing import NamedTuple, Unpack

from torch import Tensor

from fastkd.losses.module import checked_numbers, takes_numbers
from fastkd.losses.pair import PairLoss, named, pair_loss
from fastkd.losses.row_checks import check_ce_weight
from fastkd.losses.rows import Counting, Reduction, without_labels
from fastkd.ops.numbers import ABNumbers, Scalar
from fastkd.ops.sparse import SparseTeacher


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
    teacher_logits: Tensor | SparseTeacher,
    labels: Tensor | None = None,
    *,
    continuous: bool = False,
    standardise: bool = False,
    weights: Tensor | None = None,
    reduction: Reduction = "mean",
    count: Scalar | None = None,
    ignore_index: int = -100,
    **numbers: Unpack[ABNumbers],
) -> ABDivergenceTerms:
    """The alpha-beta divergence (ABKD, Wang et al. 2025): ce_weight · CE + weight · D(teacher ‖ student) at τ.

    D = -1/(αβ) Σ [p^α q^β − α/(α+β) p^(α+β) − β/(α+β) q^(α+β)], p the teacher's and q the student's probabilities, and
    the limits of this where α, β or α + β is 0. (1, 0) is KL(p ‖ q), (0, 1) is KL(q ‖ p).

    student_logits, teacher_logits: [B,K], [B,T,K] or [B,K,H,W]; labels: int64, a label a row; probabilities in the
        logits' shape; or None, and ce_weight is 0.
    teacher_logits may be a `SparseTeacher` whose tail is "lumped" or "renormalised".
    continuous: the limits as the paper has them. The authors' code, the default, has them times α (where β or α + β is
        0) or β (where α is 0), so that D jumps there.
    standardise: compare the logits of each row as multiples of their deviation, less their mean (Sun et al. 2024); CE
        is always that of the logits themselves.
    weights, reduction, count: see `kd_loss`; what is not the mean over the rows that count is plain PyTorch.

    There is no factor τ². No gradient reaches the teacher. Errors as in `ce_loss`.
    """
    given = without_labels(numbers, labels)
    checked = checked_numbers("ab_divergence_loss", "ab", given, student_logits)
    check_ce_weight(checked["ce_weight"], labels)
    form = named("ab_continuous" if continuous else "ab", standardise)
    counting = Counting(ignore_index, weights, reduction, count)
    return pair_loss(form, ABDivergenceTerms, student_logits, teacher_logits, labels, checked, counting)


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
        reduction: Reduction = "mean",
        ignore_index: int = -100,
        **numbers: Unpack[ABNumbers],
    ):
        super().__init__("ab_continuous" if continuous else "ab", standardise, reduction, ignore_index, numbers)
        self.continuous = continuous
