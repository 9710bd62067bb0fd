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
from fastkd.methods.projectors import PROJECTORS, ProjectedMap
from fastkd.networks.base import Head, Network, Output
from fastkd.networks.uncut import gives_final_map
from fastkd.support.errors import UserError
from fastkd.support.fields import OnlyWith
from fastkd.support.plain import Checked
from fastkd.support.pooling import pooled_to
from fastkd.support.ranges import Temperature, Weight, Width, whole

MAPPED = ("full", "depthwise", "normalised", "orthogonal")
"""The projectors of maps; the other is one of embeddings."""


@dataclass(frozen=True, kw_only=True)
class SimKDSettings(Checked):
    """weight · MSE(projected student map, teacher map), Eq. 3, and nothing else.

    The student's own classifier takes part with a ce_weight or kl_weight only: joint training (Eq. 4, Tables S.4
    and S.5) is weight α, both others 1 - α.
    """

    weight: Weight = 1.0
    factor: Annotated[Width, OnlyWith("projector", ("full", "depthwise"))] = 2
    """r: the projector's inner width is the teacher's divided by it."""
    projector: Literal["full", "depthwise", "vector", "normalised", "orthogonal"] = "full"
    """full: 1x1, 3x3 and 1x1 convolutions; depthwise: the 3x3 is depthwise (ImageNet); vector: a matrix between the
    embeddings (SimKD_v), as it is for a teacher that reads a class token; normalised: SRD's, place by place, brought
    back to the teacher's mean and deviation; orthogonal: VkD's, place by place (not in the paper: what is reused asks
    for the teacher's own scale)."""
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
        if self.reused_blocks and (self.projector == "vector" or self.source == "final_map"):
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
        self.vector = settings.projector == "vector" or not all(map(gives_final_map, context.teacher_shapes))
        if self.vector and settings.projector != "vector":
            self.notes.append("simkd: the teacher's classifier reads no mean of a map: it is taken in the vector form")
        if self.vector:
            self.reads = ("embedding", *(("logits",) if self.joint else ()))
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
        for projection, teacher in zip(self.projections.projectors, teachers, strict=True):
            _observe(projection, self.target(teacher))
        projected = self.projections.each(self.source(student))
        losses = [
            mean_squared_error(x, _as_large_as(x, self.target(teacher)))
            for x, teacher in zip(projected, teachers, strict=True)
        ]
        loss = torch.stack(losses).mean()
        with torch.no_grad():
            counted = ce_loss(self.logits(projected), batch.labels)
        total, terms = self.settings.weight * loss, {"simkd": loss.detach(), "ce": counted.ce}
        if self.joint:
            own = self.logit_loss(student.logits, teachers[0].logits, batch.labels)
            total, terms = total + own.total, terms | {"student_ce": own.ce, "student_kl": own.kl}
        return MethodLoss(total, terms, counted.hits)

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
        else:
            neck = [own.neck] if self.settings.source == "final_map" else _to_map(student)
            head = Head(self.classifier, neck=nn.Sequential(*neck, self.projections, self.tail), pool=self.pool)
        return Deployed(student, blocks, head)

    def _projection(self, student: Tensor, teacher: Tensor) -> nn.Module:
        if self.vector:
            return nn.Linear(student.shape[1], teacher.shape[1], bias=False)
        return _projection(student, teacher, self.settings)


class Deployed(Network):
    """The student's stem and blocks under another head; it shares their weights."""

    def __init__(self, student: Network, blocks: list[nn.Module], head: Head):
        super().__init__()
        self.stem, self.blocks, self.head, self.as_map = student.stem, nn.ModuleList(blocks), head, student.as_map


def _to_map(student: Network) -> list[nn.Module]:
    """What turns the last feature into a map, where that is not what the student's blocks hand on."""
    return [] if isinstance(student.as_map, nn.Identity) else [student.as_map]


class Projections(nn.Module):
    """One projector for each teacher, each at that teacher's size or the student's, whichever is smaller."""

    def __init__(self, projectors: list[nn.Module]):
        super().__init__()
        self.projectors = nn.ModuleList(projectors)

    def each(self, x: Tensor) -> list[Tensor]:
        return [projector(x) for projector in self.projectors]

    def forward(self, x: Tensor) -> Tensor:
        return joined_maps(self.each(x))


def joined_maps(projected: list[Tensor]) -> Tensor:
    """The maps side by side as channels, at the smallest of their sizes."""
    if len(projected) == 1:
        return projected[0]
    if projected[0].ndim == 4:
        smallest = min((x.shape[2:] for x in projected), key=lambda size: size[0])
        projected = [pooled_to(x, smallest) for x in projected]
    return torch.cat(projected, 1)


class MeanOfClassifiers(nn.Module):
    """Reads the teachers' embeddings side by side and averages the logits of their classifiers."""

    def __init__(self, widths: list[int], classifiers: list[nn.Module]):
        super().__init__()
        self.widths, self.classifiers = widths, nn.ModuleList(classifiers)

    def forward(self, embeddings: Tensor) -> Tensor:
        parts = embeddings.split(self.widths, 1)
        return torch.stack([classify(x) for classify, x in zip(self.classifiers, parts, strict=True)]).mean(0)


class Shrink(nn.Module):
    """Average pooling of the student's map to a smaller size."""

    def __init__(self, size: tuple[int, int]):
        super().__init__()
        self.size = size

    def forward(self, x: Tensor) -> Tensor:
        return pooled_to(x, self.size)


def _projection(student: Tensor, teacher: Tensor, settings: SimKDSettings) -> nn.Module:
    channels, goal = student.shape[1], teacher.shape[1]
    if settings.projector in PROJECTORS:
        projector: nn.Module = ProjectedMap(settings.projector, channels, goal)
    else:
        projector = _projector(channels, goal, settings)
    if student.shape[2] <= teacher.shape[2]:
        return projector
    return nn.Sequential(Shrink((teacher.shape[2], teacher.shape[3])), projector)


def _observe(projection: nn.Module, teacher: Tensor) -> None:
    for module in projection.modules():
        if isinstance(module, ProjectedMap):
            module.observe(teacher)


def _projector(channels: int, goal: int, settings: SimKDSettings) -> nn.Sequential:
    inner = goal // settings.factor
    if inner < 1:
        raise UserError(f"simkd: factor is at most {goal}, the teacher's channels, got {settings.factor}")
    groups = inner if settings.projector == "depthwise" else 1
    layers: list[nn.Module] = []
    for convolution, width in (
        (nn.Conv2d(channels, inner, 1, bias=False), inner),
        (nn.Conv2d(inner, inner, 3, padding=1, groups=groups, bias=False), inner),
        (nn.Conv2d(inner, goal, 1, bias=False), goal),
    ):
        layers += [convolution, nn.BatchNorm2d(width), nn.ReLU()]
    return nn.Sequential(*layers)


def _tail(teacher: Network, reused: int) -> list[nn.Module]:
    """The teacher's part between the projected map and the pool: nothing where the map is the teacher's final one."""
    return [*list(teacher.blocks)[len(teacher.blocks) - reused :], teacher.head.neck] if reused else []


def _as_large_as(projected: Tensor, teacher: Tensor) -> Tensor:
    return pooled_to(teacher, projected.shape[2:]) if teacher.ndim == 4 else teacher
