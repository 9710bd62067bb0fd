"""What the finished stages of a run leave to the later ones."""

from dataclasses import dataclass, field
from pathlib import Path

from torch import Tensor

from fastkd.networks.base import Network
from fastkd.recipes.course import Course, passing_on
from fastkd.recipes.planned import PlannedPrestage, PlannedStage
from fastkd.run.weights import open_network
from fastkd.training.stages import Distill, Stage
from fastkd.training.synchronised import unsynchronise


@dataclass
class Earlier:
    """A run owns one, adds to it after each stage, and hands it to the builder of the next."""

    course: Course
    snapshots: Path | None = None
    """Folder of the weights that a teacher had after its epochs; None, in a dry run: the last ones stand for them."""
    networks: dict[str, Network] = field(default_factory=dict)
    """The networks of finished stages, in eval mode, by their names."""
    passed_on: dict[str, dict[str, Tensor]] = field(default_factory=dict)
    """What later trainings of the same student begin with, by the name of the stage that trained it."""

    def add(self, planned: PlannedStage, stage: Stage) -> None:
        """Adds what a finished stage leaves."""
        unsynchronise(stage)
        if planned.name in passing_on(self.course):
            assert isinstance(stage, Distill)
            self.passed_on[planned.name] = stage.passed_on()
        if not isinstance(planned, PlannedPrestage):
            self.networks[planned.name] = stage.deployed.eval()
        self.networks |= {name: network.eval() for name, network in stage.peers().items()}

    def teacher(self, name: str) -> Network:
        """The network of a stage, or that of one of its epochs: `teacher@60`."""
        stage, at, _ = name.partition("@")
        if not at or self.snapshots is None:
            return self.networks[stage]
        return open_network(self.snapshots / f"{name}.safetensors")
