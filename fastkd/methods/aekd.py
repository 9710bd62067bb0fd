"""Adaptive ensemble knowledge distillation (Du et al.: "Agree to disagree: adaptive ensemble knowledge distillation in
gradient space", NeurIPS 2020): AEKD on logits, and AEKD-F on features beside it (`--method aekd+aekd_f`)."""

from dataclasses import dataclass
from typing import Annotated

import torch
from torch import Tensor, nn

from fastkd.data.base import Batch
from fastkd.losses import AEKDLoss
from fastkd.losses.features import mean_squared_error
from fastkd.losses.smallest_combination import MOST, smallest_combination
from fastkd.methods.base import Context, Method, MethodLoss, up_to_block, weighted
from fastkd.methods.fitnet import hint_place
from fastkd.methods.regressors import Regressor
from fastkd.networks.base import Network, Output
from fastkd.support.fields import OnlyWith, OnlyWithTeachers
from fastkd.support.plain import Checked
from fastkd.support.ranges import EpochsOrNone, Place, Positive, Temperature, Weight

SEVERAL = OnlyWithTeachers(2)
BOUND = OnlyWithTeachers(3, unless=OnlyWith("unit_length", False))
"""When the cap may bind: the shortest combination of two vectors of unit length is their mean."""


@dataclass(frozen=True, kw_only=True)
class AEKDSettings(Checked):
    """ce_weight · CE + kl_weight · Σ w_m τ² KL(teacher m ‖ student), w the shortest combination of their gradients.

    Gradients are those with respect to the student's logits, averaged over the batch.
    """

    ce_weight: Weight = 1.0
    """CA-MKD's code has this default and the next two (the authors' code has α = 0.9 for KL)."""
    kl_weight: Weight = 1.0
    temperature: Annotated[Temperature, OnlyWith("kl_weight")] = 4.0
    cap: Annotated[Positive, OnlyWith("kl_weight"), SEVERAL, BOUND] = 0.6
    """C: the most that one teacher may have."""
    unit_length: Annotated[bool, OnlyWith("kl_weight"), SEVERAL] = False
    """Normalise the gradients first."""
    standardise: Annotated[bool, OnlyWith("kl_weight")] = False
    """KL compares standardised logits (see kd); the gradients are then those with respect to them."""


class AEKD(Method):
    Settings = AEKDSettings
    about = "teachers, weighted by gradients"
    relates_samples = True
    is_logit_method = True
    teachers_needed = (1, MOST)
    reads = ("logits",)

    def __init__(self, settings: AEKDSettings, context: Context):
        super().__init__(settings, context)
        self.loss = AEKDLoss(
            ce_weight=settings.ce_weight,
            kl_weight=settings.kl_weight,
            temperature=settings.temperature,
            cap=settings.cap,
            unit_length=settings.unit_length,
            standardise=settings.standardise,
        )

    def forward(self, student: Output, teachers: tuple[Output, ...], batch: Batch) -> MethodLoss:
        terms = self.loss(student.logits, [teacher.logits for teacher in teachers], batch.labels)
        return MethodLoss(terms.total, {"ce": terms.ce, "kl": terms.kl}, terms.hits)


@dataclass(frozen=True, kw_only=True)
class AEKDFSettings(Checked):
    """weight · Σ w_m · hint loss to teacher m (as in FitNets), w from its gradients at the student's map."""

    weight: Weight = 100.0
    """The default of CA-MKD's script."""
    block: Place = 2
    """Block, from 1, behind which the hints are taken."""
    cap: Annotated[Positive, OnlyWith("weight"), SEVERAL, BOUND] = 0.6
    """C: the most that one teacher may have."""
    unit_length: Annotated[bool, OnlyWith("weight"), SEVERAL] = True
    """Normalise the gradients first."""
    idle_epochs: Annotated[EpochsOrNone, OnlyWith("weight")] = 1
    """First epochs without this loss (CA-MKD's code)."""


class AEKDF(Method):
    Settings = AEKDFSettings
    about = "the same on features, beside aekd"
    relates_samples = True
    teachers_needed = (1, MOST)
    active: Tensor

    def __init__(self, settings: AEKDFSettings, context: Context):
        super().__init__(settings, context)
        student, teachers = context.student_shapes.features, [shapes.features for shapes in context.teacher_shapes]
        self.place = hint_place("aekd_f", settings.block, len(student), *(len(teacher) for teacher in teachers))
        source = student[self.place].shape[1:]
        self.regressors = nn.ModuleList(Regressor(source, teacher[self.place].shape[1:]) for teacher in teachers)
        self.register_buffer("active", torch.ones(()), persistent=False)

    def reaches(self, student: Network) -> tuple[nn.Module, ...]:
        return up_to_block(student, self.settings.block)

    def forward(self, student: Output, teachers: tuple[Output, ...], batch: Batch) -> MethodLoss:
        source, losses, gradients = student.features[self.place], [], []
        for regressor, teacher in zip(self.regressors, teachers, strict=True):
            assert isinstance(regressor, Regressor)
            target = regressor.target(teacher.features[self.place])
            losses.append(mean_squared_error(regressor(source), target))
            gradients.append(regressor.mse_gradient(source, target).mean(0).flatten())
        weights = smallest_combination(torch.stack(gradients), self.settings.cap, unit_length=self.settings.unit_length)
        hints = torch.stack(losses)
        loss = (weights.to(hints.dtype) * hints).sum()
        return weighted("hint", self.settings.weight * self.active, loss)

    def begin_epoch(self, epoch: int) -> None:
        self.active.fill_(0.0 if epoch < self.settings.idle_epochs else 1.0)
