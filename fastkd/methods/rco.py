"""Route constrained optimisation (Jin et al.: "Knowledge distillation via route constrained optimization", ICCV 2019,
arXiv 1904.09149): the student learns from points along the teacher's own training, one after the other."""

from dataclasses import dataclass
from typing import Annotated

from fastkd.methods.base import Waypoints
from fastkd.methods.kd import KD, KDSettings
from fastkd.support.ranges import whole


@dataclass(frozen=True, kw_only=True)
class RCOSettings(KDSettings):
    """ce_weight · CE + kl_weight · τ² KL(anchor ‖ student).

    The anchors are snapshots of the teacher at equal distances in its training (EEI), the last at its end. Weights and
    temperature are our choice: neither RCO's nor SFTN's paper prints what the latter used.
    """

    anchors: Annotated[int, whole(1, 1_000)] = 4
    """How many snapshots of the teacher the student learns from."""
    restart: bool = False
    """Train the student as long as the recipe says for each anchor (SFTN's RCO-EEI-4), instead of dividing one training
    among them (its RCO-one-stage-EEI)."""


class RCO(KD):
    """KD from one anchor at a time: the engine puts it in the teacher's place."""

    Settings = RCOSettings
    about = "kd along the teacher's own training"

    @classmethod
    def waypoints(cls, settings: RCOSettings) -> Waypoints:
        return Waypoints(settings.anchors, settings.restart)
