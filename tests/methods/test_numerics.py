"""The methods in float32 on rows that rounding hurts: near duplicates, an outlier, constants, large offsets.

What float32 holds is taken as exact: the same numbers go through the method in float64. Errors are those of a method
whole, its trained layers and BatchNorms among it.
"""

import copy

import pytest
import torch
from helpers.walk import EACH, batch, with_a_weight

from fastkd.losses.module import Loss
from fastkd.losses.relations import relations
from fastkd.methods.class_maps import Classifiers

LOOSE = {("simkd normalised", "offset"): 0.03, ("simkd +", "offset"): 0.15, ("semckd", "offset"): 0.1}
"""Relative errors of gradients behind a linear layer and a BatchNorm: the offset is taken away after it was multiplied,
here as in the published codes."""


def near_duplicates(rows):
    rows[1] = rows[0] + 1e-3 * rows[0].abs().mean() * torch.randn_like(rows[0])


def outlier(rows):
    rows[2] *= 1e3


def constant(rows):
    rows[1] = 0.5


def offset(rows):
    rows += 100.0


HARD = {"near duplicates": near_duplicates, "outlier": outlier, "constant": constant, "offset": offset}


def changed(output, change, dtype):
    """The output of a network, each of its tensors in float32 changed, and a leaf of that type."""

    def leaf(x):
        torch.manual_seed(0)
        x = x.detach().float().clone()
        if len(x):
            change(x)
        return x.to(dtype).requires_grad_()

    preacts = None if output.preacts is None else tuple(leaf(x) for x in output.preacts)
    features = tuple(leaf(x) for x in output.features)
    return output._replace(
        logits=leaf(output.logits),
        stem=leaf(output.stem),
        features=features,
        final_map=leaf(output.final_map),
        embedding=leaf(output.embedding),
        preacts=preacts,
    )


def leaves(output):
    return [output.logits, output.stem, *output.features, output.final_map, output.embedding, *(output.preacts or ())]


def loss_and_gradients(method, outputs, change, dtype):
    method = copy.deepcopy(method).to(dtype)
    for module in method.modules():
        if isinstance(module, Loss):
            module.numbers = module.numbers.to(dtype)
        elif isinstance(module, Classifiers):  # the student's is its own, which moves with it
            module._student[0].to(dtype)
    student, *teachers = (changed(output, change, dtype) for output in outputs)
    loss = method(student, tuple(teachers), batch()).total
    if not loss.requires_grad:
        return loss, []
    found = torch.autograd.grad(loss, leaves(student), allow_unused=True)
    return loss, [gradient for gradient in found if gradient is not None]


@pytest.mark.parametrize("name", EACH)
def test_float32_is_near_float64(name):
    stage, data = with_a_weight(name), batch()
    method = stage.methods[name.split()[0]]
    images = data.images[: method.views.count].flatten(0, 1)
    with torch.no_grad():
        outputs = [network(images, preacts=stage.preacts) for network in (stage.network, *stage.teachers)]
    for hard, change in HARD.items():
        exact, exact_gradients = loss_and_gradients(method, outputs, change, torch.float64)
        loss, gradients = loss_and_gradients(method, outputs, change, torch.float32)
        torch.testing.assert_close(
            loss.double(), exact.double(), rtol=2e-4, atol=1e-5, msg=lambda m, h=hard: f"{h}: {m}"
        )
        largest = max((gradient.abs().max().item() for gradient in exact_gradients), default=0.0)
        for gradient, goal in zip(gradients, exact_gradients, strict=True):
            error = (gradient.double() - goal).abs().max().item()
            assert error <= LOOSE.get((name, hard), 2e-3) * largest + 1e-7, (hard, error, largest)


class TestRelations:
    def error(self, rows):
        exact, found = rows.double().requires_grad_(), rows.clone().requires_grad_()
        both = [(distances, angles) for distances, angles in (relations(exact), relations(found))]
        for one in both:
            (one[0].square().sum() + one[1].square().sum()).backward()
        return [
            ((b.double() - a).abs().max() / a.abs().max()).item()
            for a, b in ((both[0][0], both[1][0]), (both[0][1], both[1][1]), (exact.grad, found.grad))
        ]

    @pytest.mark.parametrize("gap", (1e-2, 1e-4, 1e-5))
    def test_near_duplicates_keep_their_distance_their_angles_and_their_gradient(self, gap):
        torch.manual_seed(0)
        rows = torch.randn(6, 16)
        rows[1] = rows[0] + gap * torch.randn(16)
        assert max(self.error(rows)) < 1e-5

    @pytest.mark.parametrize("size", (1e3, 1e6))
    def test_an_outlier_spoils_no_other_angle(self, size):
        torch.manual_seed(0)
        rows = torch.randn(6, 16)
        rows[2] *= size
        assert max(self.error(rows)) < 1e-5

    def test_a_large_offset_costs_what_the_numbers_themselves_lose(self):
        torch.manual_seed(0)
        assert max(self.error(torch.randn(6, 16) + 1e4)) < 1e-5
