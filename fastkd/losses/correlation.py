"""Pearson's correlations of two networks' probabilities (DIST, Huang et al.: "Knowledge distillation from a stronger
teacher", NeurIPS 2022, arXiv 2205.10536)."""

import torch
from torch import Tensor

from fastkd.losses.checks import check_logits
from fastkd.losses.module import TensorLoss
from fastkd.losses.precision import full_precision
from fastkd.losses.row_checks import refuse_kept
from fastkd.losses.shapes import as_matrix
from fastkd.support.ranges import Positive, Weight

EPSILON = 1e-8
"""Added to the product of the norms, as in the authors' code: for a class that nobody predicts it is the greater."""


@full_precision
def correlation_losses(student_BK: Tensor, teacher_BK: Tensor, *, temperature: float = 1.0) -> tuple[Tensor, Tensor]:
    """(inter, intra): 1 − Pearson's correlation over the classes, mean over the samples; and the other way round.

    student_BK, teacher_BK: logits, compared as probabilities at `temperature`. No factor τ² stands here.
    """
    student, teacher = ((logits / temperature).softmax(1) for logits in (student_BK, teacher_BK.detach()))
    return 1 - correlations(student, teacher).mean(), 1 - correlations(student.T, teacher.T).mean()


def correlations(first_NM: Tensor, second_NM: Tensor) -> Tensor:
    """[N]: the correlation of each pair of rows; that of a row that is constant is 0."""
    first, second = (rows - rows.mean(1, keepdim=True) for rows in (first_NM, second_NM))
    return (first * second).sum(1) / (length(first) * length(second) + EPSILON)


def length(rows_NM: Tensor) -> Tensor:
    """[N]: the L2 norms; the gradient at a row of zeros is 0, not NaN."""
    squares = rows_NM.square().sum(1)
    return torch.where(squares > 0, torch.where(squares > 0, squares, 1).sqrt(), 0)


class DISTLoss(TensorLoss):
    """τ² (beta · inter + gamma · intra) of logits, without a cross-entropy.

    inter is 1 − Pearson's correlation over the classes, a mean over the rows; intra that over the rows, a mean over the
    classes: no sum over rows, so that rows have no weights, nor a loss each.

    tau_squared: the authors' code multiplies by τ², the paper's listing does not.
    """

    def __init__(
        self, *, beta: Weight = 1.0, gamma: Weight = 1.0, temperature: Positive = 1.0, tau_squared: bool = True
    ):
        super().__init__(beta=beta, gamma=gamma, temperature=temperature)
        self.beta, self.gamma, self.temperature, self.tau_squared = beta, gamma, temperature, tau_squared

    def forward(self, student_logits: Tensor, teacher_logits: Tensor) -> Tensor:
        """student_logits, teacher_logits: [B,K]; [B,T,K], a row a token; or [B,K,H,W], a row a pixel."""
        inter, intra = self.parts(student_logits, teacher_logits)
        return self.beta * inter + self.gamma * intra

    def parts(self, student_logits: Tensor, teacher_logits: Tensor) -> tuple[Tensor, Tensor]:
        """(inter, intra), each with its τ² and without its weight."""
        scale = self.temperature**2 if self.tau_squared else 1.0
        refuse_kept("dist", teacher_logits)
        check_logits(student_logits=student_logits, teacher_logits=teacher_logits)
        rows = as_matrix(student_logits), as_matrix(teacher_logits)
        inter, intra = correlation_losses(*rows, temperature=self.temperature)
        return scale * inter, scale * intra
