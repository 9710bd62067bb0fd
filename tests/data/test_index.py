"""The scan of a folder, and what is kept of it."""

import contextlib
import os
import subprocess
import tempfile
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers.corrupt_folders import opened
from helpers.gloo_pair import run_in_several
from helpers.image_folders import write_folder

from fastkd.data import Reading, fingerprint, keep_index, open_dataset, paths
from fastkd.data import found as found_module
from fastkd.data import index as index_module
from fastkd.data.index import class_folders, scan
from fastkd.support import distributed
from fastkd.support.errors import UserError


@pytest.fixture
def root(tmp_path):
    return write_folder(tmp_path / "data", size=None, ending="jpg", per_class=6)


@pytest.fixture
def probed(monkeypatch):
    """The files that were opened."""
    opened = []
    probe = paths.probe

    def counting(path):
        opened.append(os.fsdecode(path))
        return probe(path)

    monkeypatch.setattr(paths, "probe", counting)
    return opened


def found(root, cache=None, threads=2):
    return scan(root / "train", class_folders(root / "train")[0], threads=threads, cache=cache, name="train")


def equal(left, right):
    return (
        list(left.records) == list(right.records)
        and np.array_equal(left.labels, right.labels)
        and np.array_equal(left.sizes, right.sizes)
        and np.array_equal(left.plain, right.plain)
        and left.bad == right.bad
    )


def test_files_stand_in_the_order_of_their_names(root):
    first = found(root)
    names = [os.path.relpath(path, root / "train") for path in first.records]
    assert names == sorted(names) and len(names) == 12
    assert first.labels.tolist() == [0] * 6 + [1] * 6
    assert first.sizes.min() >= 20 and first.plain.all()


@pytest.mark.parametrize("threads", (1, 2, 5))
def test_threads_change_nothing(root, threads, monkeypatch):
    monkeypatch.setattr(found_module, "_PORTION", 5)
    assert equal(found(root), found(root, threads=threads))


class TestCache:
    def test_files_are_opened_once(self, root, tmp_path, probed):
        (root / "train" / "ant" / "2.jpg").write_bytes(b"")
        first = found(root, tmp_path / "cache")
        assert len(probed) == 12
        assert equal(first, found(root, tmp_path / "cache")) and len(probed) == 12
        assert list(first.bad.values()) == ["is empty (0 bytes)"]

    @pytest.mark.parametrize("change", ("content", "time", "new", "gone", "renamed", "moved"))
    def test_a_change_of_the_tree_is_noticed(self, root, tmp_path, probed, change):
        found(root, tmp_path / "cache")
        file = root / "train" / "ant" / "2.jpg"
        if change == "content":
            file.write_bytes(b"x")
        elif change == "time":
            os.utime(file, ns=(1, 1))
        elif change == "new":
            (file.parent / "new.jpg").write_bytes(file.read_bytes())
        elif change == "gone":
            file.unlink()
        elif change == "renamed":
            file.rename(file.parent / "9.jpg")
        else:
            file.rename(root / "train" / "bee" / "7.jpg")
        probed.clear()
        assert equal(found(root, tmp_path / "cache"), found(root))
        assert probed

    @pytest.mark.parametrize("content", (b"", b"PK\3\4 no archive", None))
    def test_a_damaged_cache_is_made_anew(self, root, tmp_path, probed, content):
        first = found(root, tmp_path)
        (file,) = tmp_path.glob("index-train-*.npz")
        file.write_bytes(file.read_bytes()[:-40] if content is None else content)
        probed.clear()
        assert equal(first, found(root, tmp_path)) and len(probed) == 12
        probed.clear()
        assert equal(first, found(root, tmp_path)) and not probed

    def test_nothing_is_unpickled(self, root, tmp_path):
        found(root, tmp_path)
        (file,) = tmp_path.glob("index-train-*.npz")
        np.savez(file, about=np.array([{"a": 1}], dtype=object), sizes=np.zeros(1), plain=np.zeros(1))
        assert len(found(root, tmp_path).records) == 12

    def test_two_data_sets_do_not_share_one(self, root, tmp_path):
        other = write_folder(tmp_path / "other", size=None, ending="jpg", per_class=3)
        for folder in (root, other):
            found(folder, tmp_path / "cache")
        assert len(list((tmp_path / "cache").iterdir())) == 2

    def test_kept_in_the_runs_folder(self, root, tmp_path, probed):
        options = {"image_size": 8, "resident": False, "limit_train": None, "threads": 1}
        data = open_dataset(f"imagefolder:{root}", **options)
        (tmp_path / "run").mkdir()
        keep_index(data, tmp_path / "run")
        probed.clear()
        again = open_dataset(f"imagefolder:{root}", **options, cache=tmp_path / "run")
        assert not probed and list(again.train.records) == list(data.train.records)

    def test_kept_where_the_user_says(self, root, tmp_path, probed):
        options = {"image_size": 8, "resident": False, "limit_train": None, "threads": 1}
        options["reading"] = Reading(index_cache=tmp_path / "mine" / "deep")
        for _ in range(2):
            open_dataset(f"imagefolder:{root}", **options)
        assert len(probed) == 16
        assert len(list((tmp_path / "mine" / "deep").iterdir())) == 2


def test_unreadable_file():
    with tempfile.TemporaryDirectory() as place:
        root = write_folder(Path(place) / "data", size=None, ending="jpg")
        os.chmod(place, 0o755)
        image = root / "train" / "ant" / "3.jpg"
        image.chmod(0)
        with unprivileged():
            with pytest.raises(UserError, match=f"{image} cannot be read: Permission denied"):
                opened(root)
            assert len(opened(root, allowed=1).train) == 9
        image.chmod(0o644)
        image.parent.chmod(0)
        with unprivileged(), pytest.raises(UserError, match=f"{image.parent}.*(cannot be read|has no images)"):
            opened(root)
        image.parent.chmod(0o755)


@contextlib.contextmanager
def unprivileged():
    """Root may read everything."""
    if os.geteuid():
        yield
        return
    os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(0)


def test_a_circle_of_links(root):
    (root / "train" / "ant" / "again").symlink_to(root / "train" / "ant")
    with pytest.raises(UserError, match=r"again is a link to a folder that it lies in"):
        opened(root)
    assert len(opened(root, allowed=1).train) == 12


def test_folders_deeper_than_python_recurses(root):
    descriptor = os.open(root / "train" / "ant", os.O_RDONLY)
    for _ in range(1500):
        os.mkdir("d", dir_fd=descriptor)
        below = os.open("d", os.O_RDONLY, dir_fd=descriptor)
        os.close(descriptor)
        descriptor = below
    os.link(root / "train" / "ant" / "0.jpg", "deep.jpg", dst_dir_fd=descriptor)
    os.close(descriptor)
    try:
        assert len(opened(root).train) == 13
    finally:  # nor does what clears pytest's folders
        subprocess.run(["rm", "-rf", root / "train" / "ant" / "d"], check=True)


def test_links_that_are_no_circle_are_followed(root):
    (root / "train" / "ant" / "more").symlink_to(root / "train" / "bee")
    data = opened(root)
    assert data.train.labels.tolist() == [0] * 12 + [1] * 6


def test_other_files_are_passed_over_and_told(root):
    for name in ("notes.txt", "more.csv"):
        (root / "train" / "ant" / name).write_text("")
    data = opened(root)
    assert len(data.train) == 12
    assert "files that do not end as images do, passed over: 2, as " in data.notes[0] and "notes.txt" in data.notes[0]


def open_on_a_rank(rank, folder):
    """Rank 0 alone looks at files; all have the same images, or the same mistake."""
    looked, listed = [], []
    probe, walk = paths.probe, index_module._walk
    paths.probe = lambda path: looked.append(path) or probe(path)
    index_module._walk = lambda *where: listed.append(where) or walk(*where)
    data = opened(Path(folder) / "data")
    assert (len(looked), len(listed)) == ((16, 4) if rank == 0 else (0, 0))
    everywhere = distributed.from_all((fingerprint(data), data.notes, data.test.sizes.tolist()))
    assert all(found == everywhere[0] for found in everywhere) and len(everywhere) == 4
    assert torch.equal(data.train.records.pixels(3), opened(Path(folder) / "data").train.records.pixels(3))
    (Path(folder) / "data" / "train" / "ant" / "0.jpg").write_bytes(b"") if rank == 0 else None
    with pytest.raises(UserError, match=r"ant/0.jpg is empty"):
        opened(Path(folder) / "data")


@pytest.mark.slow
def test_one_of_four_ranks_scans_and_all_read(root, tmp_path):
    run_in_several(4, open_on_a_rank, str(tmp_path))
