"""Mixup and cutmix: the draws, the images and the labels."""

import numpy as np
import pytest
import torch

from fastkd.data.base import Batch
from fastkd.data.mixing import QUANTILES, Mixing, beta_quantiles, cut_box
from fastkd.methods.base import MethodLoss
from fastkd.methods.mixed import loss_on_mixed


def batch(count=6, step=0, epoch=0):
    images = torch.randn(2, count, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    return Batch(images, torch.arange(count), torch.arange(count), torch.tensor(step), torch.tensor(epoch))


@pytest.mark.parametrize("alpha", (0.1, 0.2, 1.0, 3.0))
def test_shares_have_the_distribution(alpha):
    found = beta_quantiles(alpha).double().numpy()
    drawn = np.sort(np.random.default_rng(0).beta(alpha, alpha, size=QUANTILES * 50)).reshape(QUANTILES, 50).mean(1)
    assert (np.diff(found) >= 0).all() and np.abs(found + found[::-1] - 1).max() < 1e-3
    assert np.abs(found - drawn).mean() < 3e-3
    assert found.var() == pytest.approx(1 / (4 * (2 * alpha + 1)), rel=1e-2)


class TestMixup:
    def test_every_view_is_a_mean_with_another_image_of_the_batch(self):
        given = batch()
        mixed = Mixing(0.2, 0.0, seed=3)(given)
        share, partner = mixed.mixed.share[0], mixed.mixed.labels  # labels are places here
        assert (mixed.mixed.share == share).all() and (partner != given.labels).all()
        assert sorted(partner.tolist()) == list(range(6))
        expected = share * given.images + (1 - share) * given.images[:, partner]
        torch.testing.assert_close(mixed.images, expected)
        assert torch.equal(mixed.labels, given.labels)

    def test_a_batch_of_one_is_mixed_with_itself(self):
        given = batch(1)
        torch.testing.assert_close(Mixing(0.2, 0.0, seed=3)(given).images, given.images)


class TestCutmix:
    def test_a_box_comes_from_another_image(self):
        given = batch()
        for step in range(20):
            mixed = Mixing(0.0, 1.0, seed=3)(given._replace(step=torch.tensor(step)))
            other = given.images[:, mixed.mixed.labels]
            from_other = (mixed.images == other).all(2)
            own = (mixed.images == given.images).all(2)
            assert (from_other | own).all()
            assert own.float().mean() == pytest.approx(mixed.mixed.share[0].item(), abs=1e-6)

    def test_the_box_is_timms(self):
        """cut_h = int(H · sqrt(1 − λ)), about a pixel, between max(0, y − cut_h // 2) and min(H, y + cut_h // 2)."""
        for share, down, right in ((0.3, 2, 11), (0.75, 0, 0), (0.0, 5, 5), (1.0, 3, 3)):
            height, width = 10, 12
            tall, wide = int(height * (1 - share) ** 0.5), int(width * (1 - share) ** 0.5)
            expected = torch.zeros(height, width, dtype=torch.bool)
            rows = slice(max(0, down - tall // 2), min(height, down + tall // 2))
            expected[rows, max(0, right - wide // 2) : min(width, right + wide // 2)] = True
            found = cut_box(torch.tensor(share), torch.tensor(down), torch.tensor(right), height, width)
            assert torch.equal(found, expected)


def test_with_both_kinds_a_batch_has_one_of_them():
    given, mixing = batch(), Mixing(0.2, 1.0, seed=5)
    cut = [
        ((mixed.images == given.images) | (mixed.images == given.images[:, mixed.mixed.labels])).all().item()
        for mixed in (mixing(given._replace(step=torch.tensor(step))) for step in range(60))
    ]
    assert 15 < sum(cut) < 45


def test_it_is_a_function_of_seed_epoch_and_step():
    given = batch(step=7, epoch=2)
    again, other = (Mixing(0.2, 1.0, seed=seed)(given).images for seed in (5, 6))
    assert torch.equal(Mixing(0.2, 1.0, seed=5)(given).images, again)
    assert not torch.equal(other, again)
    assert not torch.equal(Mixing(0.2, 1.0, seed=5)(batch(step=8, epoch=2)).images, again)


class TestLossOnMixed:
    logits = torch.randn(6, 6, generator=torch.Generator().manual_seed(1)).double()

    def loss(self, batch):
        ce = torch.nn.functional.cross_entropy(self.logits, batch.labels)
        return MethodLoss(ce, {"ce": ce}, (self.logits.argmax(1) == batch.labels).sum()[None])

    def test_both_labels_are_the_cross_entropy_with_the_mixed_label(self):
        mixed = Mixing(1.0, 0.0, seed=3)(batch())
        share = mixed.mixed.share[0].double()
        target = share * torch.eye(6).double() + (1 - share) * torch.eye(6).double()[mixed.mixed.labels]
        found = loss_on_mixed(self.loss, mixed, "both")
        expected = torch.nn.functional.cross_entropy(self.logits, target)
        torch.testing.assert_close(found.total, expected)
        torch.testing.assert_close(found.terms["ce"], expected)
        assert torch.equal(found.hits, self.loss(mixed).hits)

    def test_the_greater_label(self):
        for step in range(8):
            mixed = Mixing(1.0, 0.0, seed=3)(batch(step=step))
            labels = mixed.labels if mixed.mixed.share[0] >= 0.5 else mixed.mixed.labels
            expected = self.loss(mixed._replace(labels=labels)).total
            torch.testing.assert_close(loss_on_mixed(self.loss, mixed, "greater").total, expected)

    def test_plain_images_and_methods_that_see_to_it_themselves_are_left_alone(self):
        mixed = Mixing(1.0, 0.0, seed=3)(batch())
        for given, labels in ((batch(), "both"), (mixed, "own")):
            torch.testing.assert_close(loss_on_mixed(self.loss, given, labels).total, self.loss(given).total)
