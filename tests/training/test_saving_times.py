"""After which steps a training is saved: soon enough for a signal, and the same in every process."""

import types

import pytest

from fastkd.support.interrupt import Interrupt
from fastkd.training import saving_times as module
from fastkd.training.saving_times import AGREE_SECONDS, CHECKPOINT_SECONDS, LONG_EVALUATION, SavingTimes, steps_between

KILLED_AFTER = 30.0


@pytest.fixture
def clock(monkeypatch):
    clock = types.SimpleNamespace(now=0.0)
    monkeypatch.setattr(module.time, "monotonic", lambda: clock.now)
    return clock


@pytest.fixture
def others(monkeypatch):
    """What the slowest of the other processes says; without one there are none."""
    others = types.SimpleNamespace(says=(0, 0), heard=[])

    def largest_of_all(*values):
        others.heard.append(values)
        return [max(pair) for pair in zip(values, others.says, strict=True)]

    monkeypatch.setattr(module, "world_size", lambda: 2)
    monkeypatch.setattr(module, "largest_of_all", largest_of_all)
    return others


def test_one_process_saves_after_the_step_in_which_it_is_asked(clock):
    times = SavingTimes(Interrupt())
    assert not times.is_due(1)
    times.interrupt.requested = "SIGTERM"
    assert times.is_due(2)


def test_one_process_saves_after_long(clock):
    times = SavingTimes(Interrupt())
    clock.now = CHECKPOINT_SECONDS + 1
    assert times.is_due(7)
    times.saved()
    assert not times.is_due(8)


@pytest.mark.parametrize("seconds", (0.001, 0.3, 0.6, 1.0, 4.0, 20.0))
def test_however_slow_steps_are_a_signal_is_heeded_in_time(seconds, clock, others):
    """The signal comes right behind an agreement, in each of many steps."""
    for asked_in in range(1, 60):
        times = SavingTimes(Interrupt())
        for step in range(1, 200):
            clock.now += seconds
            if step == asked_in:
                times.interrupt.requested, asked_at = "SIGTERM", clock.now - seconds
            if times.is_due(step) and step >= asked_in:
                break
        assert clock.now - asked_at <= max(AGREE_SECONDS, seconds) + seconds < KILLED_AFTER + seconds


def test_fast_steps_are_agreed_on_seldom(clock, others):
    times = SavingTimes(Interrupt())
    for step in range(1, 101):
        clock.now += 0.01
        times.is_due(step)
    assert len(others.heard) == 11


def test_the_slowest_process_decides_for_all(clock, others):
    times = SavingTimes(Interrupt())
    clock.now, others.says = 0.01, (0, 3_000_000)
    assert not times.is_due(1)
    assert times.agree_every == 1
    others.says = (1, 0)
    assert times.is_due(2), "another process was asked"


def test_the_next_epoch_begins_with_what_is_known_of_its_steps(clock, others):
    times = SavingTimes(Interrupt())
    for step in (1, 10, 20):
        clock.now = step * 0.01
        times.is_due(step)
    clock.now += 500.0  # an evaluation
    times.is_due(10)
    assert times.agree_every == 10


@pytest.mark.parametrize(
    "seconds, steps", ((0.0, 10), (0.1, 10), (0.5, 10), (0.51, 5), (1.1, 2), (2.5, 2), (2.6, 1), (9.0, 1))
)
def test_steps_between_agreements_divide_those_of_a_replay(seconds, steps):
    assert steps_between(seconds) == steps


def test_a_long_evaluation_waits_for_a_checkpoint_and_a_short_one_does_not(clock):
    times = SavingTimes(Interrupt())
    assert not times.is_due_before_evaluation(1000.0), "it was saved just now"
    clock.now = 2 * LONG_EVALUATION
    assert times.is_due_before_evaluation(1000.0)
    assert not times.is_due_before_evaluation(1.0)
    times.saved()
    times.interrupt.requested = "SIGTERM"
    assert times.is_due_before_evaluation(1000.0)
    assert not times.is_due_before_evaluation(1.0)
