"""Functions without arguments, recorded as CUDA graphs and replayed: no Python between two kernels."""

from collections.abc import Callable
from typing import Protocol

import torch

Work = Callable[[], None]


class Recorder(Protocol):
    def rehearse(self, work: Work) -> None:
        """Runs `work` until nothing is left to be compiled, chosen or allocated for the first time."""

    def record(self, work: Work, times: int = 1) -> Work:
        """Records `work` so many times without running it; returns what replays the recording."""
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

    def record(self, work: Work, times: int = 1) -> Work:
        graph = torch.cuda.CUDAGraph()
        # Only this thread's calls belong to the graph: a loader's threads may allocate meanwhile.
        how = {"pool": self.pool, "stream": self.stream, "capture_error_mode": "thread_local"}
        with torch.cuda.stream(self.stream), torch.cuda.graph(graph, **how):
            for _ in range(times):
                work()
        return graph.replay

    def pace(self) -> None:
        last, before = self.events
        last.record()
        before.synchronize()
        self.events.reverse()


def first_lines(error: Exception) -> str:
    """Why something could not be compiled or captured, in one line."""
    return f"{type(error).__name__}: {' '.join(str(error).splitlines()[:2]).strip()}"
