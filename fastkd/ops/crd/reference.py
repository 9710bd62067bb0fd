"""Contrastive representation distillation in plain PyTorch: short, right in float64, the judge of every kernel.

Two banks hold an embedding of every training sample: bank[:, 0] the student's, bank[:, 1] the teacher's. A sample's
student embedding is scored against rows of the teacher's bank, its teacher embedding against the student's bank, row 0
being the positive, the other K the negatives (CRD, Tian et al. 2020; maths as in the authors' code):

    P_k = exp(bank row_k · embedding / T) / Z,     c = K / n,     a = c + 1e-7
    loss = -1/B Σ_samples [ log P_0 / (P_0 + a)  +  Σ_k>0 log c / (P_k + a) ],   summed over both sides

Z is n times the mean of exp(score / T) over the first batch, for each side, and constant from then on.
"""

import torch
from torch import Tensor

EPS = 1e-7
SMALLEST_NORM = 1e-12


def loss(
    student_BD: Tensor,
    teacher_BD: Tensor,
    bank_n2D: Tensor,
    chosen_BK: Tensor,
    z: Tensor,
    temperature: Tensor | float,
) -> tuple[Tensor, Tensor]:
    """The total, differentiable by both embeddings, and its two sides [2], detached.

    chosen_BK: [B,K+1] rows of the bank, the positive first.
    """
    sides = [
        _nce((score / temperature).exp() / z[side], len(bank_n2D)).sum() / len(student_BD)
        for side, score in enumerate(_scores(student_BD, teacher_BD, bank_n2D, chosen_BK))
    ]
    return sides[0] + sides[1], torch.stack(sides).detach()


def normaliser(
    student_BD: Tensor, teacher_BD: Tensor, bank_n2D: Tensor, chosen_BK: Tensor, temperature: Tensor | float
) -> Tensor:
    """[2]: Z as the first batch sets it."""
    scores = _scores(student_BD.detach(), teacher_BD.detach(), bank_n2D, chosen_BK)
    return torch.stack([(score / temperature).exp().mean() * len(bank_n2D) for score in scores])


@torch.no_grad()
def updated_rows(
    bank_n2D: Tensor, rows_B: Tensor, student_BD: Tensor, teacher_BD: Tensor, momentum: Tensor | float
) -> Tensor:
    """[B,2,D]: what the bank has at `rows_B` after the step. Of samples that share a row, the last one counts.

    An embedding that is not finite changes nothing: the training may go on without that step.
    """
    embeddings_B2D, old_B2D = torch.stack((student_BD, teacher_BD), 1), bank_n2D[rows_B]
    mixed_B2D = momentum * old_B2D.to(embeddings_B2D.dtype) + (1 - momentum) * embeddings_B2D
    norm_B21 = mixed_B2D.norm(dim=2, keepdim=True)
    unit_B2D = (mixed_B2D / norm_B21.clamp(min=SMALLEST_NORM)).to(bank_n2D.dtype)
    fresh_B2D = torch.where(norm_B21.isfinite(), unit_B2D, old_B2D)
    sample_B = torch.arange(len(rows_B), device=rows_B.device)
    last_B = torch.where(rows_B[:, None] == rows_B, sample_B, -1).amax(1) if len(rows_B) else sample_B
    return fresh_B2D[last_B]


def loss_by_counts(
    student_BD: Tensor,
    teacher_BD: Tensor,
    bank_n2D: Tensor,
    chosen_BK: Tensor,
    z: Tensor,
    temperature: Tensor | float,
) -> tuple[Tensor, Tensor]:
    """`loss` for banks that are small against B · K, and the plain form of the dense kernels.

    The scores of all rows come from matrix products, each weighted by how often the sample drew the row.
    """
    (samples, columns), rows = chosen_BK.shape, len(bank_n2D)
    counts_Bn = student_BD.new_zeros(samples, rows)
    counts_Bn.scatter_add_(1, chosen_BK[:, 1:], counts_Bn.new_ones(()).expand(samples, columns - 1))
    c = (columns - 1) / rows
    sides = []
    for side, embedding_BD in enumerate((student_BD, teacher_BD)):
        bank_nD = bank_n2D[:, 1 - side].to(embedding_BD.dtype, copy=True)  # the bank changes before backward
        share_Bn = (embedding_BD @ bank_nD.T / temperature).exp() / z[side]
        negatives = (counts_Bn * ((share_Bn + EPS) / c).log1p()).sum()
        share_B = share_Bn.gather(1, chosen_BK[:, :1])
        positives = (share_B / (share_B + c + EPS)).log().sum()
        sides.append((negatives - positives) / samples)
    return sides[0] + sides[1], torch.stack(sides).detach()


def _scores(student_BD: Tensor, teacher_BD: Tensor, bank_n2D: Tensor, chosen_BK: Tensor) -> tuple[Tensor, Tensor]:
    drawn_BK2D = bank_n2D[chosen_BK].to(student_BD.dtype)
    return (
        (drawn_BK2D[:, :, 1] @ student_BD[:, :, None])[..., 0],
        (drawn_BK2D[:, :, 0] @ teacher_BD[:, :, None])[..., 0],
    )


def _nce(share_BK: Tensor, rows: int) -> Tensor:
    """[B,K+1]: the terms of one side."""
    c = (share_BK.shape[1] - 1) / rows
    positive, negatives = share_BK[:, :1], share_BK[:, 1:]
    return torch.cat((-(positive / (positive + c + EPS)).log(), ((negatives + EPS) / c).log1p()), 1)
