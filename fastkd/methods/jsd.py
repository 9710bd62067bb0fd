"""The generalised Jensen-Shannon divergence (Agarwal et al.: "On-policy distillation of language models: learning from
self-generated mistakes", ICLR 2024, arXiv 2306.13649)."""

from dataclasses import dataclass
from typing import Annotated

from fastkd.data.base import Batch
from fastkd.losses import JSDLoss
from fastkd.methods.base import Context, Method, MethodLoss
from fastkd.networks.base import Output
from fastkd.support.errors import UserError
from fastkd.support.fields import OnlyWith
from fastkd.support.plain import Checked
from fastkd.support.ranges import Decay, Share, Temperature, Weight


@dataclass(frozen=True, kw_only=True)
class JSDSettings(Checked):
    """ce_weight · CE + weight · JSD, without τ².

    The paper is on language models, without a cross-entropy; weight and temperature are its defaults.
    """

    ce_weight: Weight = 1.0
    weight: Weight = 1.0
    beta: Annotated[Share, OnlyWith("weight")] = 0.5
    """The teacher's share of the mixture; at 0 it is KL(teacher ‖ student), at 1 KL(student ‖ teacher)."""
    temperature: Annotated[Temperature, OnlyWith("weight")] = 1.0
    standardise: Annotated[bool, OnlyWith("weight")] = False
    """The networks are compared by standardised logits (see kd)."""
    floor: Annotated[Decay, OnlyWith("weight")] = 0.0
    """A probability below it counts as it, in both networks, without a gradient (TRL's trainers: 1e-8); 0 for none."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.floor and self.standardise:
            raise UserError("jsd: floor is for logits as they are, not standardised ones")


class JSD(Method):
    Settings = JSDSettings
    about = "softened logits, Jensen-Shannon"
    is_logit_method = True
    teachers_needed = (1, 1)
    reads = ("logits",)
    takes_sparse = True

    def __init__(self, settings: JSDSettings, context: Context):
        super().__init__(settings, context)
        self.loss = JSDLoss(
            temperature=settings.temperature,
            beta=settings.beta,
            weight=settings.weight,
            ce_weight=settings.ce_weight,
            standardise=settings.standardise,
            floor=settings.floor,
        )

    def forward(self, student: Output, teachers: tuple[Output, ...], batch: Batch) -> MethodLoss:
        terms = self.loss(student.logits, teachers[0].logits, batch.labels)
        return MethodLoss(terms.total, {"ce": terms.ce, "jsd": terms.jsd}, terms.hits)
