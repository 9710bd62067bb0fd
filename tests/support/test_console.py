"""How wide tables are printed."""

import io

import pytest

from fastkd.support.console import new_table, table_console


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
def test_what_goes_to_a_file_is_cut_nowhere_whatever_the_terminal_has(columns, monkeypatch):
    monkeypatch.setenv("COLUMNS", columns)
    monkeypatch.setattr("sys.stdout", io.StringIO())
    console, name = table_console(), "torchvision_resnext101_32x8d-" * 10
    table = new_table("name", right=("a", "b"), title="title " * 50)
    table.add_row(name, "1.00 ± 0.00", name)
    console.print(table)
    console.print("word " * 50, markup=False)
    lines = console.file.getvalue().splitlines()
    assert sum(name in line and "1.00 ± 0.00" in line for line in lines) == 1 and "…" not in "".join(lines)
    assert lines[-1].strip() == ("word " * 50).strip()


def test_a_narrow_terminal_folds_what_does_not_fit(monkeypatch):
    monkeypatch.setattr("sys.stdout", Terminal())
    console, name = table_console(), "".join(chr(ord("a") + place % 26) for place in range(100))
    table = new_table("name", right=("a",))
    table.add_row(name, "1.00")
    console.print(table)
    shown = console.file.getvalue()
    assert "…" not in shown and "".join(letter for letter in shown if letter.islower()).endswith(name)


def test_numbers_and_paths_get_no_colour_of_their_own(monkeypatch):
    monkeypatch.setattr("sys.stdout", Terminal())
    console = table_console()
    console.print("76.82 /runs/one")
    assert console.file.getvalue() == "76.82 /runs/one\n"
