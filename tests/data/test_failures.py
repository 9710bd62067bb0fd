"""Images that cannot be used are each named once, and there may be only so many."""

import pytest
from helpers.corrupt_folders import opened, trained
from helpers.loader_contract import spoil

from fastkd.data.failures import Failures
from fastkd.support.errors import UserError


def listed(count, first=0):
    return {f"/data/{number}.jpg": "is empty (0 bytes)" for number in range(first, first + count)}


@pytest.mark.parametrize("allowed", (0, 1, 3))
def test_as_many_as_allowed_may_fail_and_not_one_more(allowed):
    failures = Failures(allowed)
    failures.add(listed(allowed))
    with pytest.raises(UserError, match=rf"\(--max-bad-images allows {allowed}\)"):
        failures.add(listed(1, first=allowed))


def test_an_image_that_fails_again_counts_once_and_is_told_once():
    failures, told = Failures(1), []
    failures.report = told.append
    for reason in ("is empty (0 bytes)", "is truncated"):
        failures.add({"/data/a.jpg": reason}, while_reading=True, consequence="another takes its place")
    assert told == ["/data/a.jpg is empty (0 bytes): another takes its place"]
    assert failures.reasons == {"/data/a.jpg": "is empty (0 bytes)"}


def test_what_the_scan_finds_is_told_by_nobody_here():
    """It stands in the data set's notes, and in the line of the error."""
    failures = Failures(2)
    failures.report = lambda line: pytest.fail(line)
    failures.add(listed(2))
    failures.add(listed(2), while_reading=True)
    failures.add({})


def test_one_too_many_is_an_error_before_it_is_told():
    failures = Failures(0)
    failures.report = lambda line: pytest.fail(line)
    with pytest.raises(UserError, match=r"^1 image cannot be used .*: /data/0\.jpg is empty \(0 bytes\)$"):
        failures.add(listed(1), while_reading=True)


@pytest.mark.parametrize(
    "count, begin, end",
    [
        (1, "1 image cannot be used (--max-bad-images allows 0): /data/0.jpg", "/data/0.jpg is empty (0 bytes)"),
        (10, "10 images cannot be used", "/data/9.jpg is empty (0 bytes)"),
        (11, "11 images cannot be used", "/data/9.jpg is empty (0 bytes); and 1 more"),
    ],
)
def test_the_line_lists_ten_at_most(count, begin, end):
    with pytest.raises(UserError) as raised:
        Failures().add(listed(count))
    line = str(raised.value)
    assert line.startswith(begin) and line.endswith(end) and "\n" not in line


def test_a_negative_allowance_is_refused():
    with pytest.raises(UserError, match="max-bad-images is at least 0, got -1"):
        Failures(-1)


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
