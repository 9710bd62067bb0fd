"""Forks of recorded streams, on streams that only note what is ordered before what: none of this needs a GPU."""

from contextlib import contextmanager

import pytest
import torch

from fastkd.support.branches import begun_beside
from fastkd.training.capture import CudaRecorder

CPU = torch.device("cpu")


class Stream:
    def __init__(self, device=None):
        self.past = frozenset()
        """What is done before whatever this stream is given next."""

    def wait_stream(self, other):
        self.past |= other.past


class Timeline:
    """torch.cuda, as far as a recording asks it."""

    def __init__(self):
        self.stream, self.before = Stream(), {}

    def do(self, what):
        assert what not in self.before
        self.before[what] = self.stream.past
        self.stream.past |= {what}
        return what

    @contextmanager
    def on(self, stream):
        outside, self.stream = self.stream, stream
        yield
        self.stream = outside

    @contextmanager
    def graph(self, graph, stream=None, **unused):
        with self.on(stream):
            yield
            self.do("the end")


@pytest.fixture
def timeline(monkeypatch):
    made = Timeline()
    fakes = {"Stream": Stream, "stream": made.on, "graph": made.graph, "current_stream": lambda device: made.stream}
    nothing = dict.fromkeys(("CUDAGraph", "Event"), lambda **unused: type("Graph", (), {"replay": None}))
    for name, fake in (fakes | nothing | {"graph_pool_handle": lambda: 0}).items():
        monkeypatch.setattr(torch.cuda, name, fake)
    return made


def training(timeline, name):
    """Steps that draw beside their networks, as CRD's do."""
    steps = iter(range(10))

    def step():
        number = next(steps)
        drawn = begun_beside(lambda: timeline.do(f"{name}: draws {number}"))
        timeline.do(f"{name}: networks {number}")
        assert drawn() == f"{name}: draws {number}"
        timeline.do(f"{name}: scores {number}")

    return step


@pytest.mark.parametrize("count", (1, 3))
def test_draws_run_beside_the_networks_and_before_the_scores(timeline, count):
    CudaRecorder(CPU).record(training(timeline, "a"), count)
    before = timeline.before
    for number in range(count):
        draws, networks, scores = (f"a: {what} {number}" for what in ("draws", "networks", "scores"))
        assert draws not in before[networks] and networks not in before[draws], "neither waits for the other"
        assert {draws, networks} <= before[scores]
        assert number == 0 or f"a: scores {number - 1}" in before[draws], "its step has been counted"
    assert before["the end"] == set(before) - {"the end"}, "every branch ends in the stream that is captured"


def test_trainings_side_by_side_have_branches_of_their_own(timeline):
    CudaRecorder(CPU).record(training(timeline, "a"), 2, beside=[training(timeline, "b")])
    before = timeline.before
    for number in range(2):
        same_step = {what for what in before if what.endswith(str(number))}
        for what in same_step:
            assert not {other for other in before[what] & same_step if other[0] != what[0]}
    assert before["the end"] == set(before) - {"the end"}


def test_behind_a_recording_nothing_is_offered(timeline):
    CudaRecorder(CPU).record(training(timeline, "a"))
    assert begun_beside(lambda: pytest.fail("begun")) is None


def test_results_live_as_long_as_the_recording(timeline):
    """Their memory belongs to the branch, which would take it again."""
    alive = []

    class Result:
        def __init__(self):
            alive.append(self)

        def __del__(self):
            freed.append(1)

    freed = []

    def step():
        begun_beside(Result)()
        alive.clear()
        assert not freed

    CudaRecorder(CPU).record(step, 3)
    assert len(freed) == 3
