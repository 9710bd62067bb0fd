"""One process at a time in a folder, wherever the folder lies and whatever lies in it."""

import errno
import os
import subprocess
import sys

import pytest
from helpers.hostile import STRANGE, put_strange, within

from fastkd.support import locks
from fastkd.support.errors import UserError
from fastkd.support.locks import clear_aside, locked


class TestLock:
    def test_a_second_run_in_the_folder_is_refused_until_the_first_is_over(self, tmp_path):
        with locked(tmp_path):
            for _ in range(2):  # the refusal itself does not give the lock away
                with pytest.raises(UserError, match="^another process is training in "), locked(tmp_path):
                    pass
        with locked(tmp_path):
            pass

    def test_a_run_that_fails_gives_it_back(self, tmp_path):
        with pytest.raises(ZeroDivisionError), locked(tmp_path):
            raise ZeroDivisionError
        with locked(tmp_path):
            pass

    def test_it_ends_with_a_process_that_is_killed(self, tmp_path):
        code = (
            f"import fcntl; file = open({str(tmp_path / '.lock')!r}, 'w'); "
            "fcntl.flock(file, fcntl.LOCK_EX); print(flush=True); input()"
        )
        line, pipe = [sys.executable, "-S", "-c", code], subprocess.PIPE
        with subprocess.Popen(line, stdin=pipe, stdout=pipe) as child:
            child.stdout.readline()
            with pytest.raises(UserError, match="another process"), locked(tmp_path):
                pass
            child.kill()
        with locked(tmp_path):
            pass

    def test_a_folder_that_is_gone_is_named(self, tmp_path):
        with pytest.raises(UserError, match="cannot write in .*gone: No such file"), locked(tmp_path / "gone"):
            pass

    @pytest.mark.parametrize("what", STRANGE)
    def test_what_is_no_regular_file_in_its_place(self, what, tmp_path):
        put_strange(tmp_path / ".lock", what)
        with within(20), pytest.raises(UserError, match="cannot write "), locked(tmp_path):
            pass

    def test_a_link_in_its_place_costs_nobody_a_file(self, tmp_path):
        (tmp_path / "precious").write_text("precious")
        (tmp_path / ".lock").symlink_to("precious")
        with pytest.raises(UserError, match="it is a link"), locked(tmp_path):
            pass
        assert (tmp_path / "precious").read_text() == "precious"

    def test_what_stands_in_it_stays(self, tmp_path):
        (tmp_path / ".lock").write_text("words")
        with locked(tmp_path):
            pass
        assert (tmp_path / ".lock").read_text() == "words"

    @pytest.mark.parametrize("number", (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.EIO))
    def test_a_file_system_without_locks_says_so_and_goes_on_when_told_to(self, number, tmp_path, monkeypatch):
        def none(*arguments):
            raise OSError(number, os.strerror(number))

        monkeypatch.setattr(locks.fcntl, "flock", none)
        words = rf"the file system of .* has no locks \({os.strerror(number)}\): .*give --unlocked"
        with pytest.raises(UserError, match=words), locked(tmp_path):
            pass
        with locked(tmp_path, unlocked=True):
            pass

    def test_unlocked_is_no_way_past_another_process(self, tmp_path):
        with locked(tmp_path), pytest.raises(UserError, match="another process"), locked(tmp_path, unlocked=True):
            pass


def test_what_killed_processes_were_writing_is_cleared_and_nothing_else(tmp_path):
    gone = [".teacher.pt.123", ".student.safetensors.7", ".recipe.json.99", ".results.json.1", ".metrics.jsonl.5"]
    kept = [
        ".lock",
        ".report.html.123",
        ".index-train-0.npz.3",
        "teacher.pt",
        ".teacher.pt.old",
        "x.1",
        ".notes.txt.12",
    ]
    for name in (*gone, *kept):
        (tmp_path / name).write_text("")
    clear_aside(tmp_path)
    clear_aside(tmp_path / "checkpoints")  # a folder that is not there
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(kept)
