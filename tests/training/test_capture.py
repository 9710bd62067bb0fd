"""A run whose every step and evaluation is recorded is the run. Without a GPU a replay runs what was recorded again."""

import contextlib
from contextlib import contextmanager
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from helpers.captured import assert_equal_from_equal_states, assert_several_are_as_good, kept
from helpers.fake_cuda import INVALIDATED, FakeCuda
from helpers.recorders import RoundsOtherwise, RunAgain, RunsOnStaleWeights, RunsTwice, record_everything
from helpers.steps import make_step
from helpers.tiny import CPU, assert_same, outcome, tiny_recipe, train

from fastkd.support.interrupt import Interrupt, Stopped
from fastkd.training.capture import CudaRecorder, first_lines, refuse_out_of_memory
from fastkd.training.step import Step


class AfterReplays(Interrupt):
    """A Ctrl-C that comes while step `count` of the run is taken."""

    def __init__(self, count):
        super().__init__()
        self.left = count

    def saw(self, steps):
        self.left -= steps
        if self.left <= 0 and self.requested is None:
            self.requested = "SIGINT"


@pytest.mark.parametrize(
    "count", (pytest.param(None, marks=pytest.mark.slow), 14, pytest.param(31, marks=pytest.mark.slow))
)
def test_a_captured_run_is_the_run(count, tmp_path, monkeypatch):
    """Both stages and evaluation, also stopped in the middle of an epoch and resumed; bit for bit.

    16 steps an epoch, two epochs a stage; 31 is the last step but one of the first stage: its warm-up looks beyond.
    """
    recipe = tiny_recipe()
    stages = tuple(replace(s, training=replace(s.training, batch_size=8)) for s in recipe.stages)
    recipe = replace(recipe, stages=stages)
    train(recipe, tmp_path / "plain")
    record_everything(monkeypatch)
    if count is not None:
        interrupt, plain_steps = AfterReplays(count), Step.epoch_of

        def counted(step, *arguments):
            for steps in plain_steps(step, *arguments):
                interrupt.saw(steps)
                yield steps

        with monkeypatch.context() as patch, pytest.raises(Stopped):
            patch.setattr(Step, "epoch_of", counted)
            train(recipe, tmp_path / "captured", interrupt)
    train(recipe, tmp_path / "captured")
    assert_same(outcome(tmp_path / "captured"), outcome(tmp_path / "plain"))


class TestTheComparisonOfCapturedSteps:
    """The one that the gpu tests make, with recorders that stand in for a GPU."""

    def steps(self, recorder, **how):
        settings = {"batch_size": 4, "lr": 0.01, "ema": 0.9, "clip_norm": 5.0} | how
        eager, other = (make_step(**settings)[0] for _ in range(2))
        other.recorder = recorder()
        other.warm_up(other.loader, other.recorder)
        assert other.replays is not None
        return eager, other

    @pytest.mark.parametrize("optimizer", ("sgd", "adam"))
    def test_it_allows_for_rounding(self, optimizer):
        eager, other = self.steps(RoundsOtherwise, optimizer=optimizer)
        assert_equal_from_equal_states(eager, other)
        assert any(not torch.equal(value, kept(eager)[name]) for name, value in kept(other).items())
        assert_several_are_as_good(eager, other)
        assert other.recorder.replays == 4, "ten steps are one replay"

    @pytest.mark.parametrize("recorder", (RunsTwice, RunsOnStaleWeights))
    def test_it_finds_a_replay_that_is_no_step(self, recorder):
        with pytest.raises(AssertionError, match="apart"):
            assert_equal_from_equal_states(*self.steps(recorder), states=(1,))

    @pytest.mark.parametrize("optimizer", ("sgd", "adam"))
    def test_it_finds_a_learning_rate_that_was_recorded(self, optimizer):
        eager, other = self.steps(RunAgain, optimizer=optimizer)
        other.rates.table.mul_(1.1)
        with pytest.raises(AssertionError, match="apart"):
            assert_equal_from_equal_states(eager, other, states=(1,))


def forbidden():
    raise ValueError("no such thing while a stream is captured")


class TestACaptureThatFails:
    """Both of torch 2.11, which leaves its end half done, and of torch 2.12, which does not."""

    @pytest.fixture(params=("2.11", "2.12"))
    def cuda(self, request, monkeypatch):
        return FakeCuda(monkeypatch, request.param)

    @pytest.mark.parametrize("error", (ValueError, torch.OutOfMemoryError, KeyboardInterrupt))
    def test_it_leaves_nothing_behind(self, cuda, error):
        recorder = CudaRecorder(CPU)
        whole = recorder.record(lambda: None)
        before = recorder.pool

        def work():
            raise error

        for _ in range(2):
            with pytest.raises(RuntimeError, match=INVALIDATED):
                recorder.record(work)
            assert cuda.is_clean() and recorder.pool != before
        whole()
        recorder.record(lambda: None)()
        assert cuda.is_clean()

    def test_nor_where_only_its_end_shows_that_it_failed(self, cuda):
        recorder = CudaRecorder(CPU)

        def work():
            cuda.broken = True

        with pytest.raises(RuntimeError, match=INVALIDATED):
            recorder.record(work)
        assert cuda.is_clean()

    def test_the_memory_of_earlier_graphs_stays_theirs(self, cuda):
        """A pool is given back once for each capture that failed, and by one of the two alone."""
        recorder = CudaRecorder(CPU)
        recorder.record(lambda: None)
        shared = recorder.pool
        with pytest.raises(RuntimeError):
            recorder.record(forbidden)
        assert cuda.in_use.count(shared) == (1 if cuda.version == "2.11" else 2), "torch 2.12 gives it back itself"

    def test_it_says_what_came_first_and_where(self, cuda):
        with pytest.raises(RuntimeError) as error:
            CudaRecorder(CPU).record(forbidden)
        line = first_lines(error.value)
        assert line.startswith(
            "ValueError: no such thing while a stream is captured (tests.training.test_capture, line "
        )
        assert line.endswith(f"), then RuntimeError: {INVALIDATED}")

    def test_out_of_memory_is_seen_behind_it(self, cuda):
        def work():
            raise torch.OutOfMemoryError("tried to allocate 2 GiB")

        with pytest.raises(RuntimeError, match=INVALIDATED) as error:
            CudaRecorder(CPU).record(work)
        with pytest.raises(torch.OutOfMemoryError, match="2 GiB"):
            refuse_out_of_memory(error.value)
        refuse_out_of_memory(RuntimeError("out of memory"))


@pytest.mark.parametrize("hidden", (torch.OutOfMemoryError("no more"), KeyError("other")))
def test_what_a_compiler_hides_is_seen_where_it_is_the_memory(hidden):
    with pytest.raises(ValueError) as error:
        try:
            raise hidden
        except Exception:
            raise ValueError("the compiler failed") from None
    assert first_lines(error.value).startswith("ValueError: the compiler failed (")
    with pytest.raises(type(hidden)) if isinstance(hidden, torch.OutOfMemoryError) else contextlib.nullcontext():
        refuse_out_of_memory(error.value)


@pytest.mark.parametrize(
    "error, line",
    [
        (RuntimeError("no\nsuch\nthing"), "RuntimeError: no such"),
        (ValueError("  spaces around  "), "ValueError: spaces around"),
        (KeyError("name"), "KeyError: 'name'"),
        (MemoryError(), "MemoryError:"),
    ],
)
def test_why_something_failed_is_one_line(error, line):
    assert first_lines(error).strip() == line


class Stream:
    """A stream that writes down what it waits for."""

    def __init__(self, device=None, name="own", seen=None):
        self.name, self.seen = name, seen if seen is not None else []

    def wait_stream(self, other):
        self.seen.append(f"{self.name} waits for {other.name}")


class TestOnItsStream:
    @pytest.fixture
    def seen(self, monkeypatch):
        """What happens, in order, where torch.cuda is made up."""
        seen, usual = [], Stream(name="usual")
        usual.seen = seen

        @contextmanager
        def stream(one):
            seen.append(f"on {one.name}")
            yield
            seen.append(f"off {one.name}")

        @contextmanager
        def graph(graph, **how):
            seen.append(("captured", how["capture_error_mode"], how["stream"].name))
            yield

        made_up = {
            "Stream": lambda device: Stream(seen=seen),
            "current_stream": lambda device: usual,
            "stream": stream,
            "graph": graph,
            "CUDAGraph": lambda: SimpleNamespace(replay=lambda: seen.append("replayed")),
            "graph_pool_handle": object,
            "Event": lambda blocking: None,
        }
        for name, value in made_up.items():
            monkeypatch.setattr(torch.cuda, name, value)
        return seen

    @pytest.mark.parametrize("times", (3, 11))
    def test_it_rehearses_behind_what_came_before_and_what_follows_waits(self, times, seen):
        CudaRecorder(CPU).rehearse(lambda: seen.append("work"), times)
        assert seen == ["own waits for usual", "on own", *["work"] * times, "off own", "usual waits for own"]

    def test_only_this_thread_s_calls_belong_to_a_graph(self, seen):
        CudaRecorder(CPU).record(lambda: seen.append("work"))()
        assert [one for one in seen if one not in ("on own", "off own")] == [
            ("captured", "thread_local", "own"),
            "work",
            "replayed",
        ]
