"""Images in another keeping than folders: a list, tar shards, a saved data set, objects of a program."""

import importlib.util
import json
import os
import pickle
import shutil
import sys
import tarfile
import types

import numpy as np
import pytest
import torch
from helpers.corrupt_folders import SIZE, evaluated, trained
from helpers.image_folders import LOADERS, write_folder
from helpers.origins import Items, as_csv, as_saved, as_tar, files_of

from fastkd.data import Reading, keep_index, named_by_a_person, open_dataset, shards, tar
from fastkd.data.__main__ import main as data_main
from fastkd.data.objects import data_set_from
from fastkd.support import once
from fastkd.support.errors import UserError

needs_pyarrow = pytest.mark.skipif(importlib.util.find_spec("pyarrow") is None, reason="pyarrow is not installed")
ORIGINS = ["csv", "tar", "tar, cls", "tar, json", pytest.param("hf", marks=needs_pyarrow), "object"]


@pytest.fixture
def root(tmp_path):
    return write_folder(tmp_path / "birds", size=None, ending="jpg", per_class=6)


def opened(spec, cache=None, **reading):
    how = {"image_size": SIZE, "resident": False, "limit_train": None, "threads": 2}
    return open_dataset(spec, **how, reading=Reading(**reading), cache=cache)


def of(origin, root, tmp_path, **reading):
    if origin == "object":
        return data_set_from((Items(root, "train"), Items(root, "val")), "mine:birds", Reading(**reading))
    if origin == "csv":
        return opened(as_csv(root), **reading)
    if origin == "hf":
        return opened(as_saved(root, tmp_path / "saved"), **reading)
    kind = origin.partition(", ")[2] or "folder"
    column = {"label_column": "species"} if kind == "json" else {}
    return opened(as_tar(root, tmp_path / "shards", kind), **column, **reading)


@pytest.mark.parametrize("loader", LOADERS)
@pytest.mark.parametrize("origin", ORIGINS)
def test_batches_are_those_of_the_folder(origin, loader, root, tmp_path):
    folder, other = opened(f"imagefolder:{root}"), of(origin, root, tmp_path)
    assert other.classes == (("0", "1") if origin == "tar, cls" else ("ant", "bee")) and not other.failures.reasons
    for left, right in zip(trained(folder, loader), trained(other, loader), strict=True):
        assert torch.equal(left.index, right.index) and torch.equal(left.images, right.images)
    for left, right in zip(evaluated(folder, loader), evaluated(other, loader), strict=True):
        assert torch.equal(left.index, right.index) and torch.equal(left.images, right.images)
    assert torch.equal(folder.train.labels, other.train.labels) and torch.equal(folder.test.labels, other.test.labels)
    assert np.array_equal(folder.train.sizes, other.train.sizes)


@pytest.mark.parametrize("origin", ["folder", *ORIGINS[:-1]])
def test_another_process_gets_the_same(origin, root, tmp_path):
    """As rank 0 gives it to the others: the arrays apart, in a memory that they share."""
    data = opened(f"imagefolder:{root}") if origin == "folder" else of(origin, root, tmp_path)
    head, buffers = once._packed(data)
    other = pickle.loads(head, buffers=[bytearray(buffer) for buffer in buffers])
    for left, right in zip(trained(data, "torchvision"), trained(other, "torchvision"), strict=True):
        assert torch.equal(left.index, right.index) and torch.equal(left.images, right.images)
    assert list(other.test.records) == list(data.test.records) and other.notes == data.notes
    assert len(head) < 4_000, "what grows with the images lies in the arrays"


@pytest.mark.parametrize("origin", ORIGINS)
def test_workers_read_the_same(origin, root, tmp_path):
    data = of(origin, root, tmp_path)
    for left, right in zip(trained(data, "torchvision"), trained(data, "torchvision", workers=2), strict=True):
        assert torch.equal(left.images, right.images)


def test_mean_and_deviation_are_measured(root, tmp_path):
    data = of("csv", root, tmp_path)
    pixels = [data.train.records.pixels(place).reshape(-1, 3).double() / 255 for place in range(len(data.train))]
    mean = torch.stack([each.mean(0) for each in pixels]).mean(0)
    square = torch.stack([(each**2).mean(0) for each in pixels]).mean(0)
    assert data.mean == pytest.approx(mean.tolist(), abs=1e-4)
    assert data.std == pytest.approx((square - mean**2).sqrt().tolist(), abs=1e-4)
    assert any("12 training images" in note for note in data.notes)


@pytest.mark.parametrize("origin", ["csv", "tar"])
def test_heads_are_looked_at_once(origin, root, tmp_path, monkeypatch):
    spec = as_csv(root) if origin == "csv" else as_tar(root, tmp_path / "shards")
    first = opened(spec)
    keep_index(first, tmp_path / "kept")
    opened(spec, tmp_path / "kept")
    monkeypatch.setattr("fastkd.data.paths.probe", pytest.fail)
    monkeypatch.setattr("fastkd.data.tar.probe_bytes", pytest.fail)
    monkeypatch.setattr("fastkd.data.tar.tarfile.open", pytest.fail)
    again = opened(spec, tmp_path / "kept")
    assert list(again.train.records) == list(first.train.records)
    assert np.array_equal(again.train.sizes, first.train.sizes)


class TestSplit:
    @pytest.mark.parametrize("share, tested", [(0.01, 1), (0.34, 2), (0.99, 5)])
    def test_every_class_is_divided(self, share, tested, root):
        data = opened(f"imagefolder:{root / 'train'}", split=share)
        assert np.bincount(data.test.labels.numpy()).tolist() == [tested, tested]
        assert np.bincount(data.train.labels.numpy()).tolist() == [6 - tested, 6 - tested]
        assert not set(data.train.records) & set(data.test.records)
        again = opened(f"imagefolder:{root / 'train'}", split=share)
        assert list(again.test.records) == list(data.test.records)

    def test_a_list_in_one_piece(self, root):
        (root / "one.csv").write_text("file,class\n" + "".join(f"train/ant/{n}.jpg,{n % 2}\n" for n in range(6)))
        data = opened(f"csv:{root / 'one.csv'}", split=0.4)
        assert data.classes == ("0", "1") and (len(data.train), len(data.test)) == (4, 2)

    def test_bad_files_are_named_once(self, root):
        (root / "train" / "ant" / "2.jpg").write_bytes(b"")
        data = opened(f"imagefolder:{root / 'train'}", split=0.5, max_bad_images=1)
        assert len(data.train) + len(data.test) == 11 and len(data.failures.reasons) == 1

    @pytest.mark.parametrize(
        "spec, reading, words",
        [
            ("imagefolder:{root}", {"split": 0.1}, "--split changes nothing"),
            ("imagefolder:{root}/train", {}, "with --split .1 a tenth"),
            ("csv:{root}/list.csv", {"split": 0.1}, "--split changes nothing"),
        ],
    )
    def test_one_line(self, spec, reading, words, root):
        as_csv(root)
        with pytest.raises(UserError, match=words):
            opened(spec.format(root=root), **reading)


class TestLists:
    @pytest.mark.parametrize(
        "text, words",
        [
            ("", "has no head"),
            ("path,lable\n", "no column 'label' or 'class': its columns are path, lable; did you mean 'lable'"),
            ("path,label\ntrain/ant/0.jpg\n", "line 2: expected 2 columns, got 1"),
            ("path,label\n../outside.jpg,a\n", "is no path below the folder"),
            ("path,label\n/etc/passwd,a\n", "is no path below the folder"),
            ("path,label\n,a\n", "is no path below the folder"),
            ("path,label\ntrain/ant/0.jpg,\n", "has no label"),
            ("path,label\ntrain/ant/0.jpg,a\ntrain/ant/0.jpg,b\n", "line 3: train/ant/0.jpg stands in line 2, too"),
            ("path,label,split\ntrain/ant/0.jpg,a,dev\n", "expected train, val or test"),
            ("path,label\ntrain/ant/0.jpg,a\ntrain/ant/1.jpg,b\n", "is in one piece"),
            ("path,label,split\ntrain/ant/0.jpg,a,train\ntrain/ant/1.jpg,b,test\n", "'b' has no images to train on"),
            ('path,label\n"train/ant/0.jpg,a\n', "line"),
            ("path,label,split\ntrain/ant/99.jpg,a,train\ntrain/ant/1.jpg,a,test\n", "cannot be read"),
        ],
    )
    def test_one_line(self, text, words, root):
        (root / "list.csv").write_text(text)
        with pytest.raises(UserError, match=words) as caught:
            opened(f"csv:{root / 'list.csv'}")
        assert "\n" not in str(caught.value)


class TestShards:
    def test_what_is_compressed_is_refused(self, root, tmp_path):
        with tarfile.open(tmp_path / "train.tar", "w:gz") as archive:
            archive.add(root / "train" / "ant" / "0.jpg", "ant/0.jpg")
        with pytest.raises(UserError, match="is compressed by gzip"):
            opened(f"tar:{tmp_path / 'train.tar'}")

    def test_what_is_cut_short_is_refused(self, root, tmp_path):
        spec = as_tar(root, tmp_path / "shards")
        shard = tmp_path / "shards" / "birds-train-000000.tar"
        shard.write_bytes(shard.read_bytes()[:2000])
        with pytest.raises(UserError):
            opened(spec)

    def test_a_shard_that_changed_is_listed_anew(self, root, tmp_path):
        spec = as_tar(root, tmp_path / "shards")
        opened(spec, tmp_path / "kept")
        (root / "train" / "ant" / "0.jpg").unlink()
        as_tar(root, tmp_path / "shards")
        assert len(opened(spec, tmp_path / "kept").train) == 11

    def test_a_kept_list_that_is_damaged_is_made_anew(self, root, tmp_path):
        spec = as_tar(root, tmp_path / "shards")
        whole = opened(spec, tmp_path / "kept")
        (file,) = (tmp_path / "kept").glob("members-*.npz")
        rng = np.random.default_rng(0)
        for _ in range(30):
            content = bytearray(file.read_bytes())
            content[rng.integers(len(content))] ^= 1 << int(rng.integers(8))
            file.write_bytes(content)
            again = opened(spec, tmp_path / "kept")
            assert list(again.train.records) == list(whole.train.records)

    def test_one_folder_of_a_tar_is_a_part(self, root, tmp_path):
        with tarfile.open(tmp_path / "all.tar", "w") as archive:
            archive.add(root, "birds")
        data, folder = opened(f"tar:{tmp_path / 'all.tar'}"), opened(f"imagefolder:{root}")
        assert [data.train.records.name(n) for n in range(12)] == [folder.train.records.name(n) for n in range(12)]

    @pytest.mark.parametrize("pattern", ["{a..b}.tar", "{0..99999999}.tar", "none-*.tar", ""])
    def test_one_line(self, pattern, tmp_path):
        with pytest.raises(UserError):
            opened(f"tar:{tmp_path}/{pattern}" if pattern else "tar:")

    def test_a_shard_that_others_push_out_is_not_closed_while_it_is_read(self, tmp_path, monkeypatch):
        """Between the look at its descriptor and the reading, other threads read more shards than are held open."""
        for name, content in (("a.tar", b"first"), ("b.tar", b"second")):
            (tmp_path / name).write_bytes(content)
        found, pread = shards.Shards(str(tmp_path / "*.tar")), os.pread

        def late(number, count, offset):
            shards._descriptor.cache_clear()
            with open(tmp_path / "b.tar", "rb"):  # takes the number of a file that is closed
                return pread(number, count, offset)

        monkeypatch.setattr(shards.os, "pread", late)
        assert found.read(0, 5, 0) == b"first"

    def test_a_range_stands_for_every_number(self, root, tmp_path):
        as_tar(root, tmp_path / "shards")
        data = opened(f"tar:{tmp_path}/shards/birds-{{train,val}}-{{000000..000001}}.tar")
        assert (len(data.train), len(data.test)) == (12, 4)

    def test_shards_in_a_store(self, root, tmp_path):
        fsspec = pytest.importorskip("fsspec")
        as_tar(root, tmp_path / "shards")
        memory = fsspec.filesystem("memory")
        for file in (tmp_path / "shards").iterdir():
            memory.pipe(f"/bucket/{file.name}", file.read_bytes())
        data, folder = opened("tar:memory://bucket/birds-{train,val}-*.tar"), opened(f"imagefolder:{root}")
        for left, right in zip(trained(data, "torchvision"), trained(folder, "torchvision"), strict=True):
            assert torch.equal(left.images, right.images)
        with pytest.raises(UserError, match="cannot read nowhere://"):
            opened("tar:nowhere://bucket/*.tar")


@needs_pyarrow
class TestSaved:
    @pytest.mark.parametrize(
        "file, content, words",
        [
            ("dataset_dict.json", {"splits": ["dev"]}, "has no split 'train'"),
            ("dataset_dict.json", {"splits": "train"}, "dataset_dict.json"),
            ("train/state.json", {"_data_files": [{"filename": "../../x.arrow"}]}, "has no file '../../x.arrow'"),
            ("train/state.json", {"_data_files": []}, "names 0 files"),
            ("train/state.json", {"_data_files": [{"filename": "state.json"}]}, "is no Arrow stream"),
            (
                "train/dataset_info.json",
                {"features": {"label": {"_type": "ClassLabel"}}},
                "no column of the kind image",
            ),
            ("train/dataset_info.json", {"features": {"image": {"_type": "Image"}}}, "no column of the kind label"),
            ("train/dataset_info.json", {}, "features"),
        ],
    )
    def test_one_line(self, file, content, words, root, tmp_path):
        spec = as_saved(root, tmp_path / "saved")
        (tmp_path / "saved" / file).write_text(json.dumps(content))
        with pytest.raises(UserError, match=words):
            opened(spec)

    def test_what_the_library_itself_saved(self, root, tmp_path):
        datasets = pytest.importorskip("datasets")
        whole = datasets.load_dataset("imagefolder", data_dir=str(root), cache_dir=str(tmp_path / "cache"))
        whole.save_to_disk(str(tmp_path / "saved"))
        folder, saved = opened(f"imagefolder:{root}"), opened(f"hf:{tmp_path / 'saved'}")
        assert saved.classes == folder.classes and len(saved.train) == 12 and len(saved.test) == 4


class TestObjects:
    def module(self, monkeypatch, value):
        module = types.ModuleType("mydata")
        module.birds = lambda: value
        monkeypatch.setitem(sys.modules, "mydata", module)
        return named_by_a_person("mydata:birds")

    def test_arrays(self, monkeypatch):
        images = np.random.default_rng(0).integers(0, 256, (20, 8, 8, 3), dtype=np.uint8)
        spec = self.module(monkeypatch, ((images, np.arange(20) % 4), (images[:4], [0, 1, 2, 3])))
        data = open_dataset(spec, image_size=8, resident=True, limit_train=None, threads=1)
        assert data.classes == ("0", "1", "2", "3") and torch.equal(data.train.images, torch.from_numpy(images))

    @pytest.mark.parametrize(
        "value, words",
        [
            (3, "returned a int"),
            ([(torch.zeros(3, 8, 8), 0)] * 4, "is float32"),
            ([(np.zeros((8, 8, 3), np.uint8), -1)], "whole numbers from 0 on"),
            ([3], "no pair of image and label"),
            (((np.zeros((2, 8, 8, 3), np.float32), [0, 1]), (np.zeros((2, 8, 8, 3), np.uint8), [0, 1])), "uint8"),
            ((np.zeros((2, 8, 8, 3), np.uint8), [0, 1]), "in one piece"),
        ],
    )
    def test_one_line(self, value, words, monkeypatch):
        with pytest.raises(UserError, match=words):
            open_dataset(
                self.module(monkeypatch, value), image_size=8, resident=False, limit_train=None, threads=1,
                reading=Reading(split=0.5) if "piece" not in words else Reading(),
            )  # fmt: skip

    @pytest.mark.parametrize(
        "spec, words",
        [
            ("nomodule.here:birds", "cannot import the data set"),
            ("json:nothing", "cannot import the data set"),
            ("cifra100:nowhere", "did you mean 'cifar100'"),
            ("json:__doc__", "is no function"),
        ],
    )
    def test_what_cannot_be_imported(self, spec, words):
        with pytest.raises(UserError, match=words):
            named_by_a_person(spec)

    def test_a_file_imports_nothing(self):
        with pytest.raises(UserError, match="nothing that a file names is imported"):
            open_dataset("some.where:birds", image_size=8, resident=False, limit_train=None, threads=1)


def test_a_list_of_a_shard_does_not_point_outside(root, tmp_path):
    spec = as_tar(root, tmp_path / "shards")
    opened(spec, tmp_path / "kept")
    (file,) = (tmp_path / "kept").glob("members-*.npz")
    with np.load(file) as kept:
        arrays = dict(kept)
    arrays["labels"] = arrays["labels"] + 7
    np.savez(file, **arrays)
    assert tar._kept(file, json.loads(arrays["about"].tobytes())["key"]) is None


@needs_pyarrow
class TestPack:
    def parquet(self, root, folder, part):
        import pyarrow as arrow
        import pyarrow.parquet as parquet

        files = [(name, path) for each, name, path in files_of(root) if each == part]
        features = {"image": {"_type": "Image"}, "label": {"names": ["ant", "bee"], "_type": "ClassLabel"}}
        columns = {
            "image": [{"bytes": path.read_bytes(), "path": None} for _, path in files],
            "label": [["ant", "bee"].index(name) for name, _ in files],
        }
        table = arrow.table(columns).replace_schema_metadata(
            {"huggingface": json.dumps({"info": {"features": features}})}
        )
        parquet.write_table(table, folder / f"{part}.parquet")
        return folder / f"{part}.parquet"

    def test_shards_give_the_folders_batches(self, root, tmp_path, capsys):
        for part, given in (("train", "train"), ("val", "test")):
            source = self.parquet(root, tmp_path, part)
            assert data_main(["pack", str(source), str(tmp_path / "shards"), "--part", given]) == 0
        assert "12 images of 1 parquet files: about 0.00 GiB" in capsys.readouterr().err
        data, folder = opened(f"tar:{tmp_path / 'shards'}/*.tar"), opened(f"imagefolder:{root}")
        assert data.classes == ("ant", "bee")
        for left, right in zip(trained(data, "torchvision"), trained(folder, "torchvision"), strict=True):
            assert torch.equal(left.images, right.images)

    def test_mistakes_are_one_line(self, root, tmp_path):
        (tmp_path / "no.parquet").write_bytes(b"nothing")
        for source, words in (
            (tmp_path / "no.parquet", "is no parquet file"),
            (tmp_path / "gone", "no folder with files"),
        ):
            with pytest.raises(UserError, match=words):
                data_main(["pack", str(source), str(tmp_path / "shards")])
        with pytest.raises(UserError, match="no column of one label .*did you mean 'label'"):
            data_main(
                ["pack", str(self.parquet(root, tmp_path, "val")), str(tmp_path / "s"), "--label-column", "lable"]
            )
        with pytest.raises(UserError, match="python -m fastkd.data pack"):
            opened(f"parquet:{tmp_path}")


class TestValidation:
    def test_a_share_of_every_class_is_kept(self, root):
        data = open_dataset(
            f"imagefolder:{root}", image_size=SIZE, resident=True, limit_train=None, threads=1, validation=0.3
        )
        assert np.bincount(data.validation.labels.numpy()).tolist() == [2, 2] and len(data.train) == 8
        assert len(data.test) == 4 and data.validation.images.shape[1] == SIZE

    def test_a_folder_of_its_own(self, root):
        shutil.copytree(root / "val", root / "test")
        (root / "val" / "ant" / "0.jpg").unlink()
        data = opened(f"imagefolder:{root}")
        assert (len(data.validation), len(data.test)) == (3, 4) and "/test/" in data.test.records[0]
        with pytest.raises(UserError, match="--validation changes nothing"):
            open_dataset(
                f"imagefolder:{root}", image_size=SIZE, resident=True, limit_train=None, threads=1, validation=0.3
            )

    def test_a_test_folder_without_classes_is_none(self, root):
        (root / "test").mkdir()
        (root / "test" / "0.jpg").write_bytes((root / "val" / "ant" / "0.jpg").read_bytes())
        data = opened(f"imagefolder:{root}")
        assert data.validation is None and "/val/" in data.test.records[0]

    def test_a_column_says_so(self, root):
        as_csv(root)
        lines = (root / "list.csv").read_text().splitlines()
        (root / "list.csv").write_text(
            "\n".join(line if "1.jpg" in line else line.replace(",val", ",test") for line in lines)
        )
        data = opened(f"csv:{root / 'list.csv'}")
        assert (len(data.train), len(data.validation), len(data.test)) == (12, 2, 2)
