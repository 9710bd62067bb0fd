"""Functions without arguments, recorded as CUDA graphs and replayed: no Python between two kernels."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import Protocol

import torch

Work = Callable[[], None]


class Recorder(Protocol):
    def on_stream(self) -> AbstractContextManager[None]:
        """Within it, work is done where recordings are made: behind what came before, and what follows waits for it."""
        ...

    def rehearse(self, work: Work, times: int = 3) -> None:
        """Runs `work` so many times, until nothing is left to be compiled, chosen or allocated for the first time.

        cuDNN measures its algorithms in the first, autograd's streams settle in the second.
        """

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

    @contextmanager
    def on_stream(self) -> Iterator[None]:
        current = torch.cuda.current_stream(self.device)
        self.stream.wait_stream(current)
        try:
            with torch.cuda.stream(self.stream):
                yield
        finally:
            current.wait_stream(self.stream)

    def rehearse(self, work: Work, times: int = 3) -> None:
        with self.on_stream():
            for _ in range(times):
                work()

    def record(self, work: Work, times: int = 1, *, beside: Sequence[Work] = ()) -> Work:
        graph, branches = torch.cuda.CUDAGraph(), [torch.cuda.Stream(self.device) for _ in beside]
        # Only this thread's calls belong to the graph: a loader's threads may allocate meanwhile.
        how = {"pool": self.pool, "stream": self.stream, "capture_error_mode": "thread_local"}
        with torch.cuda.stream(self.stream), torch.cuda.graph(graph, **how):
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
