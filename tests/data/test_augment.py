"""Augmentation on whole batches against torchvision's operations on single images."""

import pytest
import torch
import torchvision.transforms.v2.functional as F
from PIL import Image

from fastkd.data import FOUR_ROTATIONS, Augmentation, Format, RawBatch, Split, Views
from fastkd.data.augment import Normalise, ResidentImages
from fastkd.data.base import ONE_VIEW, WEAK_AND_STRONG
from fastkd.ops.augment import ANGLES
from fastkd.ops.augment.strong import FIXMATCH, RANDAUGMENT, Drawn, strengthened
from fastkd.ops.philox import below, philox, split_seed
from fastkd.support.errors import UserError

SIZE, COUNT, SEED = 12, 40, (3 << 32) + 11
IMAGES = torch.randint(256, (COUNT, SIZE, SIZE, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
PLAIN = Normalise((0.0, 0.0, 0.0), (1 / 255, 1 / 255, 1 / 255))  # leaves the bytes as they are


def augmented(augmentation, index, epoch=0, seed=SEED):
    prepare = ResidentImages(Split(IMAGES, torch.arange(COUNT)), PLAIN, augmentation, seed)
    batch = prepare(RawBatch(index), torch.tensor(0), torch.tensor(epoch))
    return batch.images[0].round().to(torch.uint8)


def one_by_one(augmentation, index, epoch):
    """Crop, flip, rotate with torchvision and Pillow, one image after the other, in the recipes' order."""
    words = philox(split_seed(SEED), (index, epoch, 0, 0))
    shifts = 2 * augmentation.crop_padding + 1
    found = []
    for place, word_y, word_x, word_flip, word_turn in zip(index.tolist(), *words, strict=True):
        image = IMAGES[place].permute(2, 0, 1)
        padded = F.pad(image, [augmentation.crop_padding] * 4)
        image = F.crop(padded, below(word_y, shifts).item(), below(word_x, shifts).item(), SIZE, SIZE)
        if augmentation.flip and word_flip >> 31:
            image = F.horizontal_flip(image)
        if augmentation.rotation:
            step = below(word_turn, ANGLES).item()
            degrees = -augmentation.rotation + 2 * augmentation.rotation * step / (ANGLES - 1)
            turned = Image.fromarray(image.permute(1, 2, 0).numpy()).rotate(degrees, Image.Resampling.NEAREST)
            image = F.pil_to_tensor(turned)
        found.append(image)
    return torch.stack(found)


@pytest.mark.parametrize(
    "augmentation",
    [
        Augmentation(crop_padding=0, flip=False),
        Augmentation(crop_padding=0, flip=True),
        Augmentation(crop_padding=4, flip=False),
        Augmentation(crop_padding=1, flip=True),
    ],
    ids=str,
)
def test_equals_torchvision_pixel_for_pixel(augmentation):
    index = torch.randperm(COUNT, generator=torch.Generator().manual_seed(1))
    assert torch.equal(augmented(augmentation, index, epoch=2), one_by_one(augmentation, index, 2))


def test_rotation_equals_pillow_but_for_rounding():
    augmentation = Augmentation(crop_padding=2, flip=True, rotation=15.0)
    index = torch.arange(COUNT)
    same = augmented(augmentation, index) == one_by_one(augmentation, index, 0)
    assert same.float().mean() > 0.99  # a pixel on the border between two may go to the other one


def test_numbers_depend_on_seed_epoch_and_image_alone():
    augmentation, index = Augmentation(), torch.arange(COUNT)
    whole = augmented(augmentation, index, epoch=5)
    some = torch.tensor([7, 3, 31])
    assert torch.equal(augmented(augmentation, some, epoch=5), whole[some])
    assert not torch.equal(augmented(augmentation, index, epoch=6), whole)
    assert not torch.equal(augmented(augmentation, index, epoch=5, seed=SEED + 1), whole)


def test_every_shift_and_both_sides_occur():
    words = philox(split_seed(0), (torch.arange(2000), 0, 0, 0))
    assert below(words[0], 9).unique().tolist() == list(range(9))
    assert abs((words[2] >> 31).double().mean() - 0.5) < 0.05


def test_evaluation_images_are_only_normalised():
    mean, std = (0.5, 0.4, 0.3), (0.2, 0.3, 0.1)
    prepare = ResidentImages(Split(IMAGES, torch.arange(COUNT)), Normalise(mean, std), None)
    index = torch.tensor([4, 2])
    batch = prepare(RawBatch(index), torch.tensor(0), torch.tensor(0))
    expected = F.normalize(IMAGES[index].permute(0, 3, 1, 2).double() / 255, mean, std)
    torch.testing.assert_close(batch.images[0].double(), expected, rtol=1e-5, atol=1e-5)
    assert batch.labels.tolist() == batch.index.tolist() == [4, 2]
    assert batch.images.shape == (1, 2, 3, SIZE, SIZE)


class TestViews:
    INDEX = torch.randperm(COUNT, generator=torch.Generator().manual_seed(2))[:9]

    def views(self, views, epoch=3, **options):
        prepare = ResidentImages(Split(IMAGES, torch.arange(COUNT)), PLAIN, Augmentation(**options), SEED, views)
        batch = prepare(RawBatch(self.INDEX), torch.tensor(0), torch.tensor(epoch))
        return batch.images.round().to(torch.uint8)

    def test_independent_views_have_numbers_of_their_own(self):
        found = self.views(Views(3))
        assert found.shape == (3, 9, 3, SIZE, SIZE)
        assert torch.equal(found[0], augmented(Augmentation(), self.INDEX, epoch=3))
        for left, right in ((0, 1), (0, 2), (1, 2)):
            assert sum(torch.equal(found[left, i], found[right, i]) for i in range(9)) <= 1

    def test_rotations_share_the_flip_and_turn(self):
        """Without crops, as numpy turns: once flipped, then rot90."""
        plain, *turned = self.views(FOUR_ROTATIONS, crop_padding=0)
        for quarter, images in enumerate(turned, start=1):
            assert torch.equal(images, torch.rot90(plain, quarter, dims=(2, 3)))

    def test_rotations_are_sskds(self):
        """Flip once, rot90, then a crop for each rotation: the window is ours, turned and flipped with the image."""
        padding = 2
        found = self.views(FOUR_ROTATIONS, crop_padding=padding)
        flips = philox(split_seed(SEED), (self.INDEX, 3, 0, 0))[2] >> 31
        corners = set()
        for view in range(4):
            words = philox(split_seed(SEED), (self.INDEX, 3, view, 0))
            for sample, place in enumerate(self.INDEX.tolist()):
                image = IMAGES[place].permute(2, 0, 1)
                image = torch.rot90(image.flip(2) if flips[sample] else image, view, dims=(1, 2))
                padded = F.pad(image, [padding] * 4)
                matches = [
                    (top, left)
                    for top in range(2 * padding + 1)
                    for left in range(2 * padding + 1)
                    if torch.equal(F.crop(padded, top, left, SIZE, SIZE), found[view, sample])
                ]
                assert len(matches) == 1
                corners.add((sample, *matches[0]))
                if view == 0 and not flips[sample]:
                    assert matches[0] == tuple(below(word[sample], 2 * padding + 1).item() for word in words[:2])
        assert len(corners) > 25  # of 36: crops do not follow each other

    def test_rotations_need_square_images(self):
        split = Split(IMAGES[:, :8], torch.arange(COUNT))
        with pytest.raises(UserError, match="quarter turns need square images, these are 12 x 8"):
            ResidentImages(split, PLAIN, Augmentation(), SEED, FOUR_ROTATIONS)


@pytest.mark.parametrize("dtype", (torch.float32, torch.bfloat16))
def test_type_and_layout(dtype):
    split = Split(IMAGES, torch.arange(COUNT))
    plain = ResidentImages(split, PLAIN, Augmentation(), SEED, Views(2))
    other = ResidentImages(split, PLAIN, Augmentation(), SEED, Views(2), Format(dtype=dtype, channels_last=True))
    arguments = RawBatch(torch.tensor([5, 1, 7])), torch.tensor(0), torch.tensor(1)
    expected, images = plain(*arguments).images, other(*arguments).images
    assert images.dtype == dtype and torch.equal(images, expected.to(dtype))
    for view in images:
        assert view.is_contiguous(memory_format=torch.channels_last)


def test_layout_of_the_bytes_does_not_matter():
    planes = IMAGES.movedim(-1, 1).contiguous().movedim(1, -1)
    index = torch.arange(COUNT)
    for augmentation in (None, Augmentation(rotation=9.0)):
        one, other = (
            ResidentImages(Split(images, index), PLAIN, augmentation, SEED)(
                RawBatch(index), torch.tensor(0), torch.tensor(1)
            )
            for images in (IMAGES, planes)
        )
        assert torch.equal(one.images, other.images)


class TestStrongViews:
    """Weak and strong views; the operations themselves are tested in tests/ops/augment."""

    def batch(self, views=WEAK_AND_STRONG, epoch=1, **how):
        augmentation = Augmentation(crop_padding=2, **how)
        prepare = ResidentImages(Split(IMAGES, torch.arange(COUNT)), PLAIN, augmentation, SEED, views)
        return prepare(RawBatch(torch.arange(8)), torch.tensor(3), torch.tensor(epoch))

    def test_the_weak_view_is_the_one_that_there_is_without_a_strong_one(self):
        alone, both = self.batch(views=ONE_VIEW), self.batch()
        assert both.images.shape[0] == 2 and torch.equal(both.images[0], alone.images[0])

    def test_the_strong_view_has_a_crop_of_its_own_and_its_operations(self):
        strong = self.batch().images[1]
        crops = self.batch(views=Views(2)).images[1]
        words = split_seed(SEED)
        expected = strengthened(crops.round(), FIXMATCH, words, torch.arange(8), torch.tensor(1), 1, Drawn(2))
        torch.testing.assert_close(strong.round(), expected)
        assert not torch.equal(strong, self.batch(epoch=2).images[1])

    def test_randaugment_is_of_every_view(self):
        plain, augmented = self.batch(views=ONE_VIEW), self.batch(views=ONE_VIEW, randaugment=2, magnitude=15.0)
        words, how = split_seed(SEED), Drawn(2, magnitude=0.5)
        expected = strengthened(plain.images[0].round(), RANDAUGMENT, words, torch.arange(8), torch.tensor(1), 0, how)
        torch.testing.assert_close(augmented.images[0].round(), expected)

    def test_half_precision_and_channels_last_are_kept(self):
        augmentation = Augmentation(randaugment=1)
        form = Format(dtype=torch.bfloat16, channels_last=True)
        prepare = ResidentImages(Split(IMAGES, torch.arange(COUNT)), PLAIN, augmentation, SEED, WEAK_AND_STRONG, form)
        images = prepare(RawBatch(torch.arange(8)), torch.tensor(3), torch.tensor(0)).images
        assert images.dtype == torch.bfloat16
        assert all(view.is_contiguous(memory_format=torch.channels_last) for view in images)

    def test_images_are_mixed_last(self):
        plain, mixed = self.batch(), self.batch(mixup=0.2)
        share, partner = mixed.mixed.share[0], mixed.mixed.labels
        torch.testing.assert_close(mixed.images, share * plain.images + (1 - share) * plain.images[:, partner])

    @pytest.mark.parametrize("how", ({"randaugment": -1}, {"magnitude": 31.0, "randaugment": 1}, {"mixup": -0.1}))
    def test_what_makes_no_sense_is_refused(self, how):
        with pytest.raises(UserError, match=next(iter(how))):
            Augmentation(**how)
