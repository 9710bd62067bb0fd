"""What generators learn by, as functions of logits and maps. Teacher and student are in no way constants here."""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from fastkd.losses.features import attention_distance
from fastkd.losses.precision import full_precision


@full_precision
def disagreements(student_BK: Tensor, teacher_BK: Tensor, *, temperature: float = 1.0) -> Tensor:
    """[B]: KL(teacher ‖ student) of each image's classes at a temperature, whose gradient reaches both."""
    teacher = (teacher_BK / temperature).log_softmax(1)
    return (teacher.exp() * (teacher - (student_BK / temperature).log_softmax(1))).sum(1)


def adversarial_loss(student_BK: Tensor, teacher_BK: Tensor) -> Tensor:
    """What a generator learns by in DataFree's ZSKT: images on which the student disagrees with the teacher."""
    return -disagreements(student_BK, teacher_BK).mean()


@full_precision
def agreed_adversarial_loss(student_BK: Tensor, teacher_BK: Tensor) -> Tensor:
    """CMI's adversarial term: the same, of the images alone whose class both agree on; the mean is over all images."""
    agree_B = student_BK.argmax(1) == teacher_BK.argmax(1)
    return -(disagreements(student_BK, teacher_BK) * agree_B).mean()


@full_precision
def elementwise_divergence(student_BK: Tensor, teacher_BK: Tensor, *, temperature: float = 1.0) -> Tensor:
    """The divergence of ZSKT's authors: the mean over all images and classes, without τ². Its negative is what their
    generator learns by."""
    return disagreements(student_BK, teacher_BK, temperature=temperature).mean() / student_BK.shape[1]


ATTENTION_WEIGHT = 250.0
"""The weight that ZSKT's authors give attention, beside a divergence that is a mean over classes, too."""


def zskt_student_loss(
    student_BK: Tensor,
    teacher_BK: Tensor,
    student_maps: tuple[Tensor, ...],
    teacher_maps: tuple[Tensor, ...],
    *,
    temperature: float = 1.0,
    attention_weight: float = ATTENTION_WEIGHT,
) -> Tensor:
    """What the student of ZSKT's authors learns by: the divergence, and attention transfer of all blocks."""
    pairs = zip(student_maps, teacher_maps, strict=True)
    attention = torch.stack([attention_distance(mine, theirs, 2, "squared") for mine, theirs in pairs]).sum()
    return elementwise_divergence(student_BK, teacher_BK, temperature=temperature) + attention_weight * attention


class DAFLTerms(NamedTuple):
    """What a generator learns by in DAFL (Chen et al., ICCV 2019), as DataFree computes it."""

    one_hot: Tensor
    """The cross-entropy of the teacher's logits and the class that they name."""
    balance: Tensor
    """The negative entropy of the batch's mean probabilities."""
    activation: Tensor
    """The negative mean size of the teacher's features."""

    def total(self, *, one_hot: float = 1.0, balance: float = 20.0, activation: float = 0.001) -> Tensor:
        """The weights are those of DataFree's script."""
        return one_hot * self.one_hot + balance * self.balance + activation * self.activation


@full_precision
def dafl_terms(teacher_BK: Tensor, embedding_BD: Tensor) -> DAFLTerms:
    """A class that no image of the batch has any probability of counts 0 in `balance`, where DataFree has NaN."""
    mean_K = teacher_BK.softmax(1).mean(0)
    balance = torch.xlogy(mean_K, mean_K.clamp(min=torch.finfo(mean_K.dtype).tiny)).sum()
    return DAFLTerms(F.cross_entropy(teacher_BK, teacher_BK.argmax(1)), balance, -embedding_BD.abs().mean())
