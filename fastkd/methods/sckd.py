"""Student customized knowledge distillation (Zhu, Wang: "Student customized knowledge distillation: bridging the gap
between student and teacher", ICCV 2021): the teacher is heard only where it pulls with the labels."""

from dataclasses import dataclass
from typing import Annotated, Literal

from fastkd.data.base import Batch
from fastkd.losses import KDLoss, ce_loss
from fastkd.methods.base import Context, Gate, Method, MethodLoss
from fastkd.networks.base import Output
from fastkd.support.fields import OnlyWith
from fastkd.support.plain import Checked
from fastkd.support.ranges import Temperature, Weight, between


@dataclass(frozen=True, kw_only=True)
class SCKDSettings(Checked):
    """ce_weight · CE + gate · kl_weight · τ² KL(teacher ‖ student); the gate is 0 or 1, anew for each batch."""

    kl_weight: Weight = 0.9
    """Weight of the KL term (a choice: that of kd)."""
    ce_weight: Weight = 0.1
    """Weight of the cross-entropy with the labels (a choice: that of kd)."""
    temperature: Annotated[Temperature, OnlyWith("kl_weight")] = 4.0
    """τ of the KL term; the cross-entropy is taken at 1."""
    standardise: Annotated[bool, OnlyWith("kl_weight")] = False
    """KL compares standardised logits (see kd)."""
    least_cosine: Annotated[float, between(-1, 1)] = 0.0
    """The gate is open where the gradients of CE and KL have this cosine at least; 0 is the paper's best."""
    compared: Literal["all", "classifier"] = "all"
    """The parameters of the student whose gradients are compared. Which ones the paper means is not known: all of them
    are a choice."""


class SCKD(Method):
    """Methods that are joined to it have gates of their own: `sckd+at` adds AT where it pulls with the labels."""

    Settings = SCKDSettings
    about = "kd where its gradient agrees"
    is_logit_method = True
    teachers_needed = (1, 1)
    reads = ("logits",)
    takes_sparse = True

    def __init__(self, settings: SCKDSettings, context: Context):
        super().__init__(settings, context)
        self.gate = Gate(settings.least_cosine, settings.compared)
        self.loss = KDLoss(
            temperature=settings.temperature,
            kl_weight=settings.kl_weight,
            ce_weight=0.0,
            standardise=settings.standardise,
        )

    def forward(self, student: Output, teachers: tuple[Output, ...], batch: Batch) -> MethodLoss:
        labels = ce_loss(student.logits, batch.labels)
        teacher = self.loss(student.logits, teachers[0].logits, batch.labels)
        terms = {"ce": labels.ce, "kl": teacher.kl}
        return MethodLoss(self.settings.ce_weight * labels.total, terms, labels.hits, teacher.total)
