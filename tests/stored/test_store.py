"""The folder: what it says of itself, whom it serves, who may write."""

import json
import random
from dataclasses import replace

import numpy as np
import pytest
from helpers.hostile import STRANGE, damaged, line_of, put_strange
from helpers.stores import HERE, KEY, ROW, opened

from fastkd.stored import Key
from fastkd.stored.store import size_of
from fastkd.support.errors import UserError


def signed(*arguments, **options):
    """A store that rows are written to."""
    store = opened(*arguments, **options)
    store.sign()
    return store


def mistake(*arguments, **options):
    with pytest.raises(UserError) as raised:
        opened(*arguments, **options)
    line = str(raised.value)
    assert "\n" not in line
    return line


def contents(folder):
    return {path.name: path.read_bytes() for path in (folder / "teacher").iterdir() if path.name != ".lock"}


OTHERS = {
    "network": "resnet20",
    "weights": "2" * 64,
    "mode": "training",
    "folded": True,
    "precision": "bfloat16",
    "layout": "channels_last",
    "data": "3" * 64,
    "samples": 21,
    "image_size": 9,
    "mean": (0.5, 0.5, 0.4),
    "std": (0.2, 0.2, 0.3),
    "decoder": "dali",
    "augmentation": {"crop": "pad", "flip": False},
    "augmentation_version": 2,
    "mixing": "mixup",
    "data_seed": 1,
}


@pytest.mark.parametrize("field", Key.__dataclass_fields__)
def test_every_field_of_the_key_is_refused_by_name_when_it_differs(field, tmp_path):
    opened(tmp_path).close()
    before = contents(tmp_path)
    name = "flip" if field == "augmentation" else field.replace("_", " ")
    assert f"was made with {name} " in mistake(tmp_path, replace(KEY, **{field: OTHERS[field]}))
    assert contents(tmp_path) == before
    opened(tmp_path).close()


@pytest.mark.parametrize(
    "field, value",
    (
        ("device", "other"),
        ("torch", "2.13"),
        ("instruction_set", "AVX512"),
        ("threads", 2),
        ("rows_per_forward", 64),
        ("tf32", True),
        ("compile", "blocks"),
    ),
)
def test_other_circumstances_are_told_kept_and_refused_where_bits_count(field, value, tmp_path):
    signed(tmp_path).close()
    there = replace(HERE, **{field: value})
    assert f"{field.replace('_', ' ')} " in mistake(tmp_path, here=there, exact=True)
    reader = opened(tmp_path, here=there)
    reader.close()
    assert len(reader.differs) == 1 and "the last bits of rows may differ" in reader.differs[0]
    assert opened(tmp_path, exact=True).close() is None, "who only reads leaves no trace"
    signed(tmp_path, here=there).close()
    back = opened(tmp_path)
    assert back.about.made_by == (HERE, there)
    assert len(back.differs) == 1, "it holds rows that were made elsewhere, too"
    back.close()


def test_circumstances_that_are_the_same_are_no_news(tmp_path):
    signed(tmp_path).close()
    store = signed(tmp_path, exact=True)
    assert store.notes == [] and store.about.made_by == (HERE,)
    store.close()


def test_what_rows_lack_is_refused(tmp_path):
    opened(tmp_path).close()
    assert "it holds no embedding: give another --teacher-outputs" in mistake(
        tmp_path, row=replace(ROW, outputs=("logits", "embedding"))
    )


def test_one_command_writes_and_the_others_read(tmp_path):
    writer = opened(tmp_path)
    reader = opened(tmp_path)
    assert writer.writable and not reader.writable
    assert len(reader.notes) == 1 and "rows that are missing are computed here, and not added" in reader.notes[0]
    writer.close()
    after = opened(tmp_path)
    assert after.writable
    after.close()
    reader.close()


def test_a_store_of_more_views_is_read_only_and_left_to_others(tmp_path):
    turned = replace(ROW, views=4, quarter_turns=True)
    opened(tmp_path, row=turned).close()
    reader = opened(tmp_path)
    assert reader.notes == [
        "it holds 4 views at quarter turns, here there is 1: rows that are missing are computed here, and not added"
    ]
    with pytest.raises(UserError, match="nothing can be added to the store .*: it holds 4 views at quarter turns"):
        reader.refuse_reading_only()
    writer = opened(tmp_path, row=turned)
    assert writer.writable
    writer.close()
    reader.close()


def test_a_mistake_leaves_the_lock_to_others(tmp_path):
    opened(tmp_path).close()
    mistake(tmp_path, replace(KEY, data_seed=1))
    store = opened(tmp_path)
    assert store.writable
    store.close()


def test_a_folder_of_something_else_is_left_alone(tmp_path):
    (tmp_path / "teacher").mkdir()
    (tmp_path / "teacher" / "thesis.tex").write_text("precious")
    assert "is no store: it has no store.json, but thesis.tex" in mistake(tmp_path)
    assert contents(tmp_path) == {"thesis.tex": b"precious"}


@pytest.mark.parametrize(
    "change, words",
    (
        (lambda plain: plain | {"format": 2}, "has format 2, this fastkd reads 1"),
        (lambda plain: [], "store.json is [], expected a dictionary"),
        (lambda plain: plain | {"key": {}}, "lacks the entry 'network'"),
        (
            lambda plain: plain | {"key": plain["key"] | {"samples": -1}},
            "samples is -1, expected a whole number from 1",
        ),
        (
            lambda plain: plain | {"key": plain["key"] | {"samples": 1 << 60}},
            "samples is 1152921504606846976, expected",
        ),
        (lambda plain: plain | {"row": plain["row"] | {"outputs": ["stem"]}}, "expected one of 'logits', 'embedding'"),
        (lambda plain: plain | {"row": plain["row"] | {"type": "float8"}}, "expected one of"),
        (lambda plain: plain | {"made_by": [{}]}, "lacks the entry"),
    ),
)
def test_a_damaged_store_is_one_line(change, words, tmp_path):
    opened(tmp_path).close()
    path = tmp_path / "teacher" / "store.json"
    path.write_text(json.dumps(change(json.loads(path.read_text()))))
    assert words in mistake(tmp_path)


def test_a_disk_without_room_is_refused_before_anything_is_written(tmp_path, monkeypatch):
    store = opened(tmp_path)
    monkeypatch.setattr("shutil.disk_usage", lambda folder: type("Usage", (), {"free": 1000}))
    store.refuse_full_disk(22)
    with pytest.raises(UserError, match=r"needs 1.01 kB more, the disk has 1 kB: a narrower --store-type"):
        store.refuse_full_disk(23)
    store.close()


def test_missing_rows_are_counted(tmp_path):
    store = opened(tmp_path)
    assert store.missing(0) == 20
    files = store.epoch(0)
    files.write([3], np.zeros((1, ROW.words), np.int32))
    files.close()
    assert (store.missing(0), store.missing(1)) == (19, 20)
    store.close()


def test_sizes_in_words():
    assert [size_of(n) for n in (12, 1200, 4_800_000_000)] == ["12 bytes", "1.2 kB", "4.8 GB"]


class TestHostile:
    """Whatever stands in the files of a store, it is read or refused in one line."""

    @pytest.mark.parametrize("what", STRANGE)
    @pytest.mark.parametrize("name", ("store.json", ".lock", "epoch-00000.rows", "epoch-00000.checks"))
    def test_what_is_no_regular_file(self, name, what, tmp_path):
        """A store that cannot be locked is read; a link that leads nowhere is a file that is not there."""
        filled(tmp_path)
        put_strange(tmp_path / "teacher" / name, what)
        found = []
        line = line_of(lambda: found.append(read(tmp_path)), (name, what))
        assert line or (name, what) == ("store.json", "nowhere") or (name == ".lock" and found[0][1].all())

    @pytest.mark.parametrize("cases", (60, pytest.param(3000, marks=pytest.mark.slow)))
    @pytest.mark.parametrize("name", ("epoch-00000.rows", "epoch-00000.checks"))
    def test_rows_are_whole_or_not_there(self, name, cases, tmp_path):
        path, known = tmp_path / "teacher" / name, filled(tmp_path)
        content = path.read_bytes()
        for number in range(cases):
            path.write_bytes(damaged(content, random.Random(f"{name} {number}")))
            found = []
            if not line_of(lambda found=found: found.append(read(tmp_path)), number):
                rows, there = found[0]
                assert (rows[there] == known[there]).all()


def filled(folder):
    """Writes an epoch of rows; returns them."""
    store = signed(folder)
    rows = np.random.default_rng(0).integers(-(2**31), 2**31, (KEY.samples, ROW.words), np.int32)
    files = store.epoch(0)
    files.write(range(KEY.samples), rows)
    files.close()
    store.close()
    return rows


def read(folder):
    store = opened(folder)
    try:
        files = store.epoch(0)
        rows, there, _ = files.whole()
        files.close()
    finally:
        store.close()
    return rows, there
