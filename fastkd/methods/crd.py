"""Contrastive representation distillation (Tian, Krishnan, Isola: "Contrastive representation distillation", ICLR 2020,
arXiv 1910.10699)."""

from dataclasses import dataclass
from typing import Literal

import torch
from torch import nn

from fastkd.data.base import Batch
from fastkd.losses import CRDLoss
from fastkd.methods.base import Context, Method, MethodLoss, up_to_embedding
from fastkd.networks.base import Network, Output
from fastkd.support.errors import UserError


@dataclass(frozen=True, kw_only=True)
class CRDSettings:
    """weight · CRD, on the pooled embeddings of student and teacher."""

    weight: float = 0.8
    embed_dim: int = 128
    """Dimensions of the space that both embeddings are mapped to."""
    negatives: int = 16384
    """How many are drawn for every sample and step, from the other classes."""
    temperature: float = 0.07
    momentum: float = 0.5
    """Share of the old embedding in the bank's new one."""
    replacement: bool = False
    """Whether a negative may be drawn twice (the authors' code: not on CIFAR, but on ImageNet)."""
    positive: Literal["exact", "relaxed"] = "exact"
    """exact: the sample itself; relaxed: any sample of its class."""
    bank_dtype: Literal["float32", "bfloat16"] = "float32"

    def __post_init__(self) -> None:
        for name, least in (("embed_dim", 1), ("negatives", 1)):
            if getattr(self, name) < least:
                raise UserError(f"crd: {name.replace('_', '-')} is at least {least}, got {getattr(self, name)}")
        if not self.temperature > 0:
            raise UserError(f"crd: the temperature is above 0, got {self.temperature}")
        if not 0 <= self.momentum < 1:
            raise UserError(f"crd: the momentum is from 0 to below 1, got {self.momentum}")


class CRD(Method):
    Settings = CRDSettings
    teachers_needed = (1, 1)

    def __init__(self, settings: CRDSettings, context: Context):
        super().__init__(settings, context)
        if len(context.labels.unique()) < 2:
            raise UserError("crd: the training images are of one class, negatives come from the others")
        self.loss = CRDLoss(
            context.student_shapes.embedding.shape[1],
            context.teacher_shapes[0].embedding.shape[1],
            context.samples,
            labels=context.labels,
            embed_dim=settings.embed_dim,
            negatives=settings.negatives,
            temperature=settings.temperature,
            momentum=settings.momentum,
            replacement=settings.replacement,
            positive=settings.positive,
            bank_dtype=getattr(torch, settings.bank_dtype),
            seed=context.seed,
        )

    def reaches(self, student: Network) -> tuple[nn.Module, ...]:
        return up_to_embedding(student)

    def forward(self, student: Output, teachers: tuple[Output, ...], batch: Batch) -> MethodLoss:
        terms = self.loss(student.embedding, teachers[0].embedding, batch.index)
        return MethodLoss(self.settings.weight * terms.total, {"crd": terms.total.detach()})
