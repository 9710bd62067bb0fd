"""What a capture changes in a process, without a GPU: the ends of captures as torch 2.11 and torch 2.12 have them."""

import contextlib
import itertools

import torch

INVALIDATED = "CUDA error: operation failed due to a previous error during capture"


class FakeCuda:
    """The allocator's pools that are being captured into, the generator, the current stream, and who asks for what."""

    def __init__(self, monkeypatch, version):
        """version: "2.11" stops in the middle of a capture's end that failed, "2.12" does not."""
        self.version, self.pools = version, itertools.count(1)
        self.underway, self.in_use, self.generator_is_capturing = set(), [], False
        self.current = self.default = "default stream"
        self.broken = False
        """Whether the capture that is underway was invalidated."""
        monkeypatch.setattr(torch.cuda, "Stream", lambda device=None: FakeStream())
        monkeypatch.setattr(torch.cuda, "Event", lambda **options: None)
        monkeypatch.setattr(torch.cuda, "graph_pool_handle", lambda: (0, next(self.pools)))
        monkeypatch.setattr(torch.cuda, "CUDAGraph", lambda: FakeGraph(self))
        monkeypatch.setattr(torch.cuda, "graph", self.graph)
        monkeypatch.setattr(torch.cuda, "stream", self.stream)
        monkeypatch.setattr(torch._C, "_cuda_endAllocateToPool", self.end_allocating)
        monkeypatch.setattr(torch._C, "_cuda_releasePool", self.release)

    @contextlib.contextmanager
    def stream(self, stream):
        before, self.current = self.current, stream
        try:
            yield
        finally:
            self.current = before

    @contextlib.contextmanager
    def graph(self, graph, *, pool, stream, capture_error_mode):
        """Enters and leaves `stream` as torch does: not where the end of the capture raises."""
        assert pool not in self.underway, f"beginAllocateToPool: already recording to mempool_id {pool}"
        before, self.current = self.current, stream
        self.underway.add(pool)
        self.in_use.append(pool)
        self.generator_is_capturing, self.broken, graph.pool = True, False, pool
        try:
            yield
        except BaseException:
            self.broken = True
            raise
        finally:
            self.end(graph)
            self.current = before

    def end(self, graph):
        if self.broken and self.version == "2.11":
            raise RuntimeError(INVALIDATED)
        self.underway.remove(graph.pool)
        self.generator_is_capturing = False
        if self.broken:
            raise RuntimeError(INVALIDATED)
        graph.ended = True

    def end_allocating(self, device, pool):
        if pool not in self.underway:
            raise RuntimeError("endAllocatePool: not currently recording to mempool_id")
        self.underway.remove(pool)

    def release(self, device, pool):
        self.in_use.remove(pool)

    def is_clean(self):
        return not self.underway and not self.generator_is_capturing and self.current == self.default


class FakeStream:
    device_index = 0

    def wait_stream(self, other):
        pass


class FakeGraph:
    def __init__(self, cuda):
        self.cuda, self.ended = cuda, False

    def replay(self):
        assert self.ended
