"""Contrastive representation distillation (Tian, Krishnan, Isola: "Contrastive representation distillation", ICLR 2020,
arXiv 1910.10699)."""

from dataclasses import dataclass
from typing import Annotated, Literal

import torch
from torch import nn

from fastkd.data.base import Batch
from fastkd.losses import CRDLoss
from fastkd.methods.base import Context, Method, MethodLoss, up_to_embedding
from fastkd.networks.base import Network, Output
from fastkd.support.errors import UserError
from fastkd.support.fields import OnlyWith
from fastkd.support.plain import Checked
from fastkd.support.ranges import Decay, Temperature, Weight, Width, whole


@dataclass(frozen=True, kw_only=True)
class CRDSettings(Checked):
    """weight · CRD, on the pooled embeddings of student and teacher."""

    weight: Weight = 0.8
    embed_dim: Width = 128
    """Dimensions of the space that both embeddings are mapped to."""
    negatives: Annotated[int, whole(1, 2**24), OnlyWith("weight")] = 16384
    """How many are drawn for every sample and step, from the other classes."""
    temperature: Annotated[Temperature, OnlyWith("weight")] = 0.07
    momentum: Annotated[Decay, OnlyWith("weight")] = 0.5
    """Share of the old embedding in the bank's new one."""
    replacement: Annotated[bool, OnlyWith("weight")] = False
    """Whether a negative may be drawn twice (the authors' code: not on CIFAR, but on ImageNet)."""
    positive: Annotated[Literal["exact", "relaxed"], OnlyWith("weight")] = "exact"
    """exact: the sample itself; relaxed: any sample of its class."""
    bank_dtype: Annotated[Literal["float32", "bfloat16"], OnlyWith("weight")] = "float32"


class CRD(Method):
    Settings = CRDSettings
    about = "contrast with a memory bank"
    teachers_needed = (1, 1)
    remembers_images = True
    reads = ("embedding",)

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

    def begin_step(self, batch: Batch) -> None:
        self.loss.draw_ahead(batch.index, sizes=batch.place.sizes, first=batch.place.first)

    def forward(self, student: Output, teachers: tuple[Output, ...], batch: Batch) -> MethodLoss:
        place = {"sizes": batch.place.sizes, "first": batch.place.first}
        terms = self.loss(student.embedding, teachers[0].embedding, batch.index, **place)
        return MethodLoss(self.settings.weight * terms.total, {"crd": terms.total.detach()})
