"""How long the rest of a stage will take, from how long its steps and its evaluations take."""

from dataclasses import dataclass


@dataclass
class Pace:
    """The pace of one stage: its steps are timed while they go, its evaluations when they are done."""

    epochs: int
    steps_per_epoch: int
    eval_every: int
    """Epochs between evaluations; there is one after the last epoch, too."""
    evaluates: bool = True
    evaluation_seconds: float = 0.0
    """How long the last evaluation took; 0 before there was one."""
    beginning_seconds: float = 0.0
    """How long it took to begin the last epoch: some make images then."""

    @property
    def steps(self) -> int:
        return self.epochs * self.steps_per_epoch

    def evaluation_is_due(self, epoch: int) -> bool:
        """Whether there is an evaluation after `epoch` epochs."""
        return self.evaluates and (epoch % self.eval_every == 0 or epoch == self.epochs)

    def seconds_left(self, done: int, per_step: float) -> float:
        """The time to the end of the stage after `done` steps, at so many seconds a step."""
        first = done // self.steps_per_epoch + 1
        evaluations = sum(self.evaluation_is_due(epoch) for epoch in range(first, self.epochs + 1))
        beginnings = max(self.epochs - first, 0) * self.beginning_seconds
        return (self.steps - done) * per_step + evaluations * self.evaluation_seconds + beginnings

    def seconds_per_epoch(self, per_step: float) -> float:
        share = self.evaluation_seconds / self.eval_every if self.evaluates else 0.0
        return self.steps_per_epoch * per_step + share + self.beginning_seconds
