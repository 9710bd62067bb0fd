"""The losses of DAFL, ZSKT and CMI's adversary, against golden/datafree."""

import pytest
import torch
import torch.nn.functional as F
from helpers.datafree import MEAN, STD, network
from helpers.golden import Case, close
from helpers.method_cases import built, output, run

from fastkd.synthesis.losses import (
    adversarial_loss,
    agreed_adversarial_loss,
    dafl_terms,
    elementwise_divergence,
    zskt_student_loss,
)
from fastkd.synthesis.views import normalised


def assert_gradients(case, name, loss, leaves):
    """Whatever has no golden gradient gets none, or zeros."""
    found = torch.autograd.grad(loss, list(leaves.values()), allow_unused=True, retain_graph=True)
    for leaf, gradient in zip(leaves, found, strict=True):
        if f"{case.name}/grad/{name}/{leaf}" in case.arrays:
            expected = case[f"grad/{name}/{leaf}"]
            close(torch.zeros_like(expected) if gradient is None else gradient, expected)
        else:
            assert gradient is None or not gradient.any()


def assert_dafl(case, terms, leaves):
    losses = {"oh": terms.one_hot, "balance": terms.balance, "act": terms.activation, "total": terms.total()}
    for name, loss in losses.items():
        close(loss, case[f"loss/{name}"])
        assert_gradients(case, name, loss, leaves)


@pytest.mark.parametrize("name", ("c10", "c100"))
def test_dafl(name):
    case = Case("datafree/dafl", name)
    leaves = {"zt": case.input("zt"), "ft": case.input("ft")}
    assert_dafl(case, dafl_terms(leaves["zt"], leaves["ft"]), leaves)
    assert torch.equal(leaves["zt"].argmax(1), case["out/pseudo"])
    close(leaves["zt"].softmax(1).mean(0), case["out/pbar"])


def test_dafl_through_the_teacher():
    case = Case("datafree/dafl", "wrn")
    close(MEAN, case["hp/mean"])
    close(STD, case["hp/std"])
    x = case.input("x")
    said = network(case, "teacher")(normalised(x, MEAN, STD))
    close(said.logits, case["out/zt"])
    close(said.embedding, case["out/ft"])
    assert_dafl(case, dafl_terms(said.logits, said.embedding), {"x": x})


def test_a_class_that_no_image_has_any_probability_of_is_no_nan():
    logits = torch.tensor([[0.0, 0.0, -200.0]]).repeat(4, 1).requires_grad_()
    terms = dafl_terms(logits, torch.ones(4, 2))
    assert terms.balance.item() == pytest.approx(-torch.tensor(2.0).log().item())
    assert torch.autograd.grad(terms.balance, logits)[0].isfinite().all()


def test_zskt():
    case = Case("datafree/zskt", "c10")
    leaves = {name: case.input(name) for name in ("zs", "zt", "f_s0", "f_s1", "f_s2")}
    logits = leaves["zs"], leaves["zt"]
    teacher_maps = tuple(case[f"in/f_t{block}"] for block in range(3))
    student_maps = tuple(leaves[f"f_s{block}"] for block in range(3))
    still = leaves["zs"], leaves["zt"].detach()
    losses = {"df_gen": adversarial_loss(*logits), "df_student_T1": -adversarial_loss(*still)}
    for temperature in (1, 4):
        divergence = elementwise_divergence(*logits, temperature=float(temperature))
        losses[f"orig_gen_T{temperature}"] = -divergence
        how = {"temperature": float(temperature), "attention_weight": case["hp/AT_beta"].item()}
        losses[f"orig_student_T{temperature}"] = zskt_student_loss(*still, student_maps, teacher_maps, **how)
    losses["orig_at"] = (losses["orig_student_T1"] - elementwise_divergence(*still)) / case["hp/AT_beta"]
    for name, loss in losses.items():
        close(loss, case[f"loss/{name}"])
        assert_gradients(case, name, loss, leaves)


def test_zskt_through_both_networks():
    case = Case("datafree/zskt", "wrn")
    x = case.input("x")
    said, mine = (network(case, role)(normalised(x, MEAN, STD)).logits for role in ("teacher", "student"))
    close(said, case["out/zt"])
    close(mine, case["out/zs"])
    loss = adversarial_loss(mine, said)
    close(loss, case["loss/df_gen"])
    assert_gradients(case, "df_gen", loss, {"x": x})


@pytest.mark.parametrize("name", ("adv10", "adv4"))
def test_cmis_adversary_counts_the_images_that_both_agree_on(name):
    case = Case("datafree/cmi", name)
    leaves = {"zs": case.input("zs"), "zt": case.input("zt")}
    label = F.cross_entropy(leaves["zt"], case["in/y"])
    adversarial = agreed_adversarial_loss(leaves["zs"], leaves["zt"])
    assert torch.equal((leaves["zs"].argmax(1) == leaves["zt"].argmax(1)).long(), case["out/mask"])
    for term, loss in {"oh": label, "adv": adversarial, "inv": label + 0.5 * adversarial}.items():
        close(loss, case[f"loss/{term}"])
        assert_gradients(case, term, loss, leaves)


@pytest.mark.parametrize("name", ("c10", "c100"))
def test_the_students_loss_is_that_of_kd_alone(name):
    """DataFree distils at T = 1 for ZSKT and DAFL, whatever its --T says, and at 20 for CMI."""
    case = Case("datafree/dfkd_step", name)
    for temperature in (1, 4, 20):
        leaf = case.input("zs")
        student, teacher = (output(logits=z, embedding=z) for z in (leaf, case["in/zt"]))
        classes = leaf.shape[1]
        numbers = {"temperature": float(temperature), "kl_weight": 1.0, "ce_weight": 0.0}
        loss = run(built("kd", student, teacher, classes=classes, **numbers), student, teacher).total
        close(loss, case[f"loss/kd_T{temperature}"])
        close(*torch.autograd.grad(loss, leaf), case[f"grad/kd_T{temperature}/zs"])
    assert Case("datafree/dfkd_step", "main")["out/criterion_T"].tolist() == [1, 1, 1, 20, 20]
