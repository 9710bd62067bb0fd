"""How wide tables are printed."""

import io

import pytest

from fastkd.support.console import table_console


class Terminal(io.StringIO):
    def isatty(self):
        return True


@pytest.fixture(autouse=True)
def columns(monkeypatch):
    for name in ("FORCE_COLOR", "TTY_COMPATIBLE", "NO_COLOR", "LINES"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "77")


def test_a_terminal_is_used_as_wide_as_it_is(monkeypatch):
    monkeypatch.setattr("sys.stdout", Terminal())
    assert table_console().width == 77


@pytest.mark.parametrize("columns", ("20", "77", "500"))
def test_a_file_or_a_pipe_gets_120_columns_whatever_the_terminal_has(columns, monkeypatch):
    """Else a table that is sent to a file would be cut to the 80 columns of a terminal that is not there."""
    monkeypatch.setenv("COLUMNS", columns)
    monkeypatch.setattr("sys.stdout", io.StringIO())
    console = table_console()
    assert console.width == 120
    console.print("x" * 120)
    assert console.file.getvalue() == "x" * 120 + "\n"


def test_numbers_and_paths_get_no_colour_of_their_own(monkeypatch):
    monkeypatch.setattr("sys.stdout", Terminal())
    console = table_console()
    console.print("76.82 /runs/one")
    assert console.file.getvalue() == "76.82 /runs/one\n"
