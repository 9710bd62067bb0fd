"""What a person sees of a run: on a terminal, in a file, and on the ranks that are silent."""

import math
import re

import pytest

from fastkd.support.display import Display
from fastkd.support.live import Look


@pytest.fixture(autouse=True)
def wide(monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.setenv("TERM", "xterm")


def show(display, done=3, **values):
    own = {"epoch": 2, "epochs": 4, "done": done, "total": 8, "rate": 12_345.6}
    display.live(Look(title="teacher", seconds_left=75, run_seconds_left=600, values=values or {"loss": 1.25}, **own))


def test_without_a_terminal_every_look_is_a_line(capsys):
    with Display(terminal=False) as display:
        show(display)
        show(display, 4)
    shown = capsys.readouterr()
    assert shown.err.splitlines() == [
        "teacher  epoch 2/4  step 3/8  loss 1.250  12,346 images/s  1m15s left, run 10m00s",
        "teacher  epoch 2/4  step 4/8  loss 1.250  12,346 images/s  1m15s left, run 10m00s",
    ]
    assert shown.out == "", "standard output is the result table's"


def test_numbers_that_are_not_finite_are_shown_as_they_are(capsys):
    with Display(terminal=False) as display:
        show(display, loss=math.nan, kl=math.inf)
    assert "loss nan  kl inf" in capsys.readouterr().err


@pytest.mark.parametrize("terminal", (False, True))
def test_brackets_in_a_note_are_no_markup(terminal, capsys):
    """A path may hold any letter."""
    with Display(terminal=terminal) as display:
        display.note("weights in /runs/[red]one[/] and [/nothing]")
    assert "/runs/[red]one[/] and [/nothing]" in capsys.readouterr().err


def test_a_long_note_is_one_line_of_a_file(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "20")
    with Display(terminal=False) as display:
        display.note("word " * 50)
    assert capsys.readouterr().err.count("\n") == 1


def test_on_a_terminal_the_live_line_is_replaced_and_goes_at_the_end(capsys):
    with Display(terminal=True) as display:
        show(display)
        show(display, 8)
        assert display.line.get_renderable().look.done == 8
        display.note("epoch 1/2")
    shown = capsys.readouterr().err
    assert "epoch 1/2\n" in re.sub(r"\x1b\[[0-9;?]*[A-Za-z]|\r", "", shown)
    assert shown.endswith(("\x1b[2K", "\x1b[?25h\r\x1b[1A\x1b[2K")), "the live line is not erased"


def test_the_terminal_is_given_back_when_the_run_fails(capsys):
    with pytest.raises(ZeroDivisionError), Display(terminal=True) as display:
        show(display)
        raise ZeroDivisionError
    assert display.line is None and "\x1b[?25h" in capsys.readouterr().err, "the cursor stays hidden"


def test_a_silent_one_says_nothing_even_on_a_terminal(capsys):
    """The ranks but the first."""
    with Display(silent=True, terminal=True) as display:
        display.note("hello")
        show(display)
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize("terminal, pauses", ((False, (0, 9.9, 0.2)), (True, (0, 0.4, 0.2))))
def test_numbers_are_due_at_once_and_then_now_and_then(terminal, pauses, monkeypatch):
    """Reading them waits for the device: a line in a file is wanted less often than a look at a terminal."""
    clock = [1000.0]
    monkeypatch.setattr("time.monotonic", lambda: clock[0])
    with Display(terminal=terminal, every_seconds=10) as display:
        assert display.due()
        show(display)
        seen = []
        for seconds in pauses:
            clock[0] += seconds
            seen.append(display.due())
    assert seen == [False, False, True]
