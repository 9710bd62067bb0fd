"""How long the rest of a run will take: a guess, from how long its stages took so far."""

import statistics
from collections.abc import Sequence

from fastkd.recipes.course import Course
from fastkd.recipes.planned import PlannedTraining


class Outlook:
    """What is known of the stages of a run, over all its seeds."""

    def __init__(self, course: Course, seeds: int, *, once: Sequence[str] = ()):
        """once: the stages that one seed trains for all of them."""
        self.epochs = {stage.name: stage.training.epochs for stage in course if isinstance(stage, PlannedTraining)}
        self.wanted = {name: 1 if name in once else seeds for name in self.epochs}
        """How many seeds train a stage."""
        self.took: dict[str, list[float]] = {name: [] for name in self.epochs}
        """Seconds of a stage in each seed that has finished it."""

    def finished(self, name: str, seconds: float) -> None:
        """Takes note of a stage that one more seed has finished, now or before."""
        if len(self.took.get(name, ())) < self.wanted.get(name, 0):
            self.took[name].append(seconds)

    def seconds_after(self, name: str, per_epoch: float) -> float:
        """The time that the trainings after the running one will take.

        per_epoch: seconds of an epoch of the running stage. A stage that no seed has finished yet is taken to need as
        long for an epoch as those that are known do on average.
        """
        known = {stage: statistics.fmean(seconds) for stage, seconds in self.took.items() if seconds}
        known.setdefault(name, per_epoch * self.epochs[name])
        pace = sum(known.values()) / sum(self.epochs[stage] for stage in known)
        needs = {stage: known.get(stage, pace * epochs) for stage, epochs in self.epochs.items()}
        to_come = {stage: self.wanted[stage] - len(self.took[stage]) - (stage == name) for stage in self.epochs}
        return sum(seconds * to_come[stage] for stage, seconds in needs.items())
