"""Files are there whole or not at all, whatever happens while they are written, and one line says what happened."""

import errno
import hashlib
import os
import pickle
import subprocess
import sys

import pytest
import torch
from safetensors import safe_open

from fastkd.support import files
from fastkd.support.errors import UserError

FULL = OSError(errno.ENOSPC, "No space left on device")


def names(folder):
    return sorted(path.name for path in folder.iterdir())


class TestWriting:
    def test_what_stood_there_is_replaced_and_nothing_is_left_beside_it(self, tmp_path):
        for content in (b"old and longer", b"new"):
            files.write_bytes(tmp_path / "x", content)
        assert (tmp_path / "x").read_bytes() == b"new" and names(tmp_path) == ["x"]

    @pytest.mark.parametrize("operation", ("fsync", "replace"))
    @pytest.mark.parametrize("number", (errno.ENOSPC, errno.EDQUOT))
    def test_on_a_full_disk_the_old_content_stays_and_is_said_to(self, operation, number, tmp_path, monkeypatch):
        (tmp_path / "x").write_bytes(b"old")

        def full(*arguments):
            raise OSError(number, "words of the system")

        with monkeypatch.context() as patch, pytest.raises(UserError) as raised:
            patch.setattr(files.os, operation, full)
            files.write_bytes(tmp_path / "x", b"new")
        line = f"cannot write {tmp_path / 'x'}: the disk is full; what stood there before is intact"
        assert str(raised.value) == line
        assert (tmp_path / "x").read_bytes() == b"old" and names(tmp_path) == ["x"]

    def test_a_first_file_on_a_full_disk_leaves_nothing(self, tmp_path, monkeypatch):
        def full(*arguments):
            raise FULL

        with monkeypatch.context() as patch, pytest.raises(UserError, match=r"x: the disk is full$"):
            patch.setattr(files.os, "fsync", full)
            files.write_bytes(tmp_path / "x", b"new")
        assert names(tmp_path) == []

    def test_a_real_full_disk_is_named(self, tmp_path):
        if not os.path.exists("/dev/full"):
            pytest.skip("this system has no /dev/full")
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(files.Path, "with_name", lambda path, name: files.Path("/dev/full"))
            patch.setattr(files.Path, "unlink", lambda path: None)
            with pytest.raises(UserError, match=r"cannot write .*x\.json: the disk is full"):
                files.write_json(tmp_path / "x.json", {})

    def test_the_content_is_on_the_disk_before_the_name_says_so(self, tmp_path, monkeypatch):
        """The other way round a power cut could leave an empty file under the name."""
        done = []
        for name in ("fsync", "replace"):
            original = getattr(os, name)

            def watched(*arguments, name=name, original=original):
                done.append(name)
                return original(*arguments)

            monkeypatch.setattr(files.os, name, watched)
        files.write_bytes(tmp_path / "x", b"new")
        assert done == ["fsync", "replace", "fsync"]

    def test_a_folder_that_is_gone_is_named(self, tmp_path):
        with pytest.raises(UserError, match=r"cannot write .*gone/x: No such file or directory$"):
            files.write_bytes(tmp_path / "gone" / "x", b"")

    def test_a_folder_is_made_with_its_parents_and_may_be_there(self, tmp_path):
        for _ in range(2):
            files.make_folder(tmp_path / "a" / "b")
        assert (tmp_path / "a" / "b").is_dir()

    @pytest.mark.parametrize("below", ("", "run"))
    def test_a_file_where_a_folder_should_be_is_named(self, below, tmp_path):
        (tmp_path / "file").write_text("")
        with pytest.raises(UserError, match="cannot create the folder .*file"):
            files.make_folder(tmp_path / "file" / below)


class TestJSON:
    @pytest.mark.parametrize("value", ({}, [], None, 0.1, {"τ": ["×", "‖"], "deep": {"none": None}}))
    def test_what_is_written_is_read(self, value, tmp_path):
        files.write_json(tmp_path / "x.json", value)
        assert files.read_json(tmp_path / "x.json") == value

    def test_a_person_can_read_it(self, tmp_path):
        files.write_json(tmp_path / "x.json", {"words": "τ × 2"})
        assert (tmp_path / "x.json").read_text() == '{\n  "words": "τ × 2"\n}\n'

    @pytest.mark.parametrize("content", (b"", b"{", b"\xff\xfe", b"{'a': 1}"))
    def test_what_is_no_json_names_the_file(self, content, tmp_path):
        (tmp_path / "x.json").write_bytes(content)
        with pytest.raises(UserError, match=r"x\.json is not JSON"):
            files.read_json(tmp_path / "x.json")

    def test_a_missing_file_and_a_folder_are_named(self, tmp_path):
        with pytest.raises(UserError, match=r"cannot read .*x\.json: No such file"):
            files.read_json(tmp_path / "x.json")
        with pytest.raises(UserError, match="cannot read .*: Is a directory"):
            files.read_json(tmp_path)


class Harmful:
    def __reduce__(self):
        return (os.mkdir, ("harmed",))


class TestCheckpoints:
    def test_tensors_and_plain_types_come_back(self, tmp_path):
        state = {"step": 3, "weights": {"a": torch.randn(2, 3)}, "names": ["a", None], "bf16": torch.ones(2).bfloat16()}
        files.write_state(tmp_path / "x.pt", state)
        again = files.read_state(tmp_path / "x.pt")
        assert again.keys() == state.keys() and again["step"] == 3 and again["names"] == ["a", None]
        assert torch.equal(again["weights"]["a"], state["weights"]["a"]) and again["bf16"].dtype == torch.bfloat16

    def test_nothing_that_is_read_is_executed(self, tmp_path, monkeypatch):
        monkeypatch.chdir(tmp_path)
        torch.save({"harm": Harmful()}, tmp_path / "x.pt")
        (tmp_path / "y.pt").write_bytes(pickle.dumps({"harm": Harmful()}))
        for name in ("x.pt", "y.pt"):
            with pytest.raises(UserError, match=f"{name} is not a checkpoint: damaged, or of another program"):
                files.read_state(tmp_path / name)
        assert not (tmp_path / "harmed").exists()

    @pytest.mark.parametrize("size", (0, 1, 200, -1))
    def test_one_that_is_cut_off_is_named(self, size, tmp_path):
        files.write_state(tmp_path / "x.pt", {"weights": torch.randn(100)})
        content = (tmp_path / "x.pt").read_bytes()
        (tmp_path / "x.pt").write_bytes(content[:size])
        with pytest.raises(UserError, match=r"x\.pt is not a checkpoint"):
            files.read_state(tmp_path / "x.pt")

    def test_one_of_another_kind_says_what_it_is(self, tmp_path):
        torch.save([1, 2], tmp_path / "x.pt")
        with pytest.raises(UserError, match=r"x\.pt is not a checkpoint of fastkd: expected a dictionary, got list"):
            files.read_state(tmp_path / "x.pt")

    def test_one_that_is_gone_is_named(self, tmp_path):
        with pytest.raises(UserError, match=r"cannot read the checkpoint .*x\.pt: No such file"):
            files.read_state(tmp_path / "x.pt")


class TestWeights:
    def test_views_and_parameters_are_written_as_they_are_seen(self, tmp_path):
        turned = torch.nn.Parameter(torch.arange(6.0).reshape(2, 3)).t()
        files.write_weights(tmp_path / "x.safetensors", {"turned": turned}, {"fastkd": "words"})
        found = files.read_weights(tmp_path / "x.safetensors")
        assert torch.equal(found["turned"], turned) and not found["turned"].requires_grad
        with safe_open(tmp_path / "x.safetensors", "pt") as file:
            assert file.metadata() == {"fastkd": "words"}

    @pytest.mark.parametrize("content", (b"", b"{}", b"\xff" * 100))
    def test_what_is_no_safetensors_file_is_named(self, content, tmp_path):
        (tmp_path / "x.safetensors").write_bytes(content)
        with pytest.raises(UserError, match=r"cannot read the weights .*x\.safetensors: "):
            files.read_weights(tmp_path / "x.safetensors")

    def test_a_missing_one_is_named(self, tmp_path):
        with pytest.raises(UserError, match=r"cannot read the weights .*x\.safetensors: "):
            files.read_weights(tmp_path / "x.safetensors")

    @pytest.mark.parametrize("content", (b"", b"abc" * 1_000_000))
    def test_the_digest_is_that_of_the_content(self, content, tmp_path):
        (tmp_path / "x").write_bytes(content)
        assert files.sha256(tmp_path / "x") == hashlib.sha256(content).hexdigest()


class TestLock:
    def test_a_second_run_in_the_folder_is_refused_until_the_first_is_over(self, tmp_path):
        with files.locked(tmp_path):
            for _ in range(2):  # the refusal itself does not give the lock away
                with pytest.raises(UserError, match="^another process is training in "), files.locked(tmp_path):
                    pass
        with files.locked(tmp_path):
            pass

    def test_a_run_that_fails_gives_it_back(self, tmp_path):
        with pytest.raises(ZeroDivisionError), files.locked(tmp_path):
            raise ZeroDivisionError
        with files.locked(tmp_path):
            pass

    def test_it_ends_with_a_process_that_is_killed(self, tmp_path):
        code = (
            f"import fcntl; file = open({str(tmp_path / '.lock')!r}, 'w'); "
            "fcntl.flock(file, fcntl.LOCK_EX); print(flush=True); input()"
        )
        line, pipe = [sys.executable, "-S", "-c", code], subprocess.PIPE
        with subprocess.Popen(line, stdin=pipe, stdout=pipe) as child:
            child.stdout.readline()
            with pytest.raises(UserError, match="another process"), files.locked(tmp_path):
                pass
            child.kill()
        with files.locked(tmp_path):
            pass

    def test_a_folder_that_is_gone_is_named(self, tmp_path):
        with pytest.raises(UserError, match="cannot write in .*gone: No such file"), files.locked(tmp_path / "gone"):
            pass
