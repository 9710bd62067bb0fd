"""Images that cannot be used are each named once, and there may be only so many."""

import pytest
from helpers.corrupt_folders import opened, trained
from helpers.loader_contract import spoil

from fastkd.support.errors import UserError


def test_several_are_listed_and_counted(root):
    files = sorted((root / "train" / "bee").iterdir())[:3] + sorted((root / "val" / "ant").iterdir())[:1]
    for file in files:
        file.write_bytes(b"")
    with pytest.raises(UserError) as raised:
        opened(root, allowed=3)
    line = str(raised.value)
    assert line.startswith("4 images cannot be used (--max-bad-images allows 3)") and "\n" not in line
    assert all(f"{file} is empty" in line for file in files)
    data = opened(root, allowed=4)
    assert (len(data.train), len(data.test)) == (13, 7)


def test_a_long_list_is_cut(root):
    for part in ("train", "val"):
        for file in (root / part).rglob("[1-9].jpg"):
            file.write_bytes(b"")
    with pytest.raises(UserError, match=r"20 images cannot be used .*; and 10 more$"):
        opened(root)


def test_the_scan_and_the_training_share_the_allowance(root, image):
    image.write_bytes(b"")
    data = opened(root, allowed=1)
    spoil(data, 5)
    with pytest.raises(UserError, match="2 images cannot be used"):
        trained(data, "torchvision", batch_size=15)
