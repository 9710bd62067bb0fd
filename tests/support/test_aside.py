"""Work that a thread does: one piece at a time, waited for, given up, and never in the way of the interpreter's end."""

import subprocess
import sys
import threading
import time

import pytest
from helpers.processes import ENVIRONMENT

from fastkd.support.aside import Aside

WAIT = 60.0


def test_it_goes_on_beside_and_its_result_is_waited_for():
    aside, go_on = Aside(), threading.Event()
    aside.begin(lambda look: go_on.wait(WAIT) and "done")
    assert not aside.ended
    go_on.set()
    assert aside.wait() == "done" and aside.ended
    assert aside.wait() is None, "there is nothing any more"


def test_here_it_is_done_before_begin_returns():
    aside, done = Aside(), []
    aside.begin(lambda look: done.append(threading.current_thread()) or 3, here=True)
    assert done == [threading.current_thread()] and aside.ended and aside.wait() == 3


@pytest.mark.parametrize("here", (False, True))
def test_an_error_is_raised_to_who_waits_and_once(here):
    def fails(look):
        raise ValueError("of the work")

    aside = Aside()
    aside.begin(fails, here=here)
    aside.join()
    assert aside.ended
    with pytest.raises(ValueError, match="of the work"):
        aside.wait()
    assert aside.wait() is None
    aside.begin(lambda look: 5)
    assert aside.wait() == 5


def test_one_at_a_time():
    aside, go_on = Aside(), threading.Event()
    aside.begin(lambda look: go_on.wait(WAIT))
    with pytest.raises(AssertionError, match="one piece"):
        aside.begin(lambda look: None)
    go_on.set()
    aside.wait()


def test_given_up_it_ends_between_two_parts():
    aside, began = Aside(), threading.Event()

    def works(look):
        began.set()
        while True:
            look()
            time.sleep(0.001)

    aside.begin(works)
    assert began.wait(WAIT)
    aside.give_up()
    assert aside.ended and aside.wait() is None


def test_the_interpreter_ends_when_the_work_does():
    program = (
        "import threading, time\n"
        "from fastkd.support.aside import Aside\n"
        "Aside().begin(lambda look: time.sleep(0.3) or print('written'))\n"
        "raise SystemExit(3)\n"
    )
    ended = subprocess.run(
        [sys.executable, "-c", program], env=ENVIRONMENT, capture_output=True, text=True, timeout=WAIT
    )
    assert (ended.returncode, ended.stdout, ended.stderr) == (3, "written\n", "")
