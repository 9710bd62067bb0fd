"""CMI's views, against golden/datafree/cmi_views.npz, and their draws."""

import math

import pytest
import torch
from helpers.datafree import MEAN, STD, views
from helpers.golden import Case, close

from fastkd.synthesis.views import (
    LEAST_AREA,
    MOST_RATIO,
    PADDING,
    drawn_global,
    drawn_local,
    global_view,
    local_view,
    normalised,
)


@pytest.mark.parametrize("name", ("v8", "v16"))
def test_the_views_of_given_draws(name):
    case = Case("datafree/cmi_views", name)
    assert case["hp/pad"].item() == PADDING
    x, drawn = case.input("x"), views(case)
    for view, short, images in (
        ("global", "g", global_view(x, drawn.whole)),
        ("local", "l", local_view(x, drawn.part)),
    ):
        seen = normalised(images, MEAN, STD)
        close(seen, case[f"out/{view}"])
        probe = (seen * case["in/probe"]).sum()
        close(probe, case[f"loss/probe_{short}"])
        close(*torch.autograd.grad(probe, x), case[f"grad/probe_{short}/x"])


def test_global_draws_are_even():
    draws = drawn_global(9_000, torch.Generator().manual_seed(0))
    for places in (draws.left, draws.top):
        counts = places.bincount(minlength=2 * PADDING + 1)
        assert len(counts) == 2 * PADDING + 1 and (counts - 1_000).abs().max() < 150
    assert abs(draws.flip.double().mean().item() - 0.5) < 0.03


def test_local_draws_are_boxes_smaller_than_the_image():
    size, draws = 32, drawn_local(5_000, 32, torch.Generator().manual_seed(0))
    assert ((draws.width > 0) & (draws.width < size) & (draws.height > 0) & (draws.height < size)).all()
    for start, length in ((draws.left, draws.width), (draws.top, draws.height)):
        assert (start >= 0).all() and (start + length <= size).all()
        assert (start == 0).any() and (start + length == size).any()
    area, ratio = draws.width * draws.height / size**2, (draws.width / draws.height).log()
    assert area.min().item() > LEAST_AREA - 0.05 and ratio.abs().max().item() < math.log(MOST_RATIO) + 0.1
    # Without the condition that it be smaller than the image the share of the area would be even, at 0.625 on average.
    assert 0.5 < area.double().mean().item() < 0.625
    assert abs(draws.flip.double().mean().item() - 0.5) < 0.03


def test_where_no_box_fits_it_is_three_quarters_of_the_image():
    draws = drawn_local(16, 1, torch.Generator().manual_seed(0))
    assert (draws.width == 1).all() and (draws.height == 1).all()
    assert not draws.left.any() and not draws.top.any()


def test_the_same_seed_draws_the_same():
    first, second = (drawn_local(8, 32, torch.Generator().manual_seed(3)) for _ in range(2))
    assert all(torch.equal(one, other) for one, other in zip(first, second, strict=True))
