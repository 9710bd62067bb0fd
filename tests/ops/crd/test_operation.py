"""The operations as PyTorch sees them: schemas, gradients, what a compiler is promised, and what autograd is told."""

import pytest
import torch
from helpers.crd_cases import needs_library, problem
from torch._subclasses.fake_tensor import FakeTensorMode

from fastkd.ops import crd
from fastkd.ops.crd import operation
from fastkd.ops.schema import flat


def arguments_of(case):
    z = torch.tensor((30.0, 40.0))
    return (*flat(case.inputs(z)), "cpu")


@needs_library
@pytest.mark.parametrize("explicit", [False, True])
def test_opcheck_loss_and_normaliser(explicit):
    case = problem(explicit=explicit)
    # Its gradients are outputs too, for the backward pass; opcheck would differentiate them.
    tests = ("test_schema", "test_autograd_registration", "test_faketensor")
    torch.library.opcheck(operation.crd_loss, arguments_of(case), test_utils=tests)
    detached = [a.detach() if isinstance(a, torch.Tensor) else a for a in arguments_of(case)]
    torch.library.opcheck(operation.crd_normaliser, tuple(detached))


@needs_library
def test_opcheck_the_rest():
    case = problem()
    student, teacher = (tensor.detach() for tensor in case.contrast[:2])
    z, step = torch.full((2,), -1.0), torch.tensor(0)
    update = (case.bank, z, step, case.contrast.rows_B, student, teacher, torch.ones(2), case.numbers, "cpu")
    torch.library.opcheck(operation.crd_update_, update)
    plan = case.contrast.plan
    torch.library.opcheck(operation.crd_draw, (case.contrast.rows_B, *plan, 300, "cpu"))
    torch.library.opcheck(operation.crd_scale_, (student, teacher, torch.tensor(2.0)))


@needs_library
def test_the_gradient_that_arrives_is_applied_once():
    case = problem()
    z = torch.tensor((30.0, 40.0))
    plain = torch.autograd.grad(crd.loss(case.inputs(z), "cpu").total, case.contrast[:2])
    total = crd.loss(case.inputs(z), "cpu").total * 3
    scaled = torch.autograd.grad(total, case.contrast[:2], retain_graph=True)
    for one, three in zip(plain, scaled, strict=True):
        torch.testing.assert_close(three, 3 * one)
    with pytest.raises(RuntimeError, match="second backward needs a second forward"):
        torch.autograd.grad(total, case.contrast[:2])


@needs_library
def test_the_update_tells_autograd():
    case = problem()
    student, teacher = (tensor.detach() for tensor in case.contrast[:2])
    bank, z, step = case.bank, torch.ones(2), torch.tensor(0)
    before = [tensor._version for tensor in (bank, z, step)]
    crd.update_(bank, z, step, case.contrast.rows_B, student, teacher, torch.ones(2), case.numbers, "cpu")
    assert all(tensor._version > old for tensor, old in zip((bank, z, step), before, strict=True))


class TestPromises:
    """For a GPU that is not there: tensors have shapes, types and devices, and no values. To read one is an error."""

    @pytest.fixture
    def case(self):
        with FakeTensorMode():
            yield problem(samples=6, negatives=70, dim=16).to("cuda")

    @pytest.fixture
    def z(self, case):
        return torch.empty(2, device="cuda")

    @pytest.mark.parametrize("path", ("dense", "gather", "reference"))
    def test_a_loss_waits_for_nothing(self, case, z, path):
        new_z = crd.normaliser(case.inputs(z), path)
        terms = crd.loss(case.inputs(new_z), path)
        assert new_z.shape == (2,) and all(term.shape == () for term in terms)
        assert {value.device.type for value in (new_z, *terms)} == {"cuda"}
        assert terms.total.requires_grad and not terms.student.requires_grad and not terms.teacher.requires_grad

    @pytest.mark.parametrize("path", ("dense", "gather", "reference"))
    def test_an_update_waits_for_nothing(self, case, z, path):
        batch, step = case.contrast, torch.zeros((), dtype=torch.int64, device="cuda")
        embeddings = batch.student_BD.detach(), batch.teacher_BD.detach()
        crd.update_(case.bank, z, step, batch.rows_B, *embeddings, torch.empty(2, device="cuda"), case.numbers, path)

    def test_gradients_are_those_of_the_embeddings(self, case, z):
        batch, bank = case.contrast, case.bank
        drawn = crd.count(batch.rows_B, 300, batch.plan)
        scaled = crd.prepare(case.inputs(z), "dense").scaled
        total, sides, *gradients = operation.crd_score(*batch[:2], *drawn, scaled, bank, z, case.numbers, 70)
        assert total.shape == () and sides.shape == (2,)
        for gradient, given in zip(gradients, case.contrast[:2], strict=True):
            assert (gradient.shape, gradient.dtype) == (given.shape, given.dtype)

    def test_the_reference_draws_by_a_kernel_where_it_can(self, case, z, monkeypatch):
        """In PyTorch, walking the permutation would wait for the GPU."""
        pytest.importorskip("triton", reason="Triton is not installed")
        paths, draw = [], crd.draw
        monkeypatch.setattr(crd, "draw", lambda *arguments: paths.append(arguments[-1]) or draw(*arguments))
        for given in (case, case.to("cpu")):
            crd.loss(given.inputs(torch.empty(2, device=given.bank.device)), "reference")
        assert paths == ["dense", "reference"]

    def test_draws_are_a_positive_and_the_negatives(self, case):
        drawn = crd.draw(case.contrast.rows_B, 300, case.contrast.plan, "dense")
        assert drawn.shape == (6, 71) and drawn.dtype == torch.int64 and drawn.device.type == "cuda"


def test_draws_of_the_reference_need_no_library():
    batch = problem().contrast
    drawn = crd.draw(batch.rows_B, 300, batch.plan, "reference")
    assert drawn.shape == (5, 71) and drawn.min() >= 0 and drawn.max() < 300


def test_a_path_that_does_not_exist_is_a_mistake_of_ours():
    case = problem()
    with pytest.raises(AssertionError, match="cuda"):
        crd.normaliser(case.inputs(torch.full((2,), -1.0)), "cuda")
