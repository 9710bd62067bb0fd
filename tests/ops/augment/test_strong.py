"""The operations of strong views against torchvision's, with the draw fixed; and what is drawn."""

import math

import pytest
import torch
from torchvision.transforms.v2 import functional as F

from fastkd.ops.augment import strong
from fastkd.ops.augment.strong import FIXMATCH, RANDAUGMENT, Drawn, strengthened

KEY = (1, 2)


def images(count=3, size=20):
    """Smooth and noisy ones, one of a single colour."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randint(256, (count, 3, size, size), generator=generator).float()
    ramp = torch.linspace(20, 200, size)
    x[0] = (ramp[:, None] + 0.2 * ramp[None]).floor().clamp(0, 255)
    x[-1] = 77
    return x


def shear(x, slope, axis):
    """On PIL images, as data sets give them: on tensors a shear of 0 about the corner moves by a pixel."""
    degrees = math.degrees(math.atan(slope))
    angles = [degrees, 0.0] if axis == "x" else [0.0, degrees]
    how = {"angle": 0.0, "translate": [0, 0], "scale": 1.0, "shear": angles, "center": [0, 0]}
    return torch.stack([F.pil_to_tensor(F.affine(F.to_pil_image(image), **how)) for image in x])


def translate(x, by, axis):
    places = int(by * x.shape[-1])
    moved = [places, 0] if axis == "x" else [0, places]
    return F.affine(x, angle=0.0, translate=moved, scale=1.0, shear=[0.0, 0.0])


THEIRS = {
    strong.identity: lambda x, v: x,
    strong.brightness: F.adjust_brightness,
    strong.contrast: F.adjust_contrast,
    strong.colour: F.adjust_saturation,
    strong.sharpness: F.adjust_sharpness,
    strong.posterise: lambda x, v: F.posterize(x, int(v)),
    strong.solarise: F.solarize,
    strong.autocontrast: lambda x, v: F.autocontrast(x),
    strong.equalise: lambda x, v: F.equalize(x),
    strong.shear_x: lambda x, v: shear(x, v, "x"),
    strong.shear_y: lambda x, v: shear(x, v, "y"),
    strong.translate_x: lambda x, v: translate(x, v, "x"),
    strong.translate_y: lambda x, v: translate(x, v, "y"),
    strong.rotate: F.rotate,
}
MAGNITUDES = (0.0, 0.11, 0.3, 0.7, 0.93)


@pytest.mark.parametrize("policy", (FIXMATCH, RANDAUGMENT), ids=("fixmatch", "randaugment"))
@pytest.mark.parametrize("place", range(14))
def test_an_operation_is_torchvisions(policy, place):
    operation, argument = policy.operations[place]
    x = images()
    for magnitude in MAGNITUDES:
        value = argument(torch.full((len(x),), magnitude))
        found = operation(x, value[:, None, None, None])
        expected = THEIRS[operation](x.to(torch.uint8), value[0].item()).float()
        assert ((found >= 0) & (found <= 255) & (found == found.round())).all()
        differing = (found - expected).abs() > (1 if operation in strong.BLENDED else 0)
        # Where a source lies half way between two pixels, or a product rounds the other way, single pixels differ.
        assert differing.float().mean() <= 0.02, (operation.__name__, magnitude)


@pytest.mark.parametrize("policy", (FIXMATCH, RANDAUGMENT), ids=("fixmatch", "randaugment"))
def test_each_image_gets_the_operation_and_the_magnitude_that_were_drawn_for_it(policy):
    x = images(28)
    chosen, magnitude = torch.arange(28) % 14, torch.linspace(0, 1, 28)
    sign = torch.where(torch.arange(28) < 14, 1.0, -1.0)
    together = strong.one_of(policy, x, chosen, magnitude, sign)
    for place in range(28):
        own = slice(place, place + 1)
        alone = strong.one_of(policy, x[own], chosen[own], magnitude[own], sign[own])
        assert torch.equal(together[own], alone)
    operation, argument = policy.operations[1]
    if policy.signed:
        assert torch.equal(together[15:16], operation(x[15:16], -argument(magnitude[15:16])[:, None, None, None]))


class TestDraws:
    def made(self, index, epoch=0, view=1, policy=FIXMATCH, how=Drawn(2)):  # noqa: B008 - a constant
        x = images(len(index))
        return strengthened(x, policy, KEY, torch.tensor(index), torch.tensor(epoch), view, how)

    def test_they_depend_on_index_epoch_and_view_alone(self):
        whole = self.made([5, 6, 7])
        assert torch.equal(self.made([5, 6, 7]), whole)
        x = images(3)
        alone = strengthened(x[1:2], FIXMATCH, KEY, torch.tensor([6]), torch.tensor(0), 1, Drawn(2))
        assert torch.equal(alone, whole[1:2])
        for other in (self.made([5, 6, 7], epoch=1), self.made([5, 6, 7], view=2), self.made([8, 9, 10])):
            assert not torch.equal(other, whole)

    def test_every_operation_is_drawn(self):
        words = torch.arange(4000)
        first = strong.philox(KEY, (words, torch.tensor(0), 1, strong.STREAM))[0]
        counts = torch.bincount(strong.below(first, 14), minlength=14)
        assert counts.min() > 200 and counts.max() < 380

    def test_a_magnitude_may_be_given(self):
        policy = RANDAUGMENT._replace(operations=RANDAUGMENT.operations[11:12])  # solarise alone
        found = self.made([0, 1, 2], policy=policy, how=Drawn(1, magnitude=0.5))
        assert torch.equal(found, strong.solarise(images(), torch.tensor(127.5)))

    def test_a_square_of_at_most_half_the_side_is_cut_out(self):
        x = torch.zeros(200, 3, 20, 20)
        policy = FIXMATCH._replace(operations=((strong.identity, FIXMATCH.operations[0][1]),))
        found = strengthened(x, policy, KEY, torch.arange(200), torch.tensor(3), 1, Drawn(1))
        grey = found[:, 0] == 125
        assert grey.any(2).sum(1).max() <= 11 and grey.any(1).sum(1).max() <= 11
        assert grey.flatten(1).any(1).float().mean() > 0.8
        assert torch.equal(found[grey[:, None].expand_as(found)].unique(), torch.tensor([114.0, 123.0, 125.0]))
