"""What CMI's images are made by: a teacher's statistics and labels, a student's mistakes, and contrast."""

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from fastkd.losses import ce_loss
from fastkd.networks.base import Network
from fastkd.synthesis.contrastive import Head, contrastive_loss
from fastkd.synthesis.losses import agreed_adversarial_loss
from fastkd.synthesis.norms import instance_features, norm_inputs, statistics_distances
from fastkd.synthesis.views import GlobalDraws, LocalDraws, global_view, local_view, normalised


class Weights(NamedTuple):
    """The terms' weights, by default those of DataFree's script for CMI from scratch."""

    statistics: float = 1.0
    label: float = 1.0
    adversarial: float = 0.5
    contrast: float = 0.8


WEIGHTS = Weights()


class Views(NamedTuple):
    """How the images of a step are looked at."""

    whole: GlobalDraws
    part: LocalDraws


class InversionTerms(NamedTuple):
    statistics: Tensor
    """How far the global views are from the statistics of the teacher's BatchNorms."""
    label: Tensor
    """The cross-entropy of the teacher's logits and the labels that were drawn."""
    adversarial: Tensor
    contrast: Tensor
    features: Tensor
    """[B,2C], a constant: the features of the local and the global views, a row of the bank each."""

    def total(self, weights: Weights) -> Tensor:
        terms = (self.statistics, self.label, self.adversarial, self.contrast)
        return torch.stack([weight * term for weight, term in zip(weights, terms, strict=True)]).sum()


@dataclass(frozen=True, kw_only=True)
class Inversion:
    """The networks that images are made for, and how their mistakes are weighed. Both are in eval mode meanwhile."""

    teacher: Network
    student: Network
    head: Head
    mean: Tensor
    """[3]: that of the channels the teacher was trained on, where white is 1."""
    std: Tensor
    weights: Weights = WEIGHTS
    temperature: float = 0.1
    """The contrast's."""

    def terms(self, images_BCHW: Tensor, labels_B: Tensor, views: Views, bank_N2C: Tensor | None) -> InversionTerms:
        """What images in [0, 1] are made by; bank_N2C: the rows that are drawn of the bank, see `contrastive_loss`."""
        whole, part = global_view(images_BCHW, views.whole), local_view(images_BCHW, views.part)
        whole, part = (normalised(view, self.mean, self.std) for view in (whole, part))
        with norm_inputs(self.teacher) as of_whole:
            said = self.teacher(whole).logits
        with norm_inputs(self.teacher) as of_part:
            self.teacher(part)
        local_BC, global_BC = instance_features(of_part), instance_features(of_whole)
        return InversionTerms(
            statistics_distances(of_whole).sum(),
            ce_loss(said, labels_B).total,
            agreed_adversarial_loss(self.student(whole).logits, said),
            contrastive_loss(local_BC, global_BC, bank_N2C, head=self.head, temperature=self.temperature),
            torch.cat([local_BC, global_BC], 1).detach(),
        )
