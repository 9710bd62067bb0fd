"""Files are there whole or not at all, whatever happens while they are written, and one line says what happened."""

import contextlib
import errno
import hashlib
import os

import numpy as np
import pytest
import torch
from helpers.hostile import STRANGE, put_strange, within
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

    def test_where_the_folder_cannot_be_flushed_the_new_content_stands_and_is_said_to(self, tmp_path, monkeypatch):
        (tmp_path / "x").write_bytes(b"old")

        def fails(folder):
            raise OSError(errno.EIO, "Input/output error")

        monkeypatch.setattr(files, "sync_folder", fails)
        with pytest.raises(UserError, match="Input/output error; the new content stands there, but may not outlive a"):
            files.write_bytes(tmp_path / "x", b"new")
        assert (tmp_path / "x").read_bytes() == b"new" and names(tmp_path) == ["x"]

    def test_ctrl_c_in_between_leaves_nothing_beside_it(self, tmp_path, monkeypatch):
        def interrupted(*arguments):
            raise KeyboardInterrupt

        with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
            patch.setattr(files.os, "fsync", interrupted)
            files.write_bytes(tmp_path / "x", b"new")
        assert names(tmp_path) == []

    @pytest.mark.parametrize("planted", ("link", "file"))
    def test_what_stands_in_the_way_beside_it_is_removed_and_not_written_through(self, planted, tmp_path, monkeypatch):
        precious, aside = tmp_path / "precious", tmp_path / ".x.123"
        monkeypatch.setattr(files, "_aside", lambda path: aside)
        precious.write_bytes(b"precious")
        aside.symlink_to(precious) if planted == "link" else aside.write_bytes(b"of a killed process")
        files.write_bytes(tmp_path / "x", b"new")
        assert precious.read_bytes() == b"precious" and names(tmp_path) == ["precious", "x"]

    @pytest.mark.parametrize("name", (".", "/", "a\0b", "x" * 300))
    def test_names_that_are_none_are_one_line(self, name, tmp_path):
        with pytest.raises(UserError, match="^cannot (write|look at) "):
            files.write_bytes(files.Path(name) if len(name) < 3 else tmp_path / name, b"")

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
            patch.setattr(files, "_created", lambda path: os.fdopen(os.open("/dev/full", os.O_WRONLY), "wb"))
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

    @pytest.mark.parametrize(
        "content, words",
        (
            ('{"a": {"seed": 0, "seed": 7}}', "two entries have the name 'seed'"),
            (f'{{"a": {"9" * 5000}}}', "a number in it has thousands of digits"),
        ),
    )
    def test_what_could_be_read_in_two_ways_is_refused(self, content, words, tmp_path):
        (tmp_path / "x.json").write_text(content)
        with pytest.raises(UserError, match=words):
            files.read_json(tmp_path / "x.json")

    def test_the_mark_that_some_editors_begin_a_file_with_is_no_part_of_it(self, tmp_path):
        (tmp_path / "x.json").write_bytes(b"\xef\xbb\xbf[1]")
        assert files.read_json(tmp_path / "x.json") == [1]

    def test_a_missing_file_and_a_folder_are_named(self, tmp_path):
        with pytest.raises(UserError, match=r"cannot read .*x\.json: No such file"):
            files.read_json(tmp_path / "x.json")
        with pytest.raises(UserError, match="cannot read .*: Is a directory"):
            files.read_json(tmp_path)

    def test_names_that_are_not_utf_8_come_back(self, tmp_path):
        files.write_json(tmp_path / "x.json", ["caf\udce9"])
        assert files.read_json(tmp_path / "x.json") == ["caf\udce9"]
        (tmp_path / "x.json").read_bytes().decode()  # the file itself is UTF-8

    @pytest.mark.parametrize("content", ("[" * 100_000, "[" * 65 + "]" * 65, '{"a":' * 900 + "1" + "}" * 900))
    def test_what_is_nested_too_deeply_is_refused(self, content, tmp_path):
        (tmp_path / "x.json").write_text(content)
        with pytest.raises(UserError, match="is not JSON: it is nested too deeply"):
            files.read_json(tmp_path / "x.json")


class TestForeignFiles:
    """They are looked at before they are read."""

    @pytest.mark.parametrize("what", STRANGE)
    def test_what_is_no_regular_file(self, what, tmp_path):
        put_strange(tmp_path / "x", what)
        with within(20), pytest.raises(UserError, match="cannot read .*x: "):
            files.read_bytes(tmp_path / "x")

    def test_one_that_is_larger_than_what_is_free(self, tmp_path):
        with open(tmp_path / "x", "wb") as file:
            file.truncate(1 << 42)
        with pytest.raises(UserError, match=r"x takes 4,096\.0 GiB of memory, "):
            files.read_bytes(tmp_path / "x")
        with pytest.raises(UserError, match="expected 268,435,456 at most"):
            files.read_json(tmp_path / "x")

    @pytest.mark.parametrize("path", ("/proc/self/mem", "/proc/self/environ", "/proc/kmsg"))
    def test_files_of_the_kernel_are_not_read_for_ever(self, path):
        with within(20), contextlib.suppress(UserError):
            assert files.read_bytes(files.Path(path)) == b""

    def test_an_array_whose_head_promises_more_than_there_is(self, tmp_path):
        np.save(tmp_path / "x.npy", np.zeros((3, 4)))
        content = (tmp_path / "x.npy").read_bytes()
        (tmp_path / "x.npy").write_bytes(content.replace(b"(3, 4), }   ", b"(3000, 4), }"))
        with pytest.raises(UserError, match="is no array of numpy: truncated"):
            files.read_array(tmp_path / "x.npy")


def test_what_is_written_takes_no_place_of_a_device(tmp_path):
    """A rename over /dev/null would leave a file in its place."""
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(UserError, match="cannot write .*pipe: it is no regular file"):
        files.write_bytes(tmp_path / "pipe", b"x")
    assert (tmp_path / "pipe").is_fifo() and os.listdir(tmp_path) == ["pipe"]


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

    def test_no_tensors_and_no_metadata_are_a_file_too(self, tmp_path):
        for metadata in ({}, None):
            files.write_weights(tmp_path / "x.safetensors", {}, metadata)
            assert files.read_weights(tmp_path / "x.safetensors") == {}

    def test_bytes_that_are_not_those_that_were_written(self, tmp_path):
        digest = files.write_weights(tmp_path / "x.safetensors", {"a": torch.zeros(2)})
        assert files.read_weights(tmp_path / "x.safetensors", digest)["a"].tolist() == [0, 0]
        files.write_weights(tmp_path / "x.safetensors", {"a": torch.ones(2)})
        with pytest.raises(UserError, match=r"x\.safetensors is not what the run wrote: damaged, or replaced"):
            files.read_weights(tmp_path / "x.safetensors", digest)

    def test_a_missing_one_is_named(self, tmp_path):
        with pytest.raises(UserError, match=r"cannot read the weights .*x\.safetensors: "):
            files.read_weights(tmp_path / "x.safetensors")

    @pytest.mark.parametrize("content", (b"", b"abc" * 1_000_000))
    def test_the_digest_is_that_of_the_content(self, content, tmp_path):
        (tmp_path / "x").write_bytes(content)
        assert files.sha256(tmp_path / "x") == hashlib.sha256(content).hexdigest()


def test_a_second_name_is_the_file_or_a_copy_of_it(tmp_path, monkeypatch):
    source, target = tmp_path / "one", tmp_path / "other"
    source.write_bytes(b"weights")
    target.write_bytes(b"of before")
    for _ in range(2):
        files.second_name(source, target)
        assert target.samefile(source)

    def one_name_a_file(source, target):
        raise OSError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(files.os, "link", one_name_a_file)
    target.unlink()
    files.second_name(source, target)
    assert target.read_bytes() == b"weights" and not target.samefile(source)
