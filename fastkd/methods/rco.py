"""Route constrained optimisation (Jin et al.: "Knowledge distillation via route constrained optimization", ICCV 2019,
arXiv 1904.09149): the student learns from points along the teacher's own training, one after the other."""

from dataclasses import dataclass

from fastkd.methods.base import Waypoints, at_least
from fastkd.methods.kd import KD, KDSettings


@dataclass(frozen=True, kw_only=True)
class RCOSettings(KDSettings):
    """ce_weight · CE + kl_weight · τ² KL(anchor ‖ student).

    The anchors stand at equal distances in the teacher's training (EEI), the last at its end. Weights and temperature
    are our choice: neither RCO's nor SFTN's paper prints what the latter used.
    """

    anchors: int = 4
    restart: bool = False
    """A whole training of the student for each anchor, one after the other (SFTN's RCO-EEI-4), instead of one training
    that is divided among them (its RCO-one-stage-EEI)."""

    def __post_init__(self) -> None:
        super().__post_init__()
        at_least("rco", 1, anchors=self.anchors)


class RCO(KD):
    """One of the anchors at a time: the engine puts it in the teacher's place."""

    Settings = RCOSettings

    @classmethod
    def waypoints(cls, settings: RCOSettings) -> Waypoints:
        return Waypoints(settings.anchors, settings.restart)
