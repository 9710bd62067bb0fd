"""Data sets, batches and views: what they promise to whoever holds them."""

import numpy as np
import pytest
import torch

from fastkd.data import FOUR_ROTATIONS, ONE_VIEW, FileSplit, RawBatch, Split, Views
from fastkd.data.base import Reading, channel_statistics
from fastkd.data.paths import Paths
from fastkd.support.environment import cores


def raw(first=0, count=3, pixels=True):
    images = torch.full((2, count, 4, 4, 3), first, dtype=torch.uint8) if pixels else None
    return RawBatch(torch.arange(count) + first, images, (torch.full((count, 2), first, dtype=torch.int32),))


def addresses(batch):
    return [tensor.data_ptr() for tensor in (batch.index, batch.images, *batch.taught) if tensor is not None]


class TestRawBatch:
    @pytest.mark.parametrize("pixels", (True, False))
    def test_a_copy_has_its_own_memory_and_is_filled_in_place(self, pixels):
        given = raw(5, pixels=pixels)
        kept = given.copied()
        before = addresses(kept)
        kept.fill(raw(9, pixels=pixels))
        assert addresses(kept) == before and not set(before) & set(addresses(given))
        assert kept.taught[0].unique().tolist() == [9] and given.taught[0].unique().tolist() == [5]
        assert kept.index.tolist() == [9, 10, 11] and given.index.tolist() == [5, 6, 7]
        if pixels:
            assert kept.images.unique().tolist() == [9] and given.images.unique().tolist() == [5]
        else:
            assert kept.images is None

    def test_a_batch_of_another_size_does_not_fill_it(self):
        with pytest.raises(RuntimeError):
            raw(count=3).fill(raw(count=2))

    @pytest.mark.parametrize("pixels", (True, False))
    def test_it_moves_with_its_pixels(self, pixels):
        moved = raw(pixels=pixels).to(torch.device("meta"))
        assert moved.index.is_meta and moved.taught[0].is_meta and (moved.images is None or moved.images.is_meta)
        assert (moved.images is None) == (not pixels)

    def test_empty(self):
        kept = raw(count=0).copied()
        kept.fill(raw(count=0))
        assert kept.images.shape == (2, 0, 4, 4, 3)


class TestViews:
    def test_one_is_the_default(self):
        assert Views() == ONE_VIEW and (ONE_VIEW.count, ONE_VIEW.quarter_turns) == (1, False)
        assert Views(4, quarter_turns=True) == FOUR_ROTATIONS

    @pytest.mark.parametrize("arguments", ((0,), (-1,), (2, True), (1, True)))
    def test_impossible_views(self, arguments):
        with pytest.raises(ValueError, match="at least one view"):
            Views(*arguments)


@pytest.mark.parametrize("kept", ((), (4,), (1, 3, 4), (4, 0)), ids=str)
class TestTaking:
    """Each image keeps what belongs to it."""

    @pytest.mark.parametrize("planes", (False, True))
    def test_of_images_held_as_bytes(self, kept, planes):
        images = torch.arange(5 * 2 * 3 * 3, dtype=torch.uint8).view(5, 2, 3, 3)
        if planes:
            images = images.movedim(-1, 1).contiguous().movedim(1, -1)
        some = Split(images, torch.arange(5) * 10).take(np.array(kept, dtype=np.int64))
        assert len(some) == len(kept) and some.labels.tolist() == [10 * place for place in kept]
        assert torch.equal(some.images, images[list(kept)])

    def test_of_files(self, kept):
        paths = Paths.of("/data", [b"%d.jpg" % number for number in range(5)])
        sizes, plain = np.arange(10, dtype=np.int32).reshape(5, 2), np.arange(5) % 2 == 0
        some = FileSplit(paths, torch.arange(5) * 10, sizes, plain).take(np.array(kept, dtype=np.int64))
        assert len(some) == len(kept) and some.labels.tolist() == [10 * place for place in kept]
        assert list(some.records) == [f"/data/{place}.jpg" for place in kept]
        assert some.sizes.tolist() == [[2 * place, 2 * place + 1] for place in kept]
        assert some.plain.tolist() == [place % 2 == 0 for place in kept]


class TestChannelStatistics:
    @pytest.mark.parametrize("count", (1, 300))
    def test_they_are_those_of_all_pixels(self, count):
        images = torch.randint(256, (count, 5, 7, 3), dtype=torch.uint8) // torch.tensor([1, 2, 3], dtype=torch.uint8)
        values = images.double().reshape(-1, 3) / 255
        mean, std = channel_statistics(images)
        np.testing.assert_allclose(mean, values.mean(0), rtol=1e-12)
        np.testing.assert_allclose(std, values.std(0, correction=0), rtol=1e-12)

    def test_of_planes_that_follow_each_other(self):
        images = torch.randint(256, (4, 3, 5, 7), dtype=torch.uint8).movedim(1, -1)
        assert channel_statistics(images) == channel_statistics(images.contiguous())

    @pytest.mark.parametrize("value", (0, 255))
    def test_of_one_colour(self, value):
        mean, std = channel_statistics(torch.full((2, 3, 3, 3), value, dtype=torch.uint8))
        assert mean == (value / 255,) * 3 and std == pytest.approx((0.0,) * 3, abs=1e-7)


@pytest.mark.parametrize("workers, expected", ((None, cores()), (0, 0), (3, 3)))
def test_no_worker_is_a_number_of_workers(workers, expected):
    assert Reading(workers=workers).decoders() == expected
    assert Reading(workers=workers).decoders(10_000) == (1 if workers is None else expected)
