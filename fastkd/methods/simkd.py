"""SimKD (Chen, Mei, Zhang, Wang, Feng, Chen: "Knowledge distillation with the reused teacher classifier", CVPR 2022,
arXiv 2203.14001).

The student's blocks learn to give, behind a projector, the map that the teacher's classifier reads; this classifier is
then the student's own. What is evaluated and exported is `deploy`: student blocks, projector, teacher's classifier.
"""

from dataclasses import dataclass
from typing import Annotated, Literal

import torch
from torch import Tensor, nn

from fastkd.data.base import Batch
from fastkd.losses import KDLoss, ce_loss
from fastkd.losses.features import mean_squared_error
from fastkd.losses.frozen import Frozen
from fastkd.methods.base import Context, Method, MethodLoss, up_to_block, up_to_embedding
from fastkd.methods.reused import (
    MAPPED,
    NARROWED,
    VECTORS,
    Deployed,
    MeanOfClassifiers,
    Projections,
    joined_maps,
    observe,
    projection,
)
from fastkd.networks.base import Head, Network, Output
from fastkd.networks.uncut import gives_final_map
from fastkd.support.errors import UserError
from fastkd.support.fields import OnlyWith
from fastkd.support.plain import Checked
from fastkd.support.pooling import pooled_to
from fastkd.support.ranges import Temperature, Weight, Width, whole


@dataclass(frozen=True, kw_only=True)
class SimKDSettings(Checked):
    """weight · MSE(projected student map, teacher map), Eq. 3, and nothing else.

    loss moves the comparison behind the reused classifier, or to both places (Table S.7).

    The student's own classifier takes part with a ce_weight or kl_weight only: joint training (Eq. 4, Tables S.4
    and S.5) is weight α, both others 1 - α.
    """

    weight: Weight = 1.0
    loss: Literal["input", "output", "both"] = "input"
    """input: MSE of what the reused classifier reads, map by map; output: of the logits that it makes of it; both: the
    sum of the two (the paper prints squared lengths of pooled vectors, and no reduction)."""
    factor: Annotated[Width, OnlyWith("projector", NARROWED)] = 2
    """r: the projector's inner width is the teacher's divided by it."""
    projector: Literal["full", "depthwise", "1x1", "1x1-1x1", "vector", "vector-full", "normalised", "orthogonal"] = (
        "full"
    )
    """full: 1x1, 3x3 and 1x1 convolutions; depthwise: the 3x3 is depthwise (ImageNet); 1x1 and 1x1-1x1: without it
    (Table 5, which prints no inner width); vector: a matrix between the embeddings (SimKD_v), as it is for a teacher
    that reads a class token; vector-full: three layers between them, each with BatchNorm and ReLU (section 4.3);
    normalised: SRD's, place by place, brought back to the teacher's mean and deviation; orthogonal: VkD's, place by
    place (not in the paper: what is reused asks for the teacher's own scale)."""
    source: Annotated[Literal["feature", "final_map"], OnlyWith("projector", MAPPED)] = "feature"
    """feature: the student's last feature (the authors' code); final_map: the map that it pools (what the paper's
    parameter counts of ShuffleNetV2 and MobileNetV2 say)."""
    reused_blocks: Annotated[int, whole(0, 1_000)] = 0
    """Last blocks of the teacher that are reused with its classifier: 1 is SimKD+, 2 is SimKD++."""
    ce_weight: Weight = 0.0
    """Weight of the cross-entropy of the student's own classifier."""
    kl_weight: Weight = 0.0
    """Weight of KL between the teacher and the student's own classifier."""
    temperature: Annotated[Temperature, OnlyWith("kl_weight")] = 4.0
    """Temperature of this KL."""
    standardise: Annotated[bool, OnlyWith("kl_weight")] = False
    """KL compares standardised logits (see kd)."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.reused_blocks and (self.projector in VECTORS or self.source == "final_map"):
            raise UserError(
                "simkd: reused blocks start from a feature: they need source feature and no vector projector"
            )


class SimKD(Method):
    """There is a projector for each teacher (Table 6 has several): the losses are averaged, and so are the logits."""

    Settings = SimKDSettings
    about = "the teacher's classifier, reused"
    is_logit_method = True
    mixed_labels = "greater"  # as it is called once a batch: its projector holds BatchNorms

    def __init__(self, settings: SimKDSettings, context: Context):
        super().__init__(settings, context)
        reused, count = settings.reused_blocks, len(context.teachers)
        self.joint = bool(settings.ce_weight or settings.kl_weight)
        self.vector = settings.projector in VECTORS or not all(map(gives_final_map, context.teacher_shapes))
        self.projector = settings.projector if settings.projector in VECTORS or not self.vector else "vector"
        if self.projector != settings.projector:
            self.notes.append("simkd: the teacher's classifier reads no mean of a map: it is taken in the vector form")
        if self.vector:
            self.reads = ("embedding", *(("logits",) if self.joint or settings.loss != "input" else ()))
        if self.joint and count > 1:
            raise UserError(f"simkd: a KL of the student's own classifier has one teacher, got {count}")
        if reused and count > 1:
            raise UserError(f"simkd: the blocks of one teacher are reused, got {count} teachers")
        if reused and self.vector:
            raise UserError("simkd: reused blocks need a teacher whose classifier reads the mean of its last map")
        if reused and reused >= min(
            len(context.student.blocks), *(len(teacher.blocks) for teacher in context.teachers)
        ):
            raise UserError(f"simkd: reused-blocks {reused} leaves no block to the student or the teacher")
        source = self.source(context.student_shapes)
        self.projections = Projections(
            [self._projection(source, self.target(shapes)) for shapes in context.teacher_shapes]
        )
        self.tail = Frozen(*_tail(context.teachers[0], reused))
        self.pool = nn.Identity() if self.vector else Frozen(context.teachers[0].head.pool)
        widths = [shapes.embedding.shape[1] for shapes in context.teacher_shapes]
        classifiers = [teacher.classifier for teacher in context.teachers]
        self.classifier = Frozen(classifiers[0] if count == 1 else MeanOfClassifiers(widths, classifiers))
        self.logit_loss = KDLoss(
            temperature=settings.temperature,
            kl_weight=settings.kl_weight,
            ce_weight=settings.ce_weight,
            standardise=settings.standardise,
        )

    def reaches(self, student: Network) -> tuple[nn.Module, ...]:
        """The student's own classifier is replaced, and not trained unless it takes part."""
        if self.joint:
            return (student,)
        if self.vector or self.settings.source == "final_map":
            return up_to_embedding(student)
        return up_to_block(student, len(student.blocks) - self.settings.reused_blocks)

    def forward(self, student: Output, teachers: tuple[Output, ...], batch: Batch) -> MethodLoss:
        for projector, teacher in zip(self.projections.projectors, teachers, strict=True):
            observe(projector, self.target(teacher))
        projected = self.projections.each(self.source(student))
        loss, logits = self.alignment(projected, teachers)
        with torch.no_grad():
            counted = ce_loss(self.logits(projected) if logits is None else logits, batch.labels)
        total, terms = self.settings.weight * loss, {"simkd": loss.detach(), "ce": counted.ce}
        if self.joint:
            own = self.logit_loss(student.logits, teachers[0].logits, batch.labels)
            total, terms = total + own.total, terms | {"student_ce": own.ce, "student_kl": own.kl}
        return MethodLoss(total, terms, counted.hits)

    def alignment(self, projected: list[Tensor], teachers: tuple[Output, ...]) -> tuple[Tensor, Tensor | None]:
        """The loss between what is projected and what the teachers have, where the settings compare it; the logits of
        the reused classifier, where the loss is of them."""
        losses, logits = [], None
        if self.settings.loss != "output":
            pairs = zip(projected, teachers, strict=True)
            own = [mean_squared_error(x, _as_large_as(x, self.target(teacher))) for x, teacher in pairs]
            losses.append(torch.stack(own).mean())
        if self.settings.loss != "input":
            logits = self.logits(projected)
            losses.append(mean_squared_error(logits, torch.stack([teacher.logits for teacher in teachers]).mean(0)))
        return torch.stack(losses).sum(), logits

    def source(self, student: Output) -> Tensor:
        if self.vector:
            return student.embedding
        if self.settings.source == "final_map":
            return student.final_map
        return student.features[-1 - self.settings.reused_blocks]

    def target(self, teacher: Output) -> Tensor:
        if self.vector:
            return teacher.embedding
        reused = self.settings.reused_blocks
        return teacher.features[-1 - reused] if reused else teacher.final_map

    def logits(self, projected: list[Tensor]) -> Tensor:
        """The logits of the reused classifier, or the mean over those of several teachers."""
        joined = joined_maps(projected)
        return self.classifier(joined if joined.ndim == 2 else self.pool(self.tail(joined)))

    def deploy(self, student: Network) -> Network:
        blocks = list(student.blocks)[: len(student.blocks) - self.settings.reused_blocks]
        own = student.head
        if self.vector:
            head = Head(self.classifier, neck=own.neck, pool=nn.Sequential(own.pool, self.projections))
            return Deployed(student, blocks, head, (own.neck, own.pool))
        neck = [own.neck] if self.settings.source == "final_map" else _to_map(student)
        head = Head(self.classifier, neck=nn.Sequential(*neck, self.projections, self.tail), pool=self.pool)
        return Deployed(student, blocks, head, (*neck, own.pool))

    def tested_beside(self, student: Network) -> dict[str, Network]:
        """The student's own classifier, where it takes part (Tables S.4 and S.5 have a column for each)."""
        return {"own classifier": student} if self.joint else {}

    def _projection(self, student: Tensor, teacher: Tensor) -> nn.Module:
        inner, factor = teacher.shape[1] // self.settings.factor, self.settings.factor
        if self.projector in NARROWED and inner < 1:
            raise UserError(f"simkd: factor is at most {teacher.shape[1]}, the teacher's channels, got {factor}")
        return projection(self.projector, student, teacher, inner)


def _to_map(student: Network) -> list[nn.Module]:
    """What turns the last feature into a map, where that is not what the student's blocks hand on."""
    return [] if isinstance(student.as_map, nn.Identity) else [student.as_map]


def _tail(teacher: Network, reused: int) -> list[nn.Module]:
    """The teacher's part between the projected map and the pool: nothing where the map is the teacher's final one."""
    return [*list(teacher.blocks)[len(teacher.blocks) - reused :], teacher.head.neck] if reused else []


def _as_large_as(projected: Tensor, teacher: Tensor) -> Tensor:
    return pooled_to(teacher, projected.shape[2:]) if teacher.ndim == 4 else teacher
