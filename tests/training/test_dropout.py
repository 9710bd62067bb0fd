"""Dropout keyed by the place in the global batch, against the formula written out one number at a time."""

import pytest
import torch
import torchvision
from helpers.steps import make_step, steps_of, weights
from helpers.tiny import CPU
from torch import nn

from fastkd.data.base import Batch
from fastkd.data.shares import Place
from fastkd.ops.philox import philox
from fastkd.training.dropout import EVERYWHERE, KEY, Keyed, KeyedDropout, draws_otherwise

SEED = 1234


def batch_of(images, *, step=7, first=0, views=1):
    number = torch.arange(images)
    shown = torch.zeros(views, images, 3, 2, 2)
    return Batch(shown, number, number, torch.tensor(step), torch.tensor(0), place=Place(first))


def stage_of(*layers):
    return nn.Sequential(*layers).train()


def word(element, place, step, stream):
    """One word of 32 bits, on its own."""
    return int(philox((SEED, KEY), (element // 4, place, step, stream))[element % 4])


@pytest.mark.parametrize("views, call", [(1, 0), (2, 1)])
def test_each_element_has_the_word_of_its_formula(views, call):
    stage = stage_of(nn.Identity(), nn.Dropout(0.3), nn.Dropout(0.6))
    keyed = Keyed(stage, SEED, CPU)
    images = 3
    keyed.begin(batch_of(images, step=9, first=20, views=views))
    layer = stage[2]
    assert isinstance(layer, KeyedDropout)
    x = torch.rand(views * images, 2, 3) + 1
    for _ in range(call):
        layer(x)
    found = layer(x)
    for number, row in enumerate(x):
        view, image = divmod(number, images)
        for element, value in enumerate(row.flatten().tolist()):
            kept = word(element, 20 + image, 9, 1 + (view << 12) + (call << 20)) >= round(0.6 * 2**32)
            assert found[number].flatten()[element].item() == pytest.approx(value / 0.4 if kept else 0.0)


@pytest.mark.parametrize(
    "module, places",
    [
        (nn.Dropout2d(0.5), (6, 4)),
        (nn.Dropout1d(0.5), (6, 4)),
        (torchvision.ops.StochasticDepth(0.5, "row"), (6, 1)),
        (torchvision.ops.StochasticDepth(0.5, "batch"), (1, 1)),
    ],
    ids=repr,
)
def test_channels_images_and_batches_are_left_out_as_a_whole(module, places):
    stage = stage_of(module)
    Keyed(stage, SEED, CPU).begin(batch_of(6))
    found = stage(torch.ones(6, 4, 5, 5) if not isinstance(module, nn.Dropout1d) else torch.ones(6, 4, 5)).flatten(2)
    assert (found == found[..., :1]).all() and set(found.unique().tolist()) <= {0.0, 2.0}
    for row in range(6):
        for channel in range(4):
            place = EVERYWHERE if places[0] == 1 else row
            element = channel if places[1] == 4 else 0
            assert found[row, channel, 0] == (2.0 if word(element, place, 7, 0) >= 2**31 else 0.0)


def test_timm_leaves_out_images():
    layers = pytest.importorskip("timm.layers")
    stage = stage_of(layers.DropPath(0.25), layers.DropPath(0.5, scale_by_keep=False))
    Keyed(stage, SEED, CPU).begin(batch_of(64))
    for layer, kept in zip(stage, (1 / 0.75, 1.0), strict=True):
        found = layer(torch.ones(64, 3, 2))
        assert (found == found[:, :1, :1]).all()
        assert found.unique().tolist() == pytest.approx([0.0, kept])


@pytest.mark.parametrize("processes", (2, 3, 4))
def test_processes_draw_what_one_draws_for_the_whole_batch(processes):
    stage, x = stage_of(nn.Dropout(0.5), nn.Dropout2d(0.2)), torch.rand(12, 4, 3, 3)
    keyed = Keyed(stage, SEED, CPU)
    keyed.begin(batch_of(12))
    whole, parts = stage(x), []
    for first, own in zip(range(0, 12, 12 // processes), x.chunk(processes), strict=True):
        keyed.begin(batch_of(len(own), first=first))
        parts.append(stage(own))
    assert torch.cat(parts).equal(whole)
    keyed.begin(batch_of(12, step=8))
    assert not stage(x).equal(whole)


def test_the_share_that_is_kept():
    stage = stage_of(nn.Dropout(0.1))
    Keyed(stage, SEED, CPU).begin(batch_of(100))
    kept = (stage(torch.ones(100, 1000)) != 0).float()
    assert kept.mean().item() == pytest.approx(0.9, abs=0.003)  # three standard deviations are 0.0028
    assert kept.mean(0).std().item() == pytest.approx(0.03, rel=0.2) and kept.mean(1).std() < 0.02


def test_the_stage_has_its_own_modules_again():
    inner = nn.Dropout(0.5)
    stage = stage_of(inner, nn.Sequential(nn.Linear(2, 2), inner), nn.Dropout(0.0))
    names = [*stage.state_dict()]
    keyed = Keyed(stage, SEED, CPU)
    assert len(keyed.layers) == 1 and stage[0] is stage[1][1] is keyed.layers[0]
    assert type(stage[2]) is nn.Dropout, "it draws nothing"
    assert [*stage.state_dict()] == names
    stage.eval()
    assert stage[0](x := torch.rand(3, 3)) is x
    keyed.put_back()
    assert stage[0] is stage[1][1] is inner and not inner.training


def test_torch_may_compile_it():
    stage, x = stage_of(nn.Dropout(0.5), nn.Linear(6, 6), nn.Dropout(0.5)), torch.rand(8, 6)
    keyed = Keyed(stage, SEED, CPU)
    compiled = torch.compile(stage, backend="eager", fullgraph=True, dynamic=False)
    for step in (0, 1, 5):
        keyed.begin(batch_of(8, step=step, first=step))
        expected = stage(x)
        keyed.begin(batch_of(8, step=step, first=step))
        with torch.compiler.set_stance("default" if step == 0 else "fail_on_recompile"):
            assert compiled(x).equal(expected)


class TestSteps:
    def test_a_training_with_dropout_draws_nothing_from_torch(self):
        first, _ = make_step(network="tf_cnn")
        assert first.keyed.layers
        second, _ = make_step(network="tf_cnn")
        torch.manual_seed(1)
        before = torch.get_rng_state()
        steps_of(first)
        assert torch.get_rng_state().equal(before)
        torch.manual_seed(2)
        steps_of(second)
        for name, value in weights(first).items():
            assert torch.equal(value, weights(second)[name])

    def test_parts_of_a_batch_draw_what_the_whole_draws(self):
        drawn = []
        for accumulate in (1, 2):
            step, raws = make_step(network="tf_cnn", accumulate=accumulate)
            layer, kept = step.keyed.layers[0], []
            draw = layer._kept
            layer._kept = lambda x, draw=draw, kept=kept: kept.append(draw(x)) or kept[-1]
            step(raws[0])
            drawn.append(torch.cat(kept))
        assert drawn[0].equal(drawn[1])

    def test_a_training_that_is_finished_leaves_the_dropouts_of_torch(self):
        step, _ = make_step(network="tf_cnn", ema=0.9)
        step.finish()
        assert not any(isinstance(module, KeyedDropout) for module in step.stage.modules())
        assert any(type(module) is nn.Dropout for module in step.stage.modules())


class Noisy(nn.Module):
    def forward(self, x):
        return x + torch.rand_like(x)


@pytest.mark.parametrize("layer, found", [(nn.Dropout(0.5), False), (Noisy(), True), (nn.AlphaDropout(0.5), True)])
def test_what_else_draws_is_found(layer, found):
    network = nn.Sequential(nn.Flatten(), layer)
    state = torch.get_rng_state()
    assert draws_otherwise(network, 4, CPU) is found
    assert torch.get_rng_state().equal(state)
