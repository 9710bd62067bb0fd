"""A step that a stage takes by itself, beside those of its training: recorded, and replayed."""

from collections.abc import Callable, Sequence

import torch

from fastkd.training.agreement import in_one_line
from fastkd.training.capture import Recorder, Work, capturable, refuse_out_of_memory

_FIRST = 3
"""Steps before it is recorded: cuDNN measures its algorithms in the first, autograd's streams settle in the second."""


class OwnStep:
    """Does a work that is a step: the first times as it is, then by a recording of it.

    Nothing is done on trial, and so nothing has to be put back: the first steps count, and are taken on the recorder's
    stream. Where it cannot be recorded it goes on as it is, and that is told once.
    """

    def __init__(
        self,
        work: Work,
        optimizers: Sequence[torch.optim.Optimizer],
        recorder: Recorder,
        tell: Callable[[str], None],
    ):
        """work: changes everything in place, and reads nothing on the host. optimizers: those that take steps in it."""
        self.work, self.optimizers, self.recorder, self.tell = work, optimizers, recorder, tell
        self.replay: Work | None = None
        self.left = _FIRST
        self.why_not = ""

    def __call__(self) -> None:
        if self.replay is None and not self.why_not and not self.left:
            self._record()
        if self.replay is None:
            with self.recorder.on_stream():
                self.work()
            self.left = max(0, self.left - 1)
        else:
            self.replay()
            self.recorder.pace()

    def _record(self) -> None:
        try:
            with capturable(self.optimizers):
                self.replay = self.recorder.record(self.work)
        except Exception as error:  # whatever cannot be captured: it goes on without
            refuse_out_of_memory(error)
            self.why_not = in_one_line(error)
            self.tell(f"the images' own steps are not captured: {self.why_not}")
