"""A run whose every step and evaluation is recorded is the run. Without a GPU a replay runs what was recorded again."""

from contextlib import contextmanager
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from helpers.recorders import record_everything
from helpers.tiny import CPU, assert_same, outcome, tiny_recipe, train

from fastkd.support.interrupt import Interrupt, Stopped
from fastkd.training.capture import CudaRecorder, first_lines
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
