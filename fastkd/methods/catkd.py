"""Class attention transfer (Guo, Yan, Li, Lin: "Class attention transfer based knowledge distillation", CVPR 2023).

The authors' tables print the best epoch.
"""

from dataclasses import dataclass
from typing import Annotated

from fastkd.data.base import Batch
from fastkd.losses.features import CATLoss, Resolution
from fastkd.methods.base import Context, Method, MethodLoss, weighted
from fastkd.methods.class_maps import Classifiers, class_map
from fastkd.networks.base import Output
from fastkd.support.fields import OnlyWith
from fastkd.support.plain import Checked
from fastkd.support.ranges import Weight


@dataclass(frozen=True, kw_only=True)
class CATKDSettings(Checked):
    """weight · mean squared difference of both networks' class activation maps, over samples, classes and places.

    The authors' weights on CIFAR-100 go from 0.7 to 600 by the pair, 0.5 to 80 without normalisation: means over
    classes and places make the term small.
    """

    weight: Weight = 400.0
    resolution: Annotated[Resolution, OnlyWith("weight")] = 2
    """Height and width that both maps are pooled to."""
    normalise: Annotated[bool, OnlyWith("weight")] = True
    """Compare each class's map divided by its length."""
    binary: Annotated[bool, OnlyWith("weight")] = False
    """Replace the teacher's map by 1 where it is above the mean of its absolute values, else 0."""


class CATKD(Method):
    """A class activation map is what the classifier says at each place of the map that is pooled."""

    Settings = CATKDSettings
    about = "class activation maps"
    teachers_needed = (1, 1)

    def __init__(self, settings: CATKDSettings, context: Context):
        super().__init__(settings, context)
        self.classifiers = Classifiers("catkd", context)
        how = {"resolution": settings.resolution, "normalise": settings.normalise, "binary": settings.binary}
        self.loss = CATLoss(**how)

    def forward(self, student: Output, teachers: tuple[Output, ...], batch: Batch) -> MethodLoss:
        source = class_map(self.classifiers.of_student, student.final_map)
        target = class_map(self.classifiers.of_teacher, teachers[0].final_map)
        return weighted("cat", self.settings.weight, self.loss(source, target))
