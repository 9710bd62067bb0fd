"""Ctrl-C: the first one asks, the second one ends."""

import os
import signal

import pytest

from fastkd.support.interrupt import Interrupt, interruptible


@pytest.mark.parametrize("number", (signal.SIGINT, signal.SIGTERM))
def test_a_first_signal_is_noted_by_its_name_and_nothing_is_broken_off(number):
    with interruptible() as interrupt:
        assert interrupt.requested is None
        os.kill(os.getpid(), number)
        assert interrupt.requested == number.name


def test_a_second_one_breaks_off_whichever_it_is():
    with interruptible() as interrupt:
        os.kill(os.getpid(), signal.SIGTERM)
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)
        assert interrupt.requested == "SIGTERM"


def test_a_request_that_another_rank_heard_counts_as_the_first():
    interrupt = Interrupt()
    interrupt.requested = "SIGINT"
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
