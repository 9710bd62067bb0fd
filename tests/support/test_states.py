"""Checkpoints as files: what is noticed, what is read of them, and that half of one is never there."""

import errno
import hashlib
import io
import os
import pickle
import tracemalloc

import pytest
import torch

from fastkd.support import states
from fastkd.support.aside import GivenUp
from fastkd.support.errors import UserError


class Harmful:
    def __reduce__(self):
        return (os.mkdir, ("harmed",))


class TestCheckpoints:
    def test_nothing_of_a_device_is_pickled(self, tmp_path, monkeypatch):
        """A meta tensor stands for one of a GPU: the file would name its device."""
        monkeypatch.setattr(torch.Tensor, "cpu", lambda value: torch.zeros_like(value, device="cpu"))
        on_device = torch.empty(2, device="meta")
        states.write_state(
            tmp_path / "x", {"model": {"weight": on_device}, "meters": [{"hits": on_device}], "epoch": 1}
        )
        content = (tmp_path / "x").read_bytes()
        state, _ = states.read_state(tmp_path / "x")
        assert b"meta" not in content and state["epoch"] == 1
        assert state["model"]["weight"].device == state["meters"][0]["hits"].device == torch.device("cpu")

    def test_tensors_and_plain_types_come_back(self, tmp_path):
        state = {"step": 3, "weights": {"a": torch.randn(2, 3)}, "names": ["a", None], "bf16": torch.ones(2).bfloat16()}
        states.write_state(tmp_path / "x.pt", state)
        again, with_digest = states.read_state(tmp_path / "x.pt")
        assert with_digest and again.keys() == state.keys() and again["step"] == 3 and again["names"] == ["a", None]
        assert torch.equal(again["weights"]["a"], state["weights"]["a"]) and again["bf16"].dtype == torch.bfloat16

    def test_nothing_that_is_read_is_executed(self, tmp_path, monkeypatch):
        monkeypatch.chdir(tmp_path)
        torch.save({"harm": Harmful()}, tmp_path / "x.pt")
        (tmp_path / "y.pt").write_bytes(pickle.dumps({"harm": Harmful()}))
        for name in ("x.pt", "y.pt"):
            with pytest.raises(UserError, match=f"{name} is not a checkpoint: damaged, or of another program"):
                states.read_state(tmp_path / name)
        assert not (tmp_path / "harmed").exists()

    @pytest.mark.parametrize("size", (0, 1, 200, -1))
    def test_one_that_is_cut_off_is_named(self, size, tmp_path):
        states.write_state(tmp_path / "x.pt", {"weights": torch.randn(100)})
        content = (tmp_path / "x.pt").read_bytes()
        (tmp_path / "x.pt").write_bytes(content[:size])
        with pytest.raises(UserError, match=r"x\.pt is not a checkpoint"):
            states.read_state(tmp_path / "x.pt")

    @pytest.mark.parametrize("part", range(0, 100, 7))
    def test_any_bit_that_flips_is_noticed(self, part, tmp_path):
        states.write_state(tmp_path / "x.pt", {"weights": torch.randn(100), "format": 2})
        content = bytearray((tmp_path / "x.pt").read_bytes())
        content[len(content) * part // 100] ^= 1 << (part % 8)
        (tmp_path / "x.pt").write_bytes(content)
        with pytest.raises(UserError, match=r"x\.pt is (damaged|not a checkpoint)"):
            if not states.read_state(tmp_path / "x.pt")[
                1
            ]:  # the bit is one of the words that announce the digest: the format tells
                raise UserError("x.pt is damaged")

    def test_torch_reads_it_as_any_other(self, tmp_path):
        states.write_state(tmp_path / "x.pt", {"step": 3})
        assert torch.load(tmp_path / "x.pt", weights_only=True) == {"step": 3}

    def test_one_without_a_digest_is_of_another_writer(self, tmp_path):
        torch.save({"step": 3}, tmp_path / "x.pt")
        assert states.read_state(tmp_path / "x.pt") == ({"step": 3}, False)

    def test_one_of_another_kind_says_what_it_is(self, tmp_path):
        torch.save([1, 2], tmp_path / "x.pt")
        with pytest.raises(UserError, match=r"x\.pt is not a checkpoint of fastkd: expected a dictionary, got list"):
            states.read_state(tmp_path / "x.pt")

    def test_one_that_is_gone_is_named(self, tmp_path):
        with pytest.raises(UserError, match=r"cannot read the checkpoint .*x\.pt: No such file"):
            states.read_state(tmp_path / "x.pt")

    def test_what_is_expected_of_one_is_compared(self, tmp_path):
        written = states.write_state(tmp_path / "x.pt", {"step": 3})
        assert states.read_state(tmp_path / "x.pt", written)[0] == {"step": 3}
        with pytest.raises(UserError, match=r"x\.pt has [\d,]+ bytes, the checkpoint counts 7"):
            states.read_state(tmp_path / "x.pt", written._replace(size=7))
        with pytest.raises(UserError, match=r"x\.pt is not the file that the checkpoint counts: it has another digest"):
            states.read_state(tmp_path / "x.pt", written._replace(sha256="0" * 64))


STATE = {"weights": torch.arange(50_000.0), "names": ["a", None], "few": torch.ones(3), "step": 3}


class TestWriting:
    @pytest.mark.parametrize("chunk", (1, 1000, 1 << 24))
    def test_it_is_what_torch_saves_and_the_digest_of_that(self, chunk, tmp_path, monkeypatch):
        monkeypatch.setattr(states, "_CHUNK", chunk)
        plain = io.BytesIO()
        state = STATE if chunk > 1 else {"few": torch.ones(3)}
        torch.save(state, plain)
        content, digest = plain.getvalue()[:-2], hashlib.sha256(plain.getvalue()[:-2]).hexdigest()
        written = states.write_state(tmp_path / "x.pt", state)
        expected = content + (14 + 64).to_bytes(2, "little") + b"fastkd sha256 " + digest.encode()
        assert (tmp_path / "x.pt").read_bytes() == expected
        assert written == (len(expected), digest)

    def test_no_copy_of_it_is_held(self, tmp_path):
        state = {"bank": torch.zeros(1 << 23)}
        tracemalloc.start()
        states.write_state(tmp_path / "x.pt", state)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert peak < state["bank"].nbytes / 16

    @pytest.mark.parametrize("kind", (GivenUp, KeyboardInterrupt))
    def test_who_looks_may_end_it_and_what_stood_there_stays(self, kind, tmp_path, monkeypatch):
        monkeypatch.setattr(states, "_CHUNK", 1000)
        states.write_state(tmp_path / "x.pt", {"step": 2})
        looks = [0]

        def look():
            looks[0] += 1
            if looks[0] == 40:
                raise kind

        with pytest.raises(kind):
            states.write_state(tmp_path / "x.pt", STATE, look)
        assert looks == [40] and [path.name for path in tmp_path.iterdir()] == ["x.pt"]
        assert states.read_state(tmp_path / "x.pt")[0] == {"step": 2}

    @pytest.mark.parametrize("piece", (1, 17, 60))
    def test_a_disk_that_is_full_in_the_middle_is_one_line(self, piece, tmp_path, monkeypatch):
        monkeypatch.setattr(states, "_CHUNK", 10_000)
        states.write_state(tmp_path / "x.pt", {"step": 2})
        plain, pieces = states._Digested._pass_on, [0]

        class Full(io.BytesIO):
            def write(self, data):
                pieces[0] += 1
                if pieces[0] >= piece:
                    raise OSError(errno.ENOSPC, "No space left on device")
                return len(data)

        def on_a_full_disk(self, data):
            self.file = full
            plain(self, data)

        full = Full()
        with monkeypatch.context() as patch, pytest.raises(UserError) as raised:
            patch.setattr(states._Digested, "_pass_on", on_a_full_disk)
            states.write_state(tmp_path / "x.pt", STATE)
        line = f"cannot write {tmp_path / 'x.pt'}: the disk is full; what stood there before is intact"
        assert str(raised.value) == line and [path.name for path in tmp_path.iterdir()] == ["x.pt"]
        assert states.read_state(tmp_path / "x.pt")[0] == {"step": 2}
