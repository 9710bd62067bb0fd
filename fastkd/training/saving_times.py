"""When a training is saved between the ends of its epochs: from time to time, and when somebody asks the run to stop.

torchrun kills what it has asked to stop after thirty seconds, and so do schedulers. Several processes can only stop
after the same step, which they agree on by a message: often where steps are slow, seldom where they are fast.
"""

import time

from fastkd.support.distributed import largest_of_all, world_size
from fastkd.support.interrupt import Interrupt
from fastkd.training.replays import STEPS

CHECKPOINT_SECONDS = 600.0
"""Seconds of training between checkpoints inside an epoch."""
AGREE_SECONDS = 5.0
"""Seconds of training between agreements, at most, unless one step takes longer."""
AGREE_STEPS = tuple(steps for steps in range(STEPS, 0, -1) if STEPS % steps == 0)
"""Steps between agreements: a replay of several steps ends at each of them, whichever it is."""
LONG_EVALUATION = 10.0
"""Seconds of an evaluation, behind which a signal would wait for too long."""


class SavingTimes:
    """Says after which steps to save; with several processes it is asked after every step, in each of them."""

    def __init__(self, interrupt: Interrupt):
        self.interrupt = interrupt
        self.saved_at = time.monotonic()
        self.agree_every = 1
        """Steps between agreements, the same in every process."""
        self._agreed = (time.monotonic(), 0)
        """When the processes agreed the last time, and after which step of the epoch."""

    def saved(self) -> None:
        self.saved_at = time.monotonic()

    def are_asked(self, step: int) -> bool:
        """Whether the processes agree after so many steps of the epoch."""
        return world_size() == 1 or step % self.agree_every == 0

    def is_due(self, step: int) -> bool:
        """Whether to save after so many steps of the epoch."""
        if world_size() == 1:
            return self._is_wanted()
        return self.are_asked(step) and self._is_agreed(step)

    def is_due_before_evaluation(self, seconds: float) -> bool:
        """Whether to save after an epoch's last step, in front of an evaluation that will take so many seconds."""
        asked, since = bool(self.interrupt.requested), time.monotonic() - self.saved_at
        wanted, longest = largest_of_all(int(asked or since > LONG_EVALUATION), int(seconds))
        return bool(wanted) and longest > LONG_EVALUATION

    def _is_wanted(self) -> bool:
        return bool(self.interrupt.requested) or time.monotonic() - self.saved_at > CHECKPOINT_SECONDS

    def _is_agreed(self, step: int) -> bool:
        (at, before), now = self._agreed, time.monotonic()
        each = (now - at) / (step - before) if step > before else 0.0
        wanted, microseconds = largest_of_all(int(self._is_wanted()), int(each * 1e6))
        if microseconds:
            self.agree_every = steps_between(microseconds / 1e6)
        self._agreed = now, step
        return bool(wanted)


def steps_between(seconds: float) -> int:
    """Steps between agreements where the slowest process takes so many seconds a step."""
    return next((steps for steps in AGREE_STEPS if steps * seconds <= AGREE_SECONDS), 1)
