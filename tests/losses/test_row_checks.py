"""What the losses of rows refuse: one line that names the argument and what was expected."""

import pytest
import torch

from fastkd.losses import (
    JSDLoss,
    KDLoss,
    LinearKDLoss,
    LinearTeacher,
    SparseTeacher,
    TeacherProbabilities,
    ce_loss,
    jsd_loss,
    kd_loss,
    linear_jsd_loss,
    linear_kd_loss,
)

Z, LABELS, KEPT = torch.randn(2, 3), torch.tensor([0, 1]), torch.tensor([[0, 1], [1, 2]])
TOKENS, HIDDEN, WEIGHT = torch.randn(2, 4, 3), torch.randn(2, 5), torch.randn(3, 5)
PIXELS = torch.randn(2, 3, 4, 5)


def sparse(**changed) -> SparseTeacher:
    return SparseTeacher(**{"indices": KEPT, "log_probabilities": torch.zeros(2, 2), **changed})


CASES = {
    "logits of five axes": (
        lambda: kd_loss(Z[None, None, None], Z, LABELS),
        ValueError,
        "student_logits are floating point [B,K], [B,T,K] or [B,K,H,W], got torch.float32 [1, 1, 1, 2, 3]",
    ),
    "labels of tokens flattened": (
        lambda: kd_loss(TOKENS, TOKENS, torch.zeros(8, dtype=torch.int64)),
        ValueError,
        "labels are int64 [2, 4], or probabilities [2, 4, 3], got torch.int64 [8]",
    ),
    "probabilities of another shape": (
        lambda: ce_loss(PIXELS, PIXELS[:, :2]),
        ValueError,
        "labels are int64 [2, 4, 5], or probabilities [2, 3, 4, 5], got torch.float32 [2, 2, 4, 5]",
    ),
    "no labels for a cross-entropy": (lambda: ce_loss(Z, None), TypeError, "labels are what ce_loss compares with"),
    "a weight on a cross-entropy without labels": (
        lambda: kd_loss(Z, Z, ce_weight=0.1),
        ValueError,
        "ce_weight is 0 where there are no labels, got 0.1",
    ),
    "a module with such a weight": (lambda: KDLoss()(Z, Z), ValueError, "ce_weight is 0 where there are no labels"),
    "weights of another shape": (
        lambda: kd_loss(Z, Z, LABELS, weights=torch.ones(3)),
        ValueError,
        "weights are a tensor [2], got [3]",
    ),
    "weights as a list": (
        lambda: kd_loss(Z, Z, LABELS, weights=[1, 1]),
        TypeError,
        "weights are a tensor [2], got list",
    ),
    "weights elsewhere": (
        lambda: kd_loss(Z, Z, LABELS, weights=torch.ones(2, device="meta")),
        ValueError,
        "weights: on meta, where the logits are on cpu",
    ),
    "an unknown reduction": (
        lambda: kd_loss(Z, Z, LABELS, reduction="batchmean"),
        ValueError,
        "reduction is 'mean' or 'sum' or 'none', got 'batchmean'",
    ),
    "a count of a sum": (
        lambda: kd_loss(Z, Z, LABELS, reduction="sum", count=3.0),
        ValueError,
        "count is what a mean is divided by: reduction is 'mean', got 'sum'",
    ),
    "a count of nothing": (lambda: kd_loss(Z, Z, LABELS, count=0), ValueError, "count is a number above 0, got 0"),
    "two counts": (
        lambda: kd_loss(Z, Z, LABELS, count=torch.ones(2)),
        ValueError,
        "count is one number, got a tensor [2]",
    ),
    "an unknown divergence": (
        lambda: kd_loss(Z, Z, LABELS, divergence="jsd"),
        ValueError,
        "divergence is 'forward' or 'reverse', got 'jsd'",
    ),
    "a beta above one": (lambda: jsd_loss(Z, Z, beta=2.0), ValueError, "beta is a number from 0 to 1, got 2.0"),
    "a soft-cap of zero": (lambda: KDLoss(softcap=0.0), ValueError, "softcap is a number above 0, got 0.0"),
    "a loss left elsewhere": (
        lambda: JSDLoss()(Z.to("meta"), Z.to("meta")),
        ValueError,
        "the loss is on cpu, the logits are on meta: move it with .to('meta')",
    ),
    "probabilities of other classes": (
        lambda: kd_loss(Z, TeacherProbabilities(Z[:, :2]), LABELS),
        ValueError,
        "teacher probabilities are floating point [2, 3], got torch.float32 [2, 2]",
    ),
    "no teacher": (lambda: kd_loss(Z, None, LABELS), TypeError, "teacher_logits are floating point [B,K]"),
    "an unknown tail": (
        lambda: kd_loss(Z, sparse(tail="cut"), LABELS),
        ValueError,
        "tail is a tensor, 'renormalised' or",
    ),
    "indices that are no integers": (
        lambda: kd_loss(Z, sparse(indices=KEPT.float()), LABELS),
        ValueError,
        "indices are integers [2, 2], got torch.float32 [2, 2]",
    ),
    "log-probabilities of another k": (
        lambda: kd_loss(Z, sparse(log_probabilities=torch.zeros(2, 3)), LABELS),
        ValueError,
        "log_probabilities are floating point [2, 2], got torch.float32 [2, 3]",
    ),
    "no kept classes": (
        lambda: kd_loss(Z, sparse(indices=KEPT[:, :0], log_probabilities=torch.zeros(2, 0)), LABELS),
        ValueError,
        "a SparseTeacher keeps at least one class a row, got none",
    ),
    "a tail of another shape": (
        lambda: kd_loss(Z, sparse(tail=torch.zeros(3)), LABELS),
        ValueError,
        "tail are floating point [2], got torch.float32 [3]",
    ),
    "the reverse divergence from draws": (
        lambda: kd_loss(Z, sparse(tail="sampled"), LABELS, divergence="reverse"),
        ValueError,
        "is infinite for a sampled teacher",
    ),
    "a layer of other dimensions": (
        lambda: linear_kd_loss(HIDDEN, WEIGHT.t(), Z, LABELS),
        ValueError,
        "hidden is [N,D] or [B,T,D] and weight [K,D], got [2, 5] and [5, 3]",
    ),
    "a weight of another type": (
        lambda: linear_kd_loss(HIDDEN, WEIGHT.bfloat16(), Z, LABELS),
        ValueError,
        "weight has the type of hidden, torch.float32, got torch.bfloat16",
    ),
    "a bias of another length": (
        lambda: linear_kd_loss(HIDDEN, WEIGHT, Z, LABELS, head_bias=torch.zeros(2)),
        ValueError,
        "bias is [3], got [2]",
    ),
    "a teacher's layer of other classes": (
        lambda: linear_kd_loss(HIDDEN, WEIGHT, LinearTeacher(HIDDEN, WEIGHT[:2]), LABELS),
        ValueError,
        "both layers agree in rows and classes",
    ),
    "a teacher's hidden as a list": (
        lambda: linear_jsd_loss(HIDDEN, WEIGHT, LinearTeacher([1], WEIGHT), LABELS),
        TypeError,
        "the teacher's hidden are floating point [N,D] or [B,T,D], got list",
    ),
    "a loss for every row behind a layer": (
        lambda: linear_kd_loss(HIDDEN, WEIGHT, Z, LABELS, reduction="none"),
        ValueError,
        "reduction is 'mean' or 'sum', got 'none'",
    ),
    "a chunk of no rows": (
        lambda: LinearKDLoss(chunk_rows=0),
        ValueError,
        "chunk_rows is a whole number above 0, got 0",
    ),
}


@pytest.mark.parametrize("mistake", CASES)
def test_is_one_clear_line(mistake):
    call, error, message = CASES[mistake]
    with pytest.raises(error) as raised:
        call()
    assert message in str(raised.value)
    assert "\n" not in str(raised.value)
