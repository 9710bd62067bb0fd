"""A recorder without a GPU: what it records is run again, as it was."""

from contextlib import contextmanager

import torch

from fastkd.support.branches import offering
from fastkd.training.evaluation import Evaluation
from fastkd.training.trainer import Trainer


class RunAgain:
    def __init__(self):
        self.recorded, self.replays = 0, 0
        self.rehearsed: list[int] = []
        """How often each rehearsal ran its work."""
        self.inside = False
        """Whether what happens is on the recorder's stream."""

    @contextmanager
    def on_stream(self):
        before, self.inside = self.inside, True
        yield
        self.inside = before

    def rehearse(self, work, times=3):
        self.rehearsed.append(times)
        with self.on_stream():
            for _ in range(times):
                work()

    def record(self, work, times=1, *, beside=()):
        self.recorded += 1

        def replay():
            self.replays += 1
            for _ in range(times):
                for one in (*beside, work):
                    one()

        return replay

    def pace(self):
        pass


class RoundsOtherwise(RunAgain):
    """Replays by other algorithms of convolutions, as a library may choose for a graph."""

    def record(self, work, times=1, *, beside=()):
        replay = super().record(work, times, beside=beside)

        def replay_otherwise():
            torch._C._set_mkldnn_enabled(False)  # the public context warns of GPUs that are not there
            try:
                replay()
            finally:
                torch._C._set_mkldnn_enabled(True)

        return replay_otherwise


class RunsTwice(RunAgain):
    def record(self, work, times=1, *, beside=()):
        return super().record(work, 2 * times, beside=beside)


class RunsOnStaleWeights(RunAgain):
    """What a replay reads is what stood there when it was recorded; what it writes is lost."""

    def record(self, work, times=1, *, beside=()):
        return lambda: None


class Refuses(RunAgain):
    def record(self, work, times=1, *, beside=()):
        raise RuntimeError("operation not permitted when stream is capturing\nand more")


class HasNoMemory(RunAgain):
    """The memory runs out inside of a capture, whose end then raises an error of its own."""

    def record(self, work, times=1, *, beside=()):
        try:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB")
        finally:
            raise RuntimeError("operation failed due to a previous error during capture")


class RunBeside(RunAgain):
    """It offers branches, as a recorder with a GPU does."""

    def __init__(self, *, late: bool = False):
        """late: what may run beside other work does so when its result is asked for, not at once."""
        super().__init__()
        self.late, self.forks, self.unjoined = late, 0, 0

    def record(self, work, times=1, *, beside=()):
        replay = super().record(work, times, beside=beside)

        def offering_branches():
            with offering(self.fork):
                replay()
            assert not self.unjoined, f"{self.unjoined} branches do not end"

        return offering_branches

    def fork(self, work):
        self.forks, self.unjoined = self.forks + 1, self.unjoined + 1
        result = None if self.late else work()

        def joined():
            self.unjoined -= 1
            return work() if self.late else result

        return joined


def record_everything(monkeypatch):
    """Every training and evaluation of a run goes through a recorder."""
    plain = Trainer.__init__

    def with_recorder(self, *arguments, **options):
        plain(self, *arguments, **options)
        self.recorder = RunAgain()
        cpu = torch.device("cpu")
        self.evaluation = Evaluation(self.step.predictions, self.test_source, cpu, recorder=self.recorder)

    monkeypatch.setattr(Trainer, "__init__", with_recorder)
