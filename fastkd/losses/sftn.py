"""The loss of a student-friendly teacher (Park et al.: "Learning student-friendly teacher networks for knowledge
distillation", NeurIPS 2021, arXiv 2102.07650)."""

from collections.abc import Sequence
from typing import NamedTuple, Unpack

from torch import Tensor

from fastkd.losses import by_row
from fastkd.losses.checks import check_choice
from fastkd.losses.module import Loss, checked_numbers, takes_numbers
from fastkd.losses.row_checks import check_several, refuse_kept
from fastkd.losses.rows import REDUCTIONS, Counting, Reduction
from fastkd.ops.distill_loss import Numbers
from fastkd.ops.distill_loss.reference import KLDirection
from fastkd.ops.numbers import Scalar, SFTNNumbers

DIRECTIONS = ("forward", "reverse")


class SFTNTerms(NamedTuple):
    """teacher_weight · CE_teacher + mean over branches of (kl_weight · τ² KL + ce_weight · CE)."""

    total: Tensor
    """The one differentiable value."""
    teacher_ce: Tensor
    kl: Tensor
    """Mean over the branches of τ² KL, before its weight."""
    branch_ce: Tensor
    """Mean over the branches of CE, before its weight."""
    hits: Tensor
    """[1+N, 2] int64: the teacher's, then each branch's, top-1 and top-5 hits."""


@takes_numbers("sftn")
def sftn_loss(
    teacher_logits: Tensor,
    branch_logits: Tensor | Sequence[Tensor],
    labels: Tensor,
    *,
    kl: KLDirection = "forward",
    detach_teacher: bool = False,
    tau_squared: bool = True,
    weights: Tensor | None = None,
    reduction: Reduction = "mean",
    count: Scalar | None = None,
    ignore_index: int = -100,
    **numbers: Unpack[SFTNNumbers],
) -> SFTNTerms:
    """The loss of a student-friendly teacher and its branches (SFTN, Park et al. 2021, Eqs. 3-6).

    teacher_weight · CE(teacher) + mean over branches of (kl_weight · τ² KL + ce_weight · CE(branch)), with gradients to
    the teacher and to every branch.

    teacher_logits: [B,K], [B,T,K] or [B,K,H,W]; labels: int64, a label a row, or probabilities in the logits' shape.
    branch_logits: [N,B,K], or a sequence of N tensors [B,K], with rows as the teacher's; N >= 1.
    kl: "forward" is KL(teacher ‖ branch), "reverse" KL(branch ‖ teacher). The paper's Eq. 5 prints the reverse; its
        training loop was not found, and the loss class its code family uses gives the forward one: the default here is
        our choice.
    detach_teacher: the KL term sends no gradient to the teacher.
    weights, reduction, count: see `kd_loss`; what is not the mean over the rows that count is plain PyTorch.
    ce_temperature, tau_squared: the paper prints CE at temperature τ and no τ²; at its τ = 1 all readings agree.

    Errors as in `ce_loss`.
    """
    check_choice("kl", kl, DIRECTIONS)
    refuse_kept("sftn", teacher_logits)
    branches = check_several("sftn", labels, "branch_logits", branch_logits, teacher_logits=teacher_logits)
    checked = checked_numbers("sftn_loss", "sftn", numbers, teacher_logits)
    counting = Counting(ignore_index, weights, reduction, count)
    return _sftn(teacher_logits, branches, labels, checked, kl, detach_teacher, tau_squared, counting)


class SFTNLoss(Loss):
    """`sftn_loss` as a module, with the paper's CIFAR weights by default. Its numbers may be set at any time."""

    form = "sftn"

    def __init__(
        self,
        *,
        kl: KLDirection = "forward",
        detach_teacher: bool = False,
        tau_squared: bool = True,
        reduction: Reduction = "mean",
        ignore_index: int = -100,
        **numbers: Unpack[SFTNNumbers],
    ):
        check_choice("kl", kl, DIRECTIONS)
        check_choice("reduction", reduction, REDUCTIONS)
        super().__init__(numbers)
        self.ignore_index = ignore_index
        self.kl: KLDirection = kl
        self.detach_teacher = detach_teacher
        self.tau_squared = tau_squared
        self.reduction: Reduction = reduction

    def forward(
        self,
        teacher_logits: Tensor,
        branch_logits: Tensor | Sequence[Tensor],
        labels: Tensor,
        *,
        weights: Tensor | None = None,
        count: Scalar | None = None,
    ) -> SFTNTerms:
        refuse_kept("sftn", teacher_logits)
        branches = check_several("sftn", labels, "branch_logits", branch_logits, teacher_logits=teacher_logits)
        counting = Counting(self.ignore_index, weights, self.reduction, count)
        options = (self.kl, self.detach_teacher, self.tau_squared, counting)
        return _sftn(teacher_logits, branches, labels, self.numbers, *options)


def _sftn(
    teacher_logits: Tensor,
    branches: Sequence[Tensor],
    labels: Tensor,
    numbers: Numbers,
    kl: KLDirection,
    detach_teacher: bool,
    tau_squared: bool,
    counting: Counting,
) -> SFTNTerms:
    total, (teacher_ce, mean_kl, branch_ce), hits = by_row.losses(
        "sftn" if kl == "forward" else "sftn_reverse",
        teacher_logits,
        branches,
        labels,
        numbers,
        counting,
        detached=detach_teacher,
        tau_squared=tau_squared,
    )
    return SFTNTerms(total, teacher_ce, mean_kl, branch_ce, hits)
