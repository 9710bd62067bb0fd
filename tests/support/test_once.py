"""One rank works, both have what it made: in a memory that they share, or, where they share none, each in its own."""

import os
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers.gloo_pair import run_in_two

from fastkd.support import distributed, once
from fastkd.support.errors import UserError


def made(calls, fails=False):
    """Arrays of several kinds, one of them twice; notes that it was called."""
    calls.append(distributed.rank())
    if fails:
        raise UserError("no folder is there")
    names = np.arange(1_000_001, dtype=np.uint8)
    empty = np.empty((0, 2), np.int32)
    return {
        "names": names,
        "again": names,
        "labels": torch.arange(7),
        "empty": empty,
        "planes": names[:12].reshape(3, 4).T,
    }


def check(found):
    names = np.arange(1_000_001, dtype=np.uint8)
    assert (found["names"] == names).all() and found["again"] is found["names"]
    assert found["labels"].tolist() == list(range(7)) and found["empty"].shape == (0, 2)
    assert (found["planes"] == names[:12].reshape(3, 4).T).all()


def file_of(array):
    """The file whose pages an array lies in, as the system names it."""
    address = array.__array_interface__["data"][0]
    for line in Path("/proc/self/maps").read_text().splitlines():
        first, last = (int(end, 16) for end in line.split()[0].split("-"))
        if first <= address < last:
            return line[73:]
    raise AssertionError("the array lies in no mapping")


def work(rank, folder):
    calls = []
    found = once.made_once(lambda: made(calls))
    check(found)
    assert calls == [0] * (rank == 0), "one rank makes it"
    files = distributed.from_all(file_of(found["names"]))
    assert files[0] == files[1] and files[0].startswith("/dev/shm/fastkd-"), "both see the same pages"
    found["names"][0] = 1 + rank  # its own copy
    assert distributed.from_all(int(found["names"][0])) == [1, 2]
    with pytest.raises(UserError, match="no folder is there"):
        once.made_once(lambda: made(calls, fails=True))
    for memory in (folder if rank else "/dev/shm", "/no/such/folder"):  # two machines; no shared memory at all
        once.MEMORY, once._PORTION = Path(memory), 1 << 18
        check(once.made_once(lambda: made(calls)))
    assert len(calls) == 4 * (rank == 0)
    assert not [name for name in os.listdir(folder) if name.startswith("fastkd-")], "nothing is left there"


@pytest.mark.skipif(not Path("/dev/shm").is_dir(), reason="no shared memory")
def test_both_ranks_have_what_one_makes(tmp_path):
    run_in_two(work, str(tmp_path))


def test_one_process_makes_it_itself():
    value = object()
    assert once.made_once(lambda: value) is value


def test_those_that_wait_hear_of_long_work(monkeypatch):
    """A timeout of the group shorter than a scan must not end a run."""
    monkeypatch.setattr(once, "_BEAT_S", 0.01)
    monkeypatch.setattr(once, "on_main", lambda action: action())
    told = []
    monkeypatch.setattr(once, "from_main", lambda ended: told.append(ended) or ended)
    assert once._made_while_others_wait(lambda: len(told) if _soon(told) else None).buffers == []
    assert told[:2] == [False, False] and told[-1]


def _soon(told):
    while len(told) < 2:
        pass
    return True
