"""Whole rounds of synthesis, and of the student that learns from it, against the trajectories of golden/datafree.

Adam's first steps have the sign of a gradient: what is 1e-9 of it is as large a step as any. So trajectories agree to
1e-6, but for the deviations of the float64 reference itself.
"""

import pytest
import torch
from helpers.datafree import MEAN, STD, generator, inversion, lengths, network, norms, views
from helpers.filled import fill
from helpers.golden import Case
from helpers.method_cases import built, output, run
from torch import Tensor

from fastkd.synthesis.bank import FeatureBank
from fastkd.synthesis.generators import Generator
from fastkd.synthesis.inversion import InversionTerms
from fastkd.synthesis.losses import adversarial_loss, dafl_terms
from fastkd.synthesis.rounds import BETAS, InversionRound, PseudoBatch, as_bytes, generator_step
from fastkd.synthesis.views import normalised


def near(found: Tensor, expected: Tensor) -> None:
    largest = expected.abs().max().item()
    torch.testing.assert_close(found.detach().double(), expected.double(), rtol=0, atol=max(1e-6 * largest, 1e-12))


def means(network) -> Tensor:
    return torch.cat([norm.running_mean for norm in norms(network)])


@pytest.mark.parametrize("name", ("dafl", "zskt"))
def test_three_steps_of_datafrees_generators(name):
    case = Case(f"datafree/{name}", "gen3")
    teacher = network(case, "teacher")

    def dafl(images):
        said = teacher(normalised(images, MEAN, STD))
        weights = {term: case[f"hp/weight_{key}"].item() for term, key in KEYS.items()}
        return dafl_terms(said.logits, said.embedding).total(**weights)

    def zskt(images):
        seen = normalised(images, MEAN, STD)
        return case["hp/weight_adv"].item() * adversarial_loss(student(seen).logits, teacher(seen).logits)

    student = network(case, "student") if name == "zskt" else None
    maker = generator(case, width=4)
    optimizer = torch.optim.Adam(maker.parameters(), lr=1e-3, betas=BETAS)
    for number, latents in enumerate(case["in/z"]):
        made = generator_step(maker, optimizer, latents, dafl if name == "dafl" else zskt)
        near(made.images, case[f"out/img_{number}"])
        near(made.loss, case["out/losses"][number])
    near(lengths(maker), case["out/param_l2_after"])
    near(maker.eval()(case["in/z"][0]), case["out/img_eval_after"])


KEYS = {"one_hot": "oh", "balance": "balance", "activation": "act"}


def test_the_pseudo_batches_of_zskts_authors():
    case = Case("datafree/zskt", "round")
    teacher, student = (network(case, role) for role in ("teacher", "student"))
    maker = Generator(int(case["hp/nz"]), ends="norm").double()
    fill(maker, 2000)
    optimizers = tuple(
        torch.optim.Adam(trained.parameters(), lr=lr) for trained, lr in ((maker, 1e-3), (student, 2e-3))
    )
    schedules = [torch.optim.lr_scheduler.CosineAnnealingLR(one, len(case["in/z"])) for one in optimizers]
    rounds = PseudoBatch(maker, student, teacher, optimizers, attention_weight=case["hp/AT_beta"].item())
    steps = []
    for latents in case["in/z"]:
        steps += rounds.steps(latents, 3)
        for schedule in schedules:
            schedule.step()
    near(torch.stack([step.images.norm() for step in steps]), case["out/x_l2"])
    for short, trained in (("gen", "generator"), ("student", "student")):
        own = [step for step in steps if step.trained == trained]
        near(torch.stack([step.loss for step in own]), case[f"out/{short}_losses"])
        near(torch.stack([step.gradient_norm for step in own]), case[f"out/{short}_grad_norm"])
    near(lengths(maker), case["out/gen_param_l2_after"])
    near(means(maker), case["out/gen_bn_mean_after"])
    near(means(student), case["out/student_bn_mean_after"])
    near(lengths(student), case["out/student_param_l2_after"])
    near(student.eval()(case["in/probe"]).logits, case["out/student_eval_logits"])


@pytest.mark.parametrize("name", ("round", "round_fast"))
def test_a_round_of_cmi(name, monkeypatch):
    case = Case("datafree/cmi_round", name)
    made_for, maker = inversion(case), generator(case)
    lr, steps = case["hp/lr_g"].item(), int(case["hp/steps"])
    of_head = torch.optim.Adam(made_for.head.parameters(), lr=lr)
    latents, images, losses = case["in/z"], [], []
    maker.register_forward_hook(lambda _, inputs, made: images.append(made.detach()))
    original = InversionTerms.total

    def total(terms, weights):
        losses.append(original(terms, weights))
        return losses[-1]

    monkeypatch.setattr(InversionTerms, "total", total)
    round_ = InversionRound(made_for, maker, latents, case["in/y"], of_head=of_head, lr=lr)
    for _ in range(steps):
        round_.step(views(case), case["in/bank"])
    found = round_.best
    near(torch.stack(losses), case["out/losses"])
    for step, made in enumerate(images):
        if f"{name}/out/img_{step}" in case.arrays:
            near(made, case[f"out/img_{step}"])
    assert found.step.item() == case["out/best_step"].item()
    near(found.loss, case["out/losses"].min())
    assert torch.equal(as_bytes(found.images).long(), case["out/best_u8"])
    near(found.features, case["out/best_features"])
    near(latents, case["out/z_after"])
    near(lengths(maker), case["out/gen_param_l2_after"])
    near(lengths(made_for.head), case["out/head_param_l2_after"])
    bank = FeatureBank(64, 480, dtype=torch.float64)
    bank.add(case["in/bank"])
    bank.add(found.features)
    near(bank.rows[6 : bank.filled], case["out/best_features"])
    assert bank.pointer == case["out/ptr"].item() and bank.added == case["out/n_updates"]
    assert all(parameter.grad is None for parameter in made_for.teacher.parameters())


def test_bytes_are_cut_not_rounded():
    assert as_bytes(torch.tensor([-1.0, 0.0, 0.999, 1.0, 2.0, 1.99 / 255])).tolist() == [0, 0, 254, 255, 255, 1]


def test_three_steps_of_the_student():
    """DataFree's student: KD alone, at the temperature that CMI distils at, by SGD with weight decay on everything."""
    case = Case("datafree/dfkd_step", "train3")
    teacher, student = network(case, "teacher"), network(case, "student").train()
    how = {"lr": case["hp/lr"].item(), "momentum": case["hp/momentum"].item(), "weight_decay": case["hp/wd"].item()}
    optimizer, losses = torch.optim.SGD(student.parameters(), **how), []
    for images in case["in/x"]:
        mine, said = student(images), teacher(images)
        numbers = {"temperature": case["hp/T"].item(), "kl_weight": 1.0, "ce_weight": 0.0}
        loss = run(built("kd", output(logits=mine.logits, embedding=mine.embedding), said, **numbers), mine, said).total
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.detach())
    near(torch.stack(losses), case["out/losses"])
    near(means(student), case["out/student_bn_mean_after"])
    near(lengths(student), case["out/student_param_l2_after"])
    near(student.eval()(case["in/x"][0]).logits, case["out/student_eval_logits"])
