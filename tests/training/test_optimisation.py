"""Learning-rate tables against torch's schedulers, and the fused optimisers against torch's plain ones."""

import sys

import pytest
import torch
from torch.optim import lr_scheduler

from fastkd.support.errors import UserError
from fastkd.training.optimisation import (
    Training,
    build_optimizer,
    follows_the_device,
    learning_rates,
    load_optimizer_state,
    set_learning_rate,
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
        monkeypatch.setitem(sys.modules, "timm.optim", None)
        with pytest.raises(UserError, match="--optimizer lamb is timm's, which is not installed"):
            build_optimizer(Toy(), Training(epochs=1, optimizer="lamb"), torch.device("cpu"))


@pytest.mark.parametrize("name", ("sgd", "adam", "adamw"))
def test_fused_optimisers_follow_the_device(name):
    assert follows_the_device(build_optimizer(Toy(), Training(epochs=1, optimizer=name), torch.device("cpu")))


def test_the_rate_is_changed_in_place_and_survives_loading():
    stage = Toy()
    optimizer = build_optimizer(stage, Training(epochs=1, lr=0.1), torch.device("cpu"))
    rate = optimizer.param_groups[0]["lr"]
    set_learning_rate(optimizer, torch.tensor(0.025))
    assert rate.item() == pytest.approx(0.025)
    load_optimizer_state(optimizer, optimizer.state_dict())
    assert optimizer.param_groups[0]["lr"] is rate


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
    ],
)
def test_mistakes(settings, words):
    with pytest.raises(UserError, match=words):
        Training(**({"epochs": 5} | settings))
