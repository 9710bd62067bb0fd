"""A recorder without a GPU: what it records is run again, as it was."""

import torch

from fastkd.support.branches import offering
from fastkd.training.evaluation import Evaluation
from fastkd.training.trainer import Trainer


class RunAgain:
    def __init__(self):
        self.recorded, self.replays = 0, 0

    def rehearse(self, work):
        for _ in range(3):
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


class Refuses(RunAgain):
    def record(self, work, times=1, *, beside=()):
        raise RuntimeError("operation not permitted when stream is capturing\nand more")


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
