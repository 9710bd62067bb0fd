"""Self-supervision knowledge distillation (Xu, Liu, Li, Loy: "Knowledge distillation meets self-supervision", ECCV
2020, arXiv 2006.07114)."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fastkd.losses.kd import CETerms, ce_loss
from fastkd.losses.module import TensorLoss
from fastkd.losses.precision import full_precision
from fastkd.support.ranges import Share, Temperature, Weight, Width


class SSKDLoss(TensorLoss):
    """tf_weight · KD on turned images + ss_weight · KL between the similarities of turned images to the plain ones.

    Everything that goes in is of 4B images, view by view: B plain ones, then these turned by 90°, by 180° and by 270°.
    The losses of the paper on the plain images are those of `KDLoss`, beside it.

    Similarities are cosines behind a head of each network: the student's is for your optimiser; the teacher's, which is
    frozen here, is trained before, by `contrast`, with the teacher itself left as it is.

    tf_ratio: the share that is kept of the turned images that the teacher gets wrong: those it ranks best.
    ss_ratio: the share that is kept of those whose plain image is not the most similar one to the teacher.
    """

    def __init__(
        self,
        student_dim: Width,
        teacher_dim: Width,
        *,
        tf_weight: Weight = 2.7,
        ss_weight: Weight = 10.0,
        tf_temperature: Temperature = 4.0,
        ss_temperature: Temperature = 0.5,
        tf_ratio: Share = 1.0,
        ss_ratio: Share = 0.75,
    ):
        weights = {"tf_weight": tf_weight, "ss_weight": ss_weight}
        temperatures = {"tf_temperature": tf_temperature, "ss_temperature": ss_temperature}
        ratios = {"tf_ratio": tf_ratio, "ss_ratio": ss_ratio}
        super().__init__(student_dim=student_dim, teacher_dim=teacher_dim, **weights, **temperatures, **ratios)
        self.tf_weight, self.tf_temperature, self.tf_ratio = tf_weight, tf_temperature, tf_ratio
        self.ss_weight, self.ss_temperature, self.ss_ratio = ss_weight, ss_temperature, ss_ratio
        self.student_head = _head(student_dim)
        self.teacher_head = _head(teacher_dim).requires_grad_(False)

    def forward(
        self,
        student_logits: Tensor,
        teacher_logits: Tensor,
        student_embedding: Tensor,
        teacher_embedding: Tensor,
        labels: Tensor,
    ) -> Tensor:
        """student_logits, teacher_logits: [4B,K]; student_embedding, teacher_embedding: [4B,D]; labels: [B] int64."""
        tf, ss = self.parts(student_logits, teacher_logits, student_embedding, teacher_embedding, labels)
        return self.tf_weight * tf + self.ss_weight * ss

    def parts(
        self,
        student_logits: Tensor,
        teacher_logits: Tensor,
        student_embedding: Tensor,
        teacher_embedding: Tensor,
        labels: Tensor,
    ) -> tuple[Tensor, Tensor]:
        """(KD on turned images, KL between similarities), each without its weight."""
        count, turned_logits = len(labels), teacher_logits.detach()[len(labels) :]
        kept = best_ranked(ranks(turned_logits, labels.repeat(3)), self.tf_ratio)
        tf = kept_divergence(student_logits[count:], turned_logits, kept, self.tf_temperature)

        plain_of_3B = torch.arange(count, device=labels.device).repeat(3)
        similar = turned_to_plain(self.student_head(student_embedding), count)
        target = turned_to_plain(self.teacher_head(teacher_embedding), count).detach()
        kept = best_ranked(ranks(target, plain_of_3B), self.ss_ratio)
        return tf, kept_divergence(similar, target, kept, self.ss_temperature)

    def contrast(self, teacher_embedding: Tensor) -> CETerms:
        """What trains the teacher's head: which plain image a turned one comes from, by cosine, without a temperature.

        Set `teacher_head.requires_grad_()` for it. teacher_embedding: [4B,D].
        """
        count = len(teacher_embedding) // 4
        plain_of_3B = torch.arange(count, device=teacher_embedding.device).repeat(3)
        return ce_loss(turned_to_plain(self.teacher_head(teacher_embedding), count), plain_of_3B)


@full_precision
def turned_to_plain(embedding: Tensor, count: int) -> Tensor:
    """[3B,B]: cosines of each turned image with each plain one; `embedding` is [4B,D], view by view."""
    direction = F.normalize(embedding, eps=1e-8)
    return direction[count:] @ direction[:count].T


def ranks(scores_NK: Tensor, own_N: Tensor) -> Tensor:
    """[N]: how many classes score higher than the own one; ties go to the lower class."""
    column = own_N[:, None]
    own = scores_NK.gather(1, column)
    lower_class = torch.arange(scores_NK.shape[1], device=own.device) < column
    return ((scores_NK > own) | ((scores_NK == own) & lower_class)).sum(1)


def best_ranked(ranks_N: Tensor, ratio: float) -> Tensor:
    """[N] bool: all of rank 0 and, of the others, the share `ratio` that ranks best (rounded down).

    The sort of the authors' code leaves ties to chance; here they go to the earlier row.
    """
    order = ranks_N.argsort(stable=True)
    place = torch.empty_like(order).scatter_(0, order, torch.arange(len(order), device=order.device))
    right = (ranks_N == 0).sum()
    wrong = len(ranks_N) - right
    return place < right + (ratio * wrong.double()).long()


@full_precision
def kept_divergence(student_NK: Tensor, teacher_NK: Tensor, kept_N: Tensor, temperature: float) -> Tensor:
    """τ² KL(teacher ‖ student), averaged over the rows that are kept."""
    log_p = F.log_softmax(teacher_NK / temperature, 1)
    log_q = F.log_softmax(student_NK / temperature, 1)
    kl = (log_p.exp() * (log_p - log_q)).sum(1)
    return temperature**2 * torch.where(kept_N, kl, 0.0).sum() / kept_N.sum().clamp(min=1)


def _head(width: int) -> nn.Sequential:
    return nn.Sequential(nn.Linear(width, width), nn.ReLU(), nn.Linear(width, width))
