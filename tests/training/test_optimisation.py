"""Learning-rate tables against torch's schedulers, and the fused optimisers against torch's plain ones."""

import math
import sys

import pytest
import torch
from torch.optim import lr_scheduler

from fastkd.support.errors import UserError
from fastkd.training.optimisation import (
    RateTable,
    Training,
    build_optimizer,
    clip_gradients,
    follows_the_device,
    learning_rates,
    load_optimizer_state,
    norms_of,
    not_finite,
)
from fastkd.training.stages import Stage


def scheduled(make, steps, lr):
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=lr)
    scheduler = make(optimizer)
    rates = []
    for _ in range(steps):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    return torch.tensor(rates)


def test_multistep_equals_torch():
    training = Training(epochs=12, lr=0.05, milestones=(4, 8, 10))
    expected = scheduled(lambda o: lr_scheduler.MultiStepLR(o, [4, 8, 10], gamma=0.1), 12, 0.05)
    torch.testing.assert_close(learning_rates(training, 3), expected.repeat_interleave(3))


def test_the_papers_decay_begins_with_epoch_151():
    rates = learning_rates(Training(epochs=240, lr=0.05, milestones=(150, 180, 210)), 1)
    torch.testing.assert_close(rates[[0, 149, 150, 180, 210, 239]], torch.tensor([0.05, 0.05, 5e-3, 5e-4, 5e-5, 5e-5]))


def test_cosine_equals_torch():
    training = Training(epochs=5, lr=0.1, schedule="cosine")
    expected = scheduled(lambda o: lr_scheduler.CosineAnnealingLR(o, T_max=20), 20, 0.1)
    torch.testing.assert_close(learning_rates(training, 4), expected)


def test_a_cosine_by_epoch_equals_torch():
    training = Training(epochs=5, lr=0.1, schedule="cosine_by_epoch")
    expected = scheduled(lambda o: lr_scheduler.CosineAnnealingLR(o, T_max=5), 5, 0.1)
    torch.testing.assert_close(learning_rates(training, 4), expected.repeat_interleave(4))


def test_warm_up_by_iteration_rises_linearly_then_cosine_starts():
    rates = learning_rates(Training(epochs=3, lr=0.8, schedule="cosine", warmup_epochs=1), 4)
    torch.testing.assert_close(rates[:5], torch.tensor([0.2, 0.4, 0.6, 0.8, 0.8]))
    assert rates[-1] < rates[5] < 0.8


def test_warm_up_by_epoch_has_one_level_an_epoch():
    rates = learning_rates(Training(epochs=4, lr=0.9, schedule="constant", warmup_epochs=2, warmup_by="epoch"), 2)
    torch.testing.assert_close(rates, torch.tensor([0.3, 0.3, 0.6, 0.6, 0.9, 0.9, 0.9, 0.9]))


def test_the_step_factor_is_a_setting():
    rates = learning_rates(Training(epochs=3, lr=1.0, milestones=(1, 2), factor=0.2), 1)
    torch.testing.assert_close(rates, torch.tensor([1.0, 0.2, 0.04]))


def test_the_rate_is_scaled_with_the_batch_behind_a_warm_up():
    """Goyal et al. 2017: 0.1 for 256 images is 3.2 for 8,192, reached by a linear rise; here in four steps."""
    large = {"batch_size": 8192, "scale_lr_from": 256, "warmup_epochs": 2, "milestones": (3,)}
    rates = learning_rates(Training(epochs=4, lr=0.1, **large), 2)
    torch.testing.assert_close(rates, torch.tensor([0.8, 1.6, 2.4, 3.2, 3.2, 3.2, 0.32, 0.32]))
    small = Training(epochs=1, lr=0.1, batch_size=64, scale_lr_from=256)
    assert small.rate == pytest.approx(0.025)
    assert build_optimizer(Toy(), small, torch.device("cpu")).param_groups[0]["lr"].item() == pytest.approx(0.025)


class Toy(Stage):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.layer = torch.nn.Linear(4, 3)


def train(optimizer, stage, steps=5):
    torch.manual_seed(1)
    for _ in range(steps):
        stage.layer(torch.randn(8, 4)).square().sum().backward()
        optimizer.step()
        optimizer.zero_grad()
    return torch.cat([parameter.detach().flatten() for parameter in stage.parameters()])


@pytest.mark.parametrize(
    "training, plain",
    [
        (
            Training(epochs=1, lr=0.01, weight_decay=1e-2),
            lambda p: torch.optim.SGD(p, lr=0.01, momentum=0.9, weight_decay=1e-2),
        ),
        (
            Training(epochs=1, lr=0.01, nesterov=True),
            lambda p: torch.optim.SGD(p, lr=0.01, momentum=0.9, nesterov=True, weight_decay=5e-4),
        ),
        (Training(epochs=1, lr=0.01, momentum=0.0), lambda p: torch.optim.SGD(p, lr=0.01, weight_decay=5e-4)),
        (
            Training(epochs=1, lr=0.01, optimizer="adam", weight_decay=0.0),
            lambda p: torch.optim.Adam(p, lr=0.01),
        ),
        (
            Training(epochs=1, lr=0.01, optimizer="adamw", weight_decay=0.1),
            lambda p: torch.optim.AdamW(p, lr=0.01, weight_decay=0.1),
        ),
    ],
    ids=("sgd", "nesterov", "no momentum", "adam", "adamw"),
)
def test_the_fused_optimiser_equals_torchs_plain_one(training, plain):
    fused, reference = Toy(), Toy()
    ours = train(build_optimizer(fused, training, torch.device("cpu")), fused)
    torch.testing.assert_close(ours, train(plain(reference.parameters()), reference))


class TestLayerwise:
    """LAMB and LARS are timm's."""

    def made(self, name, **settings):
        pytest.importorskip("timm", reason="timm is not installed")
        stage = Toy()
        training = Training(epochs=1, lr=0.01, optimizer=name, weight_decay=0.02, **settings)
        return stage, build_optimizer(stage, training, torch.device("cpu"))

    @pytest.mark.parametrize("name, settings", (("lamb", {}), ("lars", {"momentum": 0.9, "nesterov": True})))
    def test_they_are_timms_at_a_rate_that_is_a_tensor(self, name, settings):
        stage, optimizer = self.made(name, **settings)
        from timm.optim import Lamb, Lars  # pyright: ignore[reportMissingImports]

        reference = Toy()
        kind = Lamb if name == "lamb" else Lars
        plain = kind(reference.parameters(), lr=0.01, weight_decay=0.02, **settings)
        torch.testing.assert_close(train(optimizer, stage), train(plain, reference))
        assert not follows_the_device(optimizer)

    def test_what_is_missing_is_said(self, monkeypatch):
        monkeypatch.setitem(sys.modules, "timm.optim.lamb", None)
        with pytest.raises(UserError, match="--optimizer lamb is timm's, which is not installed"):
            build_optimizer(Toy(), Training(epochs=1, optimizer="lamb"), torch.device("cpu"))


@pytest.mark.parametrize("name", ("sgd", "adam", "adamw"))
def test_fused_optimisers_follow_the_device(name):
    assert follows_the_device(build_optimizer(Toy(), Training(epochs=1, optimizer=name), torch.device("cpu")))


def test_the_rate_is_changed_in_place_and_survives_loading():
    stage = Toy()
    optimizer = build_optimizer(stage, Training(epochs=1, lr=0.1), torch.device("cpu"))
    table = RateTable(optimizer, torch.tensor([0.1, 0.025]))
    rate = optimizer.param_groups[0]["lr"]
    table.set(torch.tensor(1))
    assert rate.item() == pytest.approx(0.025)
    load_optimizer_state(optimizer, optimizer.state_dict())
    assert optimizer.param_groups[0]["lr"] is rate


def test_every_group_has_its_share_of_the_rate_as_if_it_were_multiplied_at_the_step():
    first, second = torch.nn.Parameter(torch.zeros(2)), torch.nn.Parameter(torch.zeros(3))
    groups = [{"params": [p], "lr": torch.tensor(1.0), "lr_factor": f} for p, f in ((first, 1.0), (second, 0.2))]
    optimizer, rates = torch.optim.SGD(groups, fused=True), torch.rand(7)
    table = RateTable(optimizer, rates)
    assert [group["lr"].item() for group in optimizer.param_groups] == [1.0, 1.0], "as it was until the first step"
    for step in range(9):  # warming up goes beyond the end
        table.set(torch.tensor(step))
        for group in optimizer.param_groups:
            assert torch.equal(group["lr"], rates[min(step, 6)] * group["lr_factor"])


@pytest.mark.parametrize("bad", (math.nan, math.inf, -math.inf))
@pytest.mark.parametrize("place", (0, 1, 70, 139))
def test_one_number_that_is_not_finite_is_found_wherever_it_stands(bad, place):
    numbers = torch.linspace(-1, 1, 140) * 3e38
    assert not_finite(numbers) == 0 and not_finite(numbers).dtype == torch.float32
    numbers[place] = bad
    assert not_finite(numbers) == 1


def test_gradients_are_clipped_as_torch_clips_them():
    generator = torch.Generator().manual_seed(0)
    ours, theirs = ([torch.nn.Parameter(torch.zeros(n)) for n in (3, 50, 1000)] for _ in range(2))
    for mine, other in zip(ours, theirs, strict=True):
        mine.grad = torch.randn(len(mine), generator=generator)
        other.grad = mine.grad.clone()
    unused = torch.nn.Parameter(torch.zeros(2))
    norm = torch.linalg.vector_norm(torch.stack(norms_of([parameter.grad for parameter in ours])))
    clip_gradients(torch.optim.SGD([*ours, unused], lr=0.1), norm, 1.5)
    torch.nn.utils.clip_grad_norm_(theirs, 1.5, foreach=True)
    assert all(torch.equal(mine.grad, other.grad) for mine, other in zip(ours, theirs, strict=True))


@pytest.mark.parametrize(
    "settings, words",
    [
        ({"epochs": 0}, "Training.epochs is 0, expected a whole number from 1"),
        ({"lr": 0.0}, "Training.lr is 0.0, expected a number above 0"),
        ({"lr": float("nan")}, "Training.lr is nan, expected a number above 0"),
        ({"warmup_epochs": 9}, "warm-up takes 0 to 5 epochs, got 9"),
        ({"milestones": (3, 2)}, "milestones rise"),
        ({"milestones": (1, 2), "factor": 1e25}, "the learning rate is about 1e.49 after 2 milestones"),
        ({"optimizer": "adam", "nesterov": True}, "Nesterov momentum belongs to SGD"),
        (
            {"lr": 1e37, "batch_size": 4096, "scale_lr_from": 1, "schedule": "cosine"},
            "--scale-lr-from makes the learning rate about 1e.41, which float32 does not hold",
        ),
    ],
)
def test_mistakes(settings, words):
    with pytest.raises(UserError, match=words):
        Training(**({"epochs": 5} | settings))
