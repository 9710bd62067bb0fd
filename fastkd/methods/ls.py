"""Label smoothing (Szegedy et al.: "Rethinking the Inception architecture for computer vision", CVPR 2016), as Tf-KD
compares with it (Yuan et al. 2020, Table 8)."""

from dataclasses import dataclass
from typing import Annotated, Literal

from fastkd.data.base import Batch
from fastkd.losses import LabelSmoothingLoss
from fastkd.methods.base import Context, Method, MethodLoss
from fastkd.networks.base import Output
from fastkd.support.fields import OnlyWith
from fastkd.support.plain import Checked
from fastkd.support.ranges import Share


@dataclass(frozen=True, kw_only=True)
class LSSettings(Checked):
    """Cross-entropy with smoothed labels; no teacher is needed."""

    smoothing: Share = 0.1
    """The probability that the label gives up (Tf-KD's code: 0.1)."""
    spread: Annotated[Literal["others", "all"], OnlyWith("smoothing")] = "others"
    """others: it goes evenly to the other classes (Tf-KD's code); all: to all classes (torch's `label_smoothing`)."""


class LS(Method):
    Settings = LSSettings
    about = "label smoothing, without a teacher"
    is_logit_method = True
    teachers_needed = (0, None)
    reads = ()

    def __init__(self, settings: LSSettings, context: Context):
        super().__init__(settings, context)
        self.loss = LabelSmoothingLoss(smoothing=settings.smoothing, spread=settings.spread)

    def forward(self, student: Output, teachers: tuple[Output, ...], batch: Batch) -> MethodLoss:
        terms = self.loss(student.logits, batch.labels)
        return MethodLoss(terms.total, {"ls": terms.total.detach(), "ce": terms.ce}, terms.hits)
