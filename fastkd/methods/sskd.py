"""Self-supervision knowledge distillation (Xu, Liu, Li, Loy: "Knowledge distillation meets self-supervision", ECCV
2020, arXiv 2006.07114)."""

from dataclasses import dataclass
from typing import Annotated

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fastkd.data.base import FOUR_ROTATIONS, Batch
from fastkd.losses import ce_loss
from fastkd.losses.precision import full_precision
from fastkd.methods.base import Context, Method, MethodLoss, PrestageTraining, PrestageWork
from fastkd.networks.base import Network, Output
from fastkd.support.fields import OnlyWith
from fastkd.support.plain import Checked
from fastkd.support.ranges import EpochsOrNone, Positive, Share, Temperature, Weight


@dataclass(frozen=True, kw_only=True)
class SSKDSettings(Checked):
    """tf_weight · KD on rotated images + ss_weight · KL between the similarities to the plain ones.

    The paper's losses on the plain images are those of kd: `--method kd+sskd`, with its CE 0.1 and KL 0.9.
    """

    tf_weight: Annotated[Weight, OnlyWith("tf_ratio")] = 2.7
    """Weight of KD on the rotated images."""
    ss_weight: Weight = 10.0
    """Weight of KL between the similarities."""
    tf_temperature: Annotated[Temperature, OnlyWith("tf_weight"), OnlyWith("tf_ratio")] = 4.0
    ss_temperature: Annotated[Temperature, OnlyWith("ss_weight")] = 0.5
    tf_ratio: Annotated[Share, OnlyWith("tf_weight")] = 1.0
    """The share that is kept of the rotated images that the teacher gets wrong: those it ranks best."""
    ss_ratio: Annotated[Share, OnlyWith("ss_weight")] = 0.75
    """The share that is kept of those whose plain image is not the most similar one to the teacher."""
    epochs: EpochsOrNone = 60
    """Epochs of the training of the teacher's head, which comes before the student's; 0 for none."""
    lr: Annotated[Positive, OnlyWith("epochs")] = 0.05
    """Learning rate of that training."""
    milestones: Annotated[tuple[EpochsOrNone, ...], OnlyWith("epochs")] = (30, 45)
    """Milestones of that training."""


class SSKD(Method):
    """Student and teacher see every image plain and turned by 90°, 180° and 270°.

    Each process compares the samples of its own batch.
    """

    Settings = SSKDSettings
    about = "self-supervision by rotated images"
    teachers_needed = (1, 1)
    reads = ("embedding", "logits")
    views = FOUR_ROTATIONS

    def __init__(self, settings: SSKDSettings, context: Context):
        super().__init__(settings, context)
        self.student_head = _head(context.student_shapes.embedding.shape[1])
        self.teacher_head = _head(context.teacher_shapes[0].embedding.shape[1]).requires_grad_(False)

    def forward(self, student: Output, teachers: tuple[Output, ...], batch: Batch) -> MethodLoss:
        count, teacher = len(batch.labels), teachers[0]
        labels = batch.labels.repeat(3)
        kept = best_ranked(ranks(teacher.logits[count:], labels), self.settings.tf_ratio)
        tf = kept_divergence(student.logits[count:], teacher.logits[count:], kept, self.settings.tf_temperature)

        plain_of_3B = torch.arange(count, device=labels.device).repeat(3)
        similar = turned_to_plain(self.student_head(student.embedding), count)
        target = turned_to_plain(self.teacher_head(teacher.embedding), count).detach()
        kept = best_ranked(ranks(target, plain_of_3B), self.settings.ss_ratio)
        ss = kept_divergence(similar, target, kept, self.settings.ss_temperature)
        total = self.settings.tf_weight * tf + self.settings.ss_weight * ss
        return MethodLoss(total, {"tf": tf.detach(), "ss": ss.detach()})

    @classmethod
    def prestage_training(cls, settings: SSKDSettings) -> PrestageTraining | None:
        if not settings.epochs:
            return None
        return PrestageTraining(epochs=settings.epochs, lr=settings.lr, milestones=settings.milestones)

    def prestage(self, student: Network) -> PrestageWork:
        return PrestageWork(trained=(self.teacher_head,), loss=self._contrast, student=False, views=FOUR_ROTATIONS)

    def _contrast(self, student: Output | None, teachers: tuple[Output, ...], batch: Batch) -> MethodLoss:
        """Learns which plain image a turned one comes from, by cosine similarity without a temperature."""
        count = len(batch.labels)
        similar = turned_to_plain(self.teacher_head(teachers[0].embedding), count)
        plain_of_3B = torch.arange(count, device=similar.device).repeat(3)
        loss = ce_loss(similar, plain_of_3B)
        return MethodLoss(loss.total, {"contrast": loss.ce, "right": loss.hits[0] / len(plain_of_3B)})


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
