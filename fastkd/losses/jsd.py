"""The generalised Jensen-Shannon divergence (Agarwal et al.: "On-policy distillation of language models: learning from
self-generated mistakes", ICLR 2024, arXiv 2306.13649)."""

from typing import NamedTuple, Unpack

from torch import Tensor

from fastkd.losses.module import checked_numbers, takes_numbers
from fastkd.losses.pair import PairLoss, named, pair_loss
from fastkd.ops.numbers import JSDNumbers


class JSDTerms(NamedTuple):
    """ce_weight · CE + weight · JSD."""

    total: Tensor
    """The one differentiable value."""
    ce: Tensor
    jsd: Tensor
    """The divergence, before its weight."""
    hits: Tensor
    """[2] int64: top-1 and top-5 hits."""


@takes_numbers("jsd")
def jsd_loss(
    student_logits: Tensor,
    teacher_logits: Tensor,
    labels: Tensor,
    *,
    standardise: bool = False,
    ignore_index: int = -100,
    **numbers: Unpack[JSDNumbers],
) -> JSDTerms:
    """The generalised Jensen-Shannon divergence (GKD, Agarwal et al. 2024): ce_weight · CE + weight · JSD at τ.

    JSD = β KL(p ‖ m) + (1 − β) KL(q ‖ m), m = β p + (1 − β) q, p the teacher's and q the student's probabilities; at
    β = 0 it is KL(p ‖ q), at β = 1 KL(q ‖ p), which are not its limits (those are 0).

    student_logits, teacher_logits: [B,K]; labels: [B] int64.
    standardise: compare the logits of each row as multiples of their deviation, less their mean (Sun et al. 2024); CE
        is always that of the logits themselves.

    There is no factor τ². No gradient reaches the teacher. Errors as in `ce_loss`.
    """
    checked = checked_numbers("jsd_loss", "jsd", numbers, student_logits)
    form = named("jsd", standardise)
    return pair_loss(form, JSDTerms, student_logits, teacher_logits, labels, checked, ignore_index)


class JSDLoss(PairLoss):
    """`jsd_loss` as a module. Its numbers may be set at any time."""

    form = "jsd"
    Terms = JSDTerms

    def __init__(
        self,
        *,
        standardise: bool = False,
        ignore_index: int = -100,
        **numbers: Unpack[JSDNumbers],
    ):
        super().__init__("jsd", standardise, ignore_index, numbers)
