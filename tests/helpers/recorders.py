"""A recorder without a GPU: what it records is run again, as it was."""

import torch

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


class HasNoMemory(RunAgain):
    """The memory runs out inside of a capture, whose end then raises an error of its own."""

    def record(self, work, times=1, *, beside=()):
        try:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB")
        finally:
            raise RuntimeError("operation failed due to a previous error during capture")


def record_everything(monkeypatch):
    """Every training and evaluation of a run goes through a recorder."""
    plain = Trainer.__init__

    def with_recorder(self, *arguments, **options):
        plain(self, *arguments, **options)
        self.recorder = RunAgain()
        cpu = torch.device("cpu")
        self.evaluation = Evaluation(self.step.predictions, self.test_source, cpu, recorder=self.recorder)

    monkeypatch.setattr(Trainer, "__init__", with_recorder)
