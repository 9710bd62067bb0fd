"""Ctrl-C: the first one asks, another one after a while ends at once."""

import os
import signal
import threading
import types

import pytest

from fastkd.support import interrupt as module
from fastkd.support.interrupt import ALWAYS, ECHO_SECONDS, UNLESS_IGNORED, Interrupt, interruptible


@pytest.fixture
def clock(monkeypatch):
    clock = types.SimpleNamespace(now=0.0)
    monkeypatch.setattr(module.time, "monotonic", lambda: clock.now)
    return clock


@pytest.fixture
def heeded():
    """Every signal does what it does by itself, also where the tests were started by nohup."""
    before = {number: signal.signal(number, signal.SIG_DFL) for number in UNLESS_IGNORED}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.mark.parametrize("number", (*ALWAYS, *UNLESS_IGNORED))
def test_a_first_signal_is_noted_by_its_name_and_nothing_is_broken_off(number, heeded):
    with interruptible() as interrupt:
        assert interrupt.requested is None
        os.kill(os.getpid(), number)
        assert interrupt.requested == number.name


@pytest.mark.parametrize("number", (signal.SIGINT, signal.SIGTERM))
def test_its_echo_is_no_second_one(number, clock):
    """torchrun sends every process the signal that the terminal or the scheduler has sent it already."""
    with interruptible() as interrupt:
        for _ in range(3):
            os.kill(os.getpid(), number)
        assert interrupt.requested == number.name


def test_ctrl_c_again_breaks_off_whichever_was_first(clock):
    with interruptible() as interrupt:
        os.kill(os.getpid(), signal.SIGTERM)
        clock.now += 2 * ECHO_SECONDS
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)
        assert interrupt.requested == "SIGTERM"


def test_a_scheduler_that_repeats_itself_breaks_nothing_off(clock):
    with interruptible() as interrupt:
        for _ in range(3):
            os.kill(os.getpid(), signal.SIGTERM)
            clock.now += 100
        assert interrupt.requested == "SIGTERM"


def test_a_request_that_another_rank_heard_counts_as_the_first(clock):
    interrupt = Interrupt()
    interrupt.requested = "SIGINT"
    interrupt.request(signal.SIGINT)  # its echo
    clock.now += 2 * ECHO_SECONDS
    with pytest.raises(KeyboardInterrupt):
        interrupt.request(signal.SIGINT)


def test_afterwards_the_signals_do_what_they_did_before():
    heard = []
    before = signal.signal(signal.SIGTERM, lambda number, frame: heard.append(number))
    try:
        with pytest.raises(ZeroDivisionError), interruptible():
            raise ZeroDivisionError
        os.kill(os.getpid(), signal.SIGTERM)
        assert heard == [signal.SIGTERM]
    finally:
        signal.signal(signal.SIGTERM, before)
    with pytest.raises(KeyboardInterrupt):
        os.kill(os.getpid(), signal.SIGINT)


def test_one_run_after_the_other_begins_with_no_request():
    with interruptible() as interrupt:
        os.kill(os.getpid(), signal.SIGINT)
    with interruptible() as again:
        assert interrupt.requested == "SIGINT" and again.requested is None


@pytest.mark.parametrize("number", UNLESS_IGNORED)
def test_what_a_process_was_started_to_ignore_it_ignores(number):
    """nohup: the terminal's end is no reason to stop."""
    before = signal.signal(number, signal.SIG_IGN)
    try:
        with interruptible() as interrupt:
            os.kill(os.getpid(), number)
            assert interrupt.requested is None
    finally:
        signal.signal(number, before)


def test_a_thread_that_is_not_the_main_one_leaves_the_signals_alone():
    """Ray runs a training in one."""
    before, heard = signal.getsignal(signal.SIGTERM), []

    def work():
        with interruptible() as interrupt:
            heard.append((interrupt.requested, signal.getsignal(signal.SIGTERM)))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert heard == [(None, before)]
