"""The line of a training: at every width it says which stage, how far, how fast, and how long still."""

import io

import pytest
from rich.console import Console

from fastkd.support.live import LiveLine, Look, duration

TERMS = {"loss": 4.774, "teacher_ce": 2.285, "kl": 0.063, "branch_ce": 2.299, "top1": 0.145, "top5": 0.592}


def look(title="teacher", **changed):
    given = {"epoch": 113, "epochs": 240, "done": 44_000, "total": 93_840, "rate": 12_345.6, "values": TERMS}
    return Look(title=title, **(given | {"seconds_left": 4_530, "run_seconds_left": 45_300} | changed))


def drawn(given, width):
    """The one line that a terminal of that width shows."""
    console = Console(file=io.StringIO(), width=width, force_terminal=True, color_system=None, legacy_windows=False)
    console.print(LiveLine(given))
    (line,) = console.file.getvalue().splitlines()
    return line.rstrip()


@pytest.mark.parametrize("title", ("teacher", "seed 0  teacher", "seed 12  student-sskd", "a" * 60))
@pytest.mark.parametrize("width", (60, 80, 100, 160))
def test_at_every_width_all_that_matters_is_there(width, title):
    line = drawn(look(title), width)
    assert len(line) <= width
    assert line.startswith(title[:7]), "the stage"
    assert line.count("━") + line.count("─") >= 5, "the bar"
    for words in ("113/240", "12,346", "/s", "1h15m", "12h35m", "run"):  # epoch, rate, time left, of the run
        assert words in line, (words, line)


@pytest.mark.parametrize("width", (60, 80, 100, 160))
def test_a_short_title_is_never_cut(width):
    assert drawn(look("seed 0  teacher"), width).startswith("seed 0  teacher ")


def test_a_wider_terminal_shows_more_and_never_less():
    shown = [drawn(look(), width) for width in range(60, 201, 4)]
    assert all("epoch 113/240" in line and "left" in line for line in shown[5:]), "from 80 columns on"
    counts = [sum(name in line for name in TERMS) for line in shown]
    assert counts == sorted(counts) and counts[0] == 0 and counts[-1] == len(TERMS)
    assert "loss 4.774" in drawn(look(), 120) and "step 44000/93840" in shown[-1]


@pytest.mark.parametrize("width", (1, 5, 20, 40))
def test_where_nothing_fits_the_line_is_one_line_all_the_same(width):
    assert len(drawn(look(), width)) <= width


def test_the_bar_is_as_long_as_what_is_done():
    """Without colours, too."""
    bars = [drawn(look(done=done, total=100, values={}), 160) for done in (0, 50, 100, 101)]
    assert [(bar.count("━"), bar.count("─")) for bar in bars] == [(0, 24), (12, 12), (24, 0), (24, 0)]
    assert drawn(look(done=0, total=0), 160).count("─") >= 12


def test_wide_letters_count_as_the_columns_that_they_take():
    assert "12h35m" in drawn(look("教師"), 60)


def test_a_file_gets_everything():
    words = look(values={"loss": 1.25}).words()
    assert words == ("teacher  epoch 113/240  step 44000/93840  loss 1.250  12,346 images/s  1h15m left, run 12h35m")


@pytest.mark.parametrize(
    "seconds, words",
    [
        (0, "0s"),
        (0.4, "0s"),
        (59.4, "59s"),
        (59.6, "1m00s"),
        (61, "1m01s"),
        (3599.7, "1h00m"),
        (3661, "1h01m"),
        (100 * 3600, "100h00m"),
    ],
)
def test_durations(seconds, words):
    assert duration(seconds) == words


@pytest.mark.parametrize(
    ("share", "words"), ((0.0, ""), (0.09, ""), (0.1, "10% waiting for data"), (1.0, "100% waiting"))
)
def test_waiting_for_data_is_said_where_it_is_much(share, words):
    told = look(waiting=share).words()
    assert words in told and ("waiting" in told) == bool(words)
