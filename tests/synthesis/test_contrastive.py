"""CMI's contrast, against golden/datafree/cmi.npz."""

import pytest
import torch
from helpers.golden import Case, close

from fastkd.synthesis.contrastive import Head, contrastive_loss

PARAMETERS = {"W1": "0.weight", "b1": "0.bias", "W2": "2.weight", "b2": "2.bias"}


def head_of(case):
    head = Head(case["w/head.W1"].shape[1], len(case["w/head.W2"])).double()
    head.load_state_dict({name: case[f"w/head.{golden}"] for golden, name in PARAMETERS.items()})
    return head


@pytest.mark.parametrize("name", ("cr", "cr_nobank"))
def test_the_loss_and_its_gradients(name):
    case = Case("datafree/cmi", name)
    head, local, whole = head_of(case), case.input("l"), case.input("g")
    bank = case["in/bank"] if name == "cr" else None
    loss = contrastive_loss(local, whole, bank, head=head, temperature=case["hp/cr_T"].item())
    close(loss, case["loss/cr"])
    leaves = [local, *(dict(head.named_parameters())[ours] for ours in PARAMETERS.values())]
    of_local, *of_head = torch.autograd.grad(loss, leaves, retain_graph=True)
    close(of_local, case["grad/cr/l"])
    for golden, found in zip(PARAMETERS, of_head, strict=True):
        close(found, case[f"grad/cr/w/head.{golden}"])
    assert torch.autograd.grad(loss, whole, allow_unused=True) == (None,)
    rows = torch.cat([local, bank.chunk(2, 1)[0]]) if bank is not None else local
    columns = torch.cat([whole, bank.chunk(2, 1)[1]]) if bank is not None else whole
    close(head(rows), case["out/rows"])
    close(head(columns), case["out/cols"])
    if bank is not None:
        assert abs(loss.item() - case["loss/variant_all_mean"].item()) > 1e-3
        errors = case["out/c"]
        close(loss, errors[: len(local)].mean() + errors[len(local) :].mean())


def test_a_bank_without_rows_is_none():
    case = Case("datafree/cmi", "cr_nobank")
    given = case["in/l"], case["in/g"]
    empty, none = (contrastive_loss(*given, bank, head=head_of(case)) for bank in (torch.zeros(0, 16), None))
    assert torch.equal(empty, none)
