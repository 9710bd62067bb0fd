"""Functions without arguments, recorded as CUDA graphs and replayed: no Python between two kernels."""

import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, suppress
from traceback import walk_tb
from typing import Protocol

import torch

from fastkd.support.branches import offering
from fastkd.training.forks import Forks

Work = Callable[[], None]

_broken: list[torch.cuda.CUDAGraph] = []
"""The graphs whose capture failed: torch 2.11 goes on asking them for their streams when it gives out pinned memory."""


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
        self.idle = torch.zeros((), device=device)
        """What a graph that does nothing writes to."""
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
        with self._left_clean(graph), self._capturing(graph), offering(Forks(self.device)):
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

    @contextmanager
    def _capturing(self, graph: torch.cuda.CUDAGraph) -> Iterator[None]:
        # Only this thread's calls belong to the graph: a loader's threads may allocate meanwhile.
        how = {"pool": self.pool, "stream": self.stream, "capture_error_mode": "thread_local"}
        # A capture that fails leaves its stream the current one: it is ours to leave.
        with torch.cuda.stream(self.stream), torch.cuda.graph(graph, **how):
            yield

    @contextmanager
    def _left_clean(self, graph: torch.cuda.CUDAGraph) -> Iterator[None]:
        """Leaves the process as it was where a capture fails.

        CUDA has ended the capture then. But where it reports a failure, torch 2.11 goes no further (pytorch issue
        180395): its allocator holds the capture to be underway for ever, and the generator refuses to draw outside of
        it. torch 2.12 puts both right itself.
        """
        try:
            yield
        except BaseException:
            _broken.append(graph)
            device = self.stream.device_index
            with suppress(RuntimeError):  # nothing is underway where torch has ended it
                torch._C._cuda_endAllocateToPool(device, self.pool)
                torch._C._cuda_releasePool(device, self.pool)
            self.pool = torch.cuda.graph_pool_handle()
            with self._capturing(torch.cuda.CUDAGraph()):  # its end is what frees the generator
                self.idle.zero_()
            raise


@contextmanager
def capturable(optimizers: Iterable[torch.optim.Optimizer]) -> Iterator[None]:
    """Within it the optimisers may be captured: a fused one always may, but Adam asks."""
    groups = [group for optimizer in optimizers for group in optimizer.param_groups if "capturable" in group]
    for group in groups:
        group["capturable"] = True
    try:
        yield
    finally:
        for group in groups:
            group["capturable"] = False


def first_lines(error: BaseException) -> str:
    """Why something could not be compiled or captured, in one line: what came first, and where.

    Leaving a capture that is broken raises an error of its own over the one that broke it.
    """
    first = [*_chain(error)][-1]
    then = "" if first is error else f", then {_line(error)}"
    return f"{_line(first)}{_place(first)}{then}"


def refuse_out_of_memory(error: BaseException) -> None:
    """Raises what stands behind an error where the device's memory ran out: to go on without the graph, or without the
    compiler, would not mend that."""
    for one in _chain(error, hidden=True):
        if isinstance(one, torch.OutOfMemoryError):
            raise one


def _chain(error: BaseException | None, *, hidden: bool = False) -> Iterator[BaseException]:
    """The error, the one that was being handled when it was raised, and so on to the first.

    hidden: also those that were raised `from` something else, as a compiler does with what made it fail.
    """
    while error is not None:
        yield error
        error = error.__context__ if hidden or not error.__suppress_context__ else None


def _line(error: BaseException) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).splitlines()[:2]).strip()}"


def _place(error: BaseException) -> str:
    """The last line of code that is neither torch's nor Python's own."""
    frames = [(frame.f_globals.get("__name__", ""), line) for frame, line in walk_tb(error.__traceback__)]
    ours = [(name, line) for name, line in frames if name and name.partition(".")[0] not in _FOREIGN]
    return " ({}, line {})".format(*ours[-1]) if ours else ""


_FOREIGN = {"torch", "triton", *sys.stdlib_module_names}
