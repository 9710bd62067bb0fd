"""What of DALI a loader sees: a pipeline that asks its source ahead, ends with it, and can begin anew only then."""

import sys
from importlib.machinery import ModuleSpec
from types import ModuleType

import numpy as np
import torch

PREFETCHED = 2


class Output(np.ndarray):
    def as_tensor(self):
        return np.asarray(self)


class FakePipeline:
    built = 0

    def __init__(self, source, plan):
        self.source, self.plan = source, plan
        self.queue, self.iteration, self.ended = [], 0, False

    def build(self):
        FakePipeline.built += 1

    def run(self, stream=None):
        while not self.ended and len(self.queue) <= PREFETCHED:
            try:
                self.queue.append(self.source(self.iteration)[-1])
            except StopIteration:
                self.ended = True
            self.iteration += 1
        if not self.queue:
            raise StopIteration
        index = self.queue.pop(0)
        size = self.plan.image_size
        images = np.broadcast_to(index.astype(np.uint8)[:, None, None, None], (len(index), size, size, 3))
        return images.copy().view(Output), index.view(Output)

    def reset(self):
        assert self.ended and not self.queue, "DALI begins anew only what has ended"
        self.iteration, self.ended = 0, False


def put_in_place(monkeypatch):
    """`import nvidia.dali` finds this until the test is over; pipelines are counted from 0."""
    names = ("nvidia", "nvidia.dali", "nvidia.dali.fn", "nvidia.dali.types", "nvidia.dali.plugin")
    for name in (*names, "nvidia.dali.plugin.pytorch"):
        module = ModuleType(name)
        module.__spec__ = ModuleSpec(name, None)
        monkeypatch.setitem(sys.modules, name, module)
    sys.modules["nvidia.dali"].pipeline_def = lambda graph: lambda **how: FakePipeline(how["source"], how["plan"])
    sys.modules["nvidia.dali.plugin.pytorch"].feed_ndarray = lambda array, pixels: pixels.copy_(torch.from_numpy(array))
    monkeypatch.delitem(sys.modules, "fastkd.data.dali", raising=False)
    FakePipeline.built = 0
