"""Files that only grow, beside a checkpoint that counts their rows."""

import pytest

from fastkd.support.appended import AppendedRows
from fastkd.support.errors import UserError


@pytest.fixture
def three(tmp_path):
    """Three rows, and the mark behind the second."""
    rows = AppendedRows(tmp_path / "rows", 4)
    rows.append(b"aaaabbbb")
    mark = rows.mark()
    rows.append(b"cccc")
    return rows, mark


def test_nothing_is_written_before_the_first_row(tmp_path):
    rows = AppendedRows(tmp_path / "rows", 4)
    assert rows.mark()["rows"] == 0 and not rows.path.exists()
    rows.take_up(rows.mark())
    assert rows.read(0, 0) == b"" and not rows.path.exists()


def test_what_is_behind_a_mark_is_cut_off_and_written_anew(three):
    first, mark = three
    again = AppendedRows(first.path, 4)
    again.take_up(mark)
    assert first.path.read_bytes() == b"aaaabbbb" and again.rows == 2
    again.append(b"dddd")
    assert again.read(1, 2) == b"bbbbdddd"
    third = AppendedRows(first.path, 4)
    third.take_up(again.mark())
    assert third.mark() == again.mark() == {"rows": 3, "sha256": third.mark()["sha256"]}


def test_half_a_row_of_a_killed_process_is_cut_off(three):
    rows, mark = three
    with rows.path.open("ab") as file:
        file.write(b"e")
    AppendedRows(rows.path, 4).take_up(mark)
    assert rows.path.read_bytes() == b"aaaabbbb"


def test_a_file_of_an_earlier_process_is_forgotten(three):
    rows, _ = three
    rows.begin()
    assert not rows.path.exists() and rows.mark()["rows"] == 0


@pytest.mark.parametrize(
    ("content", "why"), [(b"aaaabbb", "is cut off: it has 7 bytes, the checkpoint counts 8"), (b"aaaaBBBB", "damaged")]
)
def test_rows_that_are_not_what_was_written_are_refused_and_left_alone(three, content, why):
    rows, mark = three
    rows.path.write_bytes(content + b"" if "cut" in why else content + b"cccc")
    before = rows.path.read_bytes()
    with pytest.raises(UserError, match=why):
        AppendedRows(rows.path, 4).take_up(mark)
    assert rows.path.read_bytes() == before


def test_a_file_that_is_gone_and_a_link_are_refused(three, tmp_path):
    rows, mark = three
    other = rows.path.rename(tmp_path / "other")
    with pytest.raises(UserError, match="is gone: the checkpoint beside it counts 2 rows in it"):
        AppendedRows(rows.path, 4).take_up(mark)
    rows.path.symlink_to(other)
    with pytest.raises(UserError, match="it is a link"):
        AppendedRows(rows.path, 4).take_up(mark)
