"""The definition, read pixel by pixel; torchvision's and Pillow's own operations are in tests/data/test_augment.py."""

import pytest
import torch
from helpers.augment_cases import SETTINGS, make_inputs

from fastkd.ops.augment import augment, reference, turns_table
from fastkd.ops.augment.reference import ANGLES, FIXED
from fastkd.ops.philox import below, philox

PLAIN = {"padding": 0, "flip": False, "quarter_turns": False, "views": 1, "rotation": 0.0}
EVERYTHING = SETTINGS[-1]


@pytest.fixture(autouse=True)
def nothing_forced(monkeypatch):
    monkeypatch.delenv("FASTKD_OPS", raising=False)


def source(y, x, view, words, shared, how, turns, size):
    """The place in the stored image that a pixel of a view comes from; None: black."""
    height, width = size
    for _ in range(view if how.quarter_turns else 0):
        y, x = x, height - 1 - y
    if turns is not None:
        cosine, sine = turns[:, below(shared[3], ANGLES)].tolist()
        down, right = 2 * y + 1 - height, 2 * x + 1 - width
        y = (sine * right + cosine * down + (height << FIXED)) // 2 ** (FIXED + 1)
        x = (cosine * right - sine * down + (width << FIXED)) // 2 ** (FIXED + 1)
        if not (0 <= y < height and 0 <= x < width):
            return None
    if how.flip and shared[2] >> 31:
        x = width - 1 - x
    y += below(words[0], 2 * how.padding + 1).item() - how.padding
    x += below(words[1], 2 * how.padding + 1).item() - how.padding
    return (y, x) if 0 <= y < height and 0 <= x < width else None


def pixel_by_pixel(inputs):
    how, (height, width) = inputs.how, inputs.images_nHWC.shape[1:3]
    views, batch = inputs.rows_VB.shape
    out = torch.zeros(views, batch, 3, height, width)
    for view, sample in torch.cartesian_prod(torch.arange(views), torch.arange(batch)).tolist():
        drawn = [
            philox((how.key_low, how.key_high), (inputs.index_B[sample], inputs.epoch, number, 0))
            for number in (view, 0 if how.quarter_turns else view)
        ]
        image = inputs.images_nHWC[inputs.rows_VB[view, sample]]
        for y, x in torch.cartesian_prod(torch.arange(height), torch.arange(width)).tolist():
            place = source(y, x, view, *drawn, how, inputs.turns, (height, width))
            if place is not None:
                out[view, sample, :, y, x] = image[place].float()
    return out * inputs.scale_C[:, None, None] + inputs.shift_C[:, None, None]


@pytest.mark.parametrize("settings", SETTINGS, ids=str)
def test_every_pixel_comes_from_where_it_should(settings):
    inputs = make_inputs(settings, size=(4, 4), batch=8)
    assert torch.equal(reference.augment(inputs), pixel_by_pixel(inputs))


@pytest.mark.parametrize("size", ((1, 1), (1, 6), (5, 2), (3, 7)))
@pytest.mark.parametrize("padding", (0, 1, 9))
def test_images_of_any_shape_and_crops_larger_than_they_are(size, padding):
    settings = {"padding": padding, "flip": True, "quarter_turns": False, "views": 2, "rotation": 30.0}
    inputs = make_inputs(settings, size=size, batch=3)
    assert torch.equal(reference.augment(inputs), pixel_by_pixel(inputs))


def test_a_byte_is_scaled_and_shifted_by_channel_and_black_is_shifted_too():
    scale, shift = torch.tensor([0.5, 2.0, 1.0]), torch.tensor([-1.0, 0.0, 3.0])
    inputs = make_inputs(EVERYTHING, size=(4, 4), batch=2)._replace(scale_C=scale, shift_C=shift)
    assert torch.equal(reference.augment(inputs), pixel_by_pixel(inputs))


def test_nothing_asked_for_is_the_images():
    inputs = make_inputs(PLAIN, size=(5, 3))
    expected = inputs.images_nHWC[inputs.rows_VB].movedim(-1, 2).float()
    assert torch.equal(reference.augment(inputs), expected)


@pytest.mark.parametrize("batch, images", ((0, 7), (0, 0), (1, 1)))
def test_batches_of_none_and_of_one(batch, images):
    inputs = make_inputs(EVERYTHING, batch=batch, images=max(images, 1))
    if not images:
        inputs = inputs._replace(images_nHWC=inputs.images_nHWC[:0])
    assert reference.augment(inputs).shape == (4, batch, 3, 9, 9)


@pytest.mark.parametrize("cached", (1, 500, 1 << 30))
def test_how_many_are_worked_on_at_a_time_does_not_matter(cached, monkeypatch):
    """One after the other, two at a time with one left over, all together."""
    inputs = make_inputs(EVERYTHING)
    expected = reference.augment(inputs)
    monkeypatch.setattr(reference, "_CACHED", cached)
    assert torch.equal(reference.augment(inputs), expected)


@pytest.mark.parametrize("settings", (PLAIN, EVERYTHING), ids=("plain", "everything"))
def test_it_does_not_matter_how_the_bytes_lie(settings):
    inputs = make_inputs(settings)
    planes = inputs._replace(images_nHWC=inputs.images_nHWC.movedim(-1, 1).contiguous().movedim(1, -1))
    assert torch.equal(reference.augment(planes), reference.augment(inputs))


@pytest.mark.parametrize("dtype", (torch.bfloat16, torch.float16))
def test_narrow_types_are_rounded_once_at_the_end(dtype):
    scale, shift = torch.tensor([0.013, 0.02, 0.017]), torch.tensor([-2.1, -1.5, -1.0])
    inputs = make_inputs(EVERYTHING)._replace(scale_C=scale, shift_C=shift)
    found = reference.augment(inputs._replace(how=inputs.how._replace(dtype=dtype)))
    assert found.dtype == dtype and torch.equal(found, reference.augment(inputs).to(dtype))


def test_an_image_is_the_same_in_any_batch_and_differs_by_key_epoch_index_and_view():
    inputs = make_inputs({**EVERYTHING, "quarter_turns": False}, batch=6)
    whole, some = reference.augment(inputs), torch.tensor([4, 1])
    part = inputs._replace(rows_VB=inputs.rows_VB[:, some], index_B=inputs.index_B[some])
    assert torch.equal(reference.augment(part), whole[:, some])
    same_rows = inputs._replace(rows_VB=inputs.rows_VB[:1].expand(4, -1))
    views = reference.augment(same_rows)
    for other in (
        inputs._replace(epoch=inputs.epoch + 1),
        inputs._replace(index_B=inputs.index_B + 1),
        inputs._replace(how=inputs.how._replace(key_low=12)),
        inputs._replace(how=inputs.how._replace(key_high=1)),
    ):
        assert sum(map(torch.equal, reference.augment(other)[0], whole[0])) <= 2  # small turns may look the same
    assert sum(map(torch.equal, views[0], views[1])) <= 2


def test_on_a_cpu_the_operation_is_the_reference():
    inputs = make_inputs(EVERYTHING)
    assert torch.equal(augment(inputs), reference.augment(inputs))
    found = augment(inputs, channels_last=True)
    assert torch.equal(found, reference.augment(inputs))
    assert all(view.is_contiguous(memory_format=torch.channels_last) for view in found)


def test_quarter_turns_of_images_that_are_not_square_are_refused():
    with pytest.raises(ValueError, match="quarter turns need square images, these are 3 x 4"):
        augment(make_inputs(EVERYTHING, size=(3, 4)))


class TestTurnsTable:
    def test_its_ends_are_the_widest_angles_and_opposite(self):
        cosine, sine = (turns_table(30.0).double() / 2**FIXED).unbind()
        assert cosine[0] == cosine[-1] and sine[0] == -sine[-1] < 0
        assert sine[-1] == pytest.approx(0.5, abs=2**-FIXED) and cosine[0] == pytest.approx(0.75**0.5, abs=2**-FIXED)

    @pytest.mark.parametrize("degrees", (1.0, 90.0, 180.0))
    def test_every_angle_is_a_turn(self, degrees):
        table = turns_table(degrees)
        assert table.shape == (2, ANGLES) and table.dtype == torch.int64
        lengths = (table.double() / 2**FIXED).square().sum(0)
        torch.testing.assert_close(lengths, torch.ones_like(lengths), rtol=0, atol=2 ** (2 - FIXED))
        assert len(set(map(tuple, table.T.tolist()))) > ANGLES // 2
