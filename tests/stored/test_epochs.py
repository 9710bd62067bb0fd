"""The files of one epoch: killed, cut, damaged, shared, full."""

import errno
import os

import numpy as np
import pytest

from fastkd.stored.epochs import EpochFiles, check_of
from fastkd.support.errors import UserError

N, W = 20, 3


def opened(folder, writable=True):
    return EpochFiles(folder, 4, N, W, writable=writable)


def rows(*places):
    return np.stack([np.arange(W, dtype=np.int32) + 100 * place for place in places])


def fill(folder, *places):
    files = opened(folder)
    files.write(places, rows(*places))
    files.close()


def test_what_was_written_is_read_whole_and_by_place(tmp_path):
    fill(tmp_path, 3, 7)
    fill(tmp_path, 0)
    for writable in (True, False):
        files = opened(tmp_path, writable)
        found, there, damaged = files.whole()
        assert np.flatnonzero(there).tolist() == [0, 3, 7] and damaged == 0
        assert (found[[0, 3, 7]] == rows(0, 3, 7)).all()
        gathered, there = files.gather(np.array([7, 1, 3]))
        assert there.tolist() == [True, False, True] and (gathered[[0, 2]] == rows(7, 3)).all()
        files.close()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["epoch-00004.checks", "epoch-00004.rows"]


def test_a_row_is_there_only_after_its_bytes_are_on_the_disk(tmp_path, monkeypatch):
    order, files = [], opened(tmp_path)
    plain = {"pwrite": os.pwrite, "fdatasync": os.fdatasync}
    names = {files._rows: "rows", files._checks: "checks"}
    for call in plain:
        monkeypatch.setattr(
            os, call, lambda file, *rest, call=call: order.append((call, names[file])) or plain[call](file, *rest)
        )
    files.write([5], rows(5))
    assert not opened(tmp_path, False).whole()[1].any(), "killed here, it is computed again"
    files.sync()
    assert order == [("pwrite", "rows"), ("fdatasync", "rows"), ("pwrite", "checks"), ("fdatasync", "checks")]
    assert opened(tmp_path, False).whole()[1].sum() == 1


def test_two_writers_of_different_rows(tmp_path):
    one, other = opened(tmp_path), opened(tmp_path)
    one.write([1], rows(1))
    other.write([2], rows(2))
    other.close()
    one.close()
    assert np.flatnonzero(opened(tmp_path).whole()[1]).tolist() == [1, 2]


@pytest.mark.parametrize("suffix", ("rows", "checks"))
def test_one_changed_byte_takes_the_row_away(suffix, tmp_path):
    fill(tmp_path, 1, 2)
    path, size = tmp_path / f"epoch-00004.{suffix}", 4 * W if suffix == "rows" else 4
    content = bytearray(path.read_bytes())
    content[2 * size] ^= 1
    path.write_bytes(content)
    _, there, damaged = opened(tmp_path).whole()
    assert np.flatnonzero(there).tolist() == [1] and damaged == 1
    assert opened(tmp_path).gather(np.array([1, 2]))[1].tolist() == [True, False]


@pytest.mark.parametrize("writable", (True, False))
@pytest.mark.parametrize("suffix", ("rows", "checks"))
@pytest.mark.parametrize("change", (-1, +1))
def test_a_file_of_another_size_is_one_line(change, suffix, writable, tmp_path):
    fill(tmp_path, 1)
    path = tmp_path / f"epoch-00004.{suffix}"
    size = path.stat().st_size
    os.truncate(path, size + change)
    with pytest.raises(UserError, match=f"{path.name} has {size + change} bytes, expected {size}") as error:
        opened(tmp_path, writable)
    assert "\n" not in str(error.value) and path.stat().st_size == size + change


def test_an_epoch_that_nobody_wrote_has_no_rows_and_reading_makes_no_file(tmp_path):
    files = opened(tmp_path, writable=False)
    assert not files.whole()[1].any() and not files.gather(np.array([0, 3]))[1].any()
    files.close()
    assert list(tmp_path.iterdir()) == []


def test_a_link_is_not_followed(tmp_path):
    (tmp_path / "precious").write_bytes(b"x" * (N * 4 * W))
    (tmp_path / "epoch-00004.rows").symlink_to(tmp_path / "precious")
    for writable in (True, False):
        with pytest.raises(UserError, match=r"cannot open .*rows"):
            opened(tmp_path, writable)
    assert (tmp_path / "precious").read_bytes() == b"x" * (N * 4 * W)


def test_a_pipe_is_no_file_and_nobody_waits_for_it(tmp_path):
    os.mkfifo(tmp_path / "epoch-00004.rows")
    with pytest.raises(UserError, match="is no file"):
        opened(tmp_path)


@pytest.mark.parametrize("call", ("pwrite", "fdatasync"))
def test_a_full_disk_is_one_line_and_loses_nothing(call, tmp_path, monkeypatch):
    fill(tmp_path, 1)
    files = opened(tmp_path)

    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, call, full)
        with pytest.raises(UserError, match="the disk is full; the rows that are stored stay"):
            files.write([2], rows(2))
            files.sync()
    assert np.flatnonzero(opened(tmp_path).whole()[1]).tolist() == [1]
    fill(tmp_path, 2)
    assert np.flatnonzero(opened(tmp_path).whole()[1]).tolist() == [1, 2]


def test_no_row_has_the_check_of_a_missing_one():
    zero = np.array([0x6DD90A9D], np.uint32).view(np.int32)  # four bytes whose CRC-32 is 0
    assert check_of(zero) == 1 and check_of(np.zeros(W, np.int32)) != 0
