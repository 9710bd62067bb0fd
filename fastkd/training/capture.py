"""Functions without arguments, recorded as CUDA graphs and replayed: no Python between two kernels."""

from collections.abc import Callable, Sequence
from typing import Protocol

import torch

from fastkd.support.branches import offering
from fastkd.training.forks import Forks

Work = Callable[[], None]


class Recorder(Protocol):
    def rehearse(self, work: Work) -> None:
        """Runs `work` until nothing is left to be compiled, chosen or allocated for the first time."""

    def record(self, work: Work, times: int = 1, *, beside: Sequence[Work] = ()) -> Work:
        """Records `work` so many times without running it; returns what replays the recording.

        beside: further works, which neither wait for `work` nor for each other; each time ends when all of them have.
        """
        ...

    def pace(self) -> None:
        """Lets the host sleep until the replay before the last one is done; called after each replay."""


class CudaRecorder:
    """Records CUDA graphs. They share their memory: `work` must leave its results in tensors that stood before it."""

    def __init__(self, device: torch.device):
        self.device = device
        self.stream = torch.cuda.Stream(device)
        self.pool = torch.cuda.graph_pool_handle()
        # Waiting for a blocking event costs no processor time; other waits spin.
        self.events = [torch.cuda.Event(blocking=True) for _ in range(2)]

    def rehearse(self, work: Work) -> None:
        current = torch.cuda.current_stream(self.device)
        self.stream.wait_stream(current)
        with torch.cuda.stream(self.stream):
            for _ in range(3):  # cuDNN measures its algorithms in the first, autograd's streams settle in the second
                work()
        current.wait_stream(self.stream)

    def record(self, work: Work, times: int = 1, *, beside: Sequence[Work] = ()) -> Work:
        graph, branches = torch.cuda.CUDAGraph(), [torch.cuda.Stream(self.device) for _ in beside]
        # Only this thread's calls belong to the graph: a loader's threads may allocate meanwhile.
        how = {"pool": self.pool, "stream": self.stream, "capture_error_mode": "thread_local"}
        with torch.cuda.stream(self.stream), torch.cuda.graph(graph, **how), offering(Forks(self.device)):
            for _ in range(times):
                for other, branch in zip(beside, branches, strict=True):
                    branch.wait_stream(self.stream)  # what waits for a stream that is captured is captured, too
                    with torch.cuda.stream(branch):
                        other()
                work()
                for branch in branches:
                    self.stream.wait_stream(branch)
        return graph.replay

    def pace(self) -> None:
        last, before = self.events
        last.record()
        before.synchronize()
        self.events.reverse()


def first_lines(error: Exception) -> str:
    """Why something could not be compiled or captured, in one line."""
    return f"{type(error).__name__}: {' '.join(str(error).splitlines()[:2]).strip()}"
