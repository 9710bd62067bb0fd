"""CMI's whole loss from raw images, against golden/datafree/cmi.npz."""

import torch
from helpers.datafree import MEAN, STD, inversion, views
from helpers.golden import Case, close

from fastkd.synthesis.inversion import Weights
from fastkd.synthesis.views import global_view, normalised


def test_the_loss_of_raw_images():
    case = Case("datafree/cmi", "wrn")
    x, made_for = case.input("x"), inversion(case)
    found = made_for.terms(x, case["in/y"], views(case), case["in/bank"])
    assert made_for.weights == Weights()
    losses = {"bn": found.statistics, "oh": found.label, "adv": found.adversarial, "cr": found.contrast}
    losses["total"] = found.total(made_for.weights)
    for name, loss in losses.items():
        close(loss, case[f"loss/{name}"])
        close(*torch.autograd.grad(loss, x, retain_graph=True), case[f"grad/{name}/x"])
    whole = normalised(global_view(x, views(case).whole), MEAN, STD)
    said, mine = made_for.teacher(whole).logits, made_for.student(whole).logits
    close(said, case["out/zt"])
    close(mine, case["out/zs"])
    assert torch.equal((said.argmax(1) == mine.argmax(1)).long(), case["out/mask"])
    close(found.features.norm(dim=1), case["out/features_l2"])
    close(found.features[:, :8], case["out/features_first8"])
    assert not found.features.requires_grad
    gradients = torch.autograd.grad(losses["total"], list(made_for.head.parameters()))
    close(torch.stack([gradient.norm() for gradient in gradients]), case["out/head_grad_l2"])
    close(torch.stack([gradient.flatten()[:8] for gradient in gradients]), case["out/head_grad_first8"])
    assert not any(module._forward_pre_hooks for module in made_for.teacher.modules())
