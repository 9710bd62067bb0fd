"""`CRDLoss`: heads, state, resuming, compilation, two processes."""

import copy
import subprocess
import sys

import pytest
import torch
from helpers.crd_cases import near, needs_library
from helpers.golden import Case
from helpers.subprocesses import with_paths

from fastkd.losses import CRDLoss
from fastkd.ops import crd

PATHS = ["reference", *(pytest.param(path, marks=needs_library) for path in ("cpu", "cpu_tiles"))]
LABELS = torch.arange(60) % 7


@pytest.fixture(autouse=True, params=PATHS)
def path(request, monkeypatch):
    monkeypatch.setenv("FASTKD_OPS", f"crd={request.param}")
    return request.param


def module(**options) -> CRDLoss:
    torch.manual_seed(1)
    return CRDLoss(8, 10, 60, **({"labels": LABELS, "embed_dim": 12, "negatives": 20, "seed": 3} | options))


def batch(step: int, samples: int = 6):
    generator = torch.Generator().manual_seed(step)
    student, teacher = (torch.randn(samples, width, generator=generator) for width in (8, 10))
    return student.requires_grad_(), teacher, torch.randint(60, (samples,), generator=generator)


def train(loss: CRDLoss, steps: range) -> list[float]:
    totals = []
    for step in steps:
        terms = loss(*batch(step))
        terms.total.backward()
        with torch.no_grad():
            for parameter in loss.parameters():
                parameter -= 0.05 * parameter.grad
                parameter.grad = None
        totals.append(terms.total.item())
    return totals


@pytest.mark.parametrize("begun", (False, True), ids=("first", "later"))
@pytest.mark.parametrize("few", (False, True), ids=("many rows", "few rows"))
def test_an_empty_batch_costs_nothing_and_is_no_step(begun, few):
    loss = module(negatives=20 if few else 2)
    if begun:
        train(loss, range(1))
    before = copy.deepcopy(loss.state_dict())
    student, teacher, index = batch(5, samples=0)
    terms = loss(student, teacher, index)
    terms.total.backward()
    assert [value.item() for value in terms] == [0.0, 0.0, 0.0]
    assert student.grad.shape == (0, 8)
    assert all(parameter.grad is None or not parameter.grad.any() for parameter in loss.parameters())
    for name, value in loss.state_dict().items():
        assert torch.equal(value, before[name]), name


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_golden_with_heads(path, dtype, monkeypatch):
    if dtype == torch.float64:
        monkeypatch.setenv("FASTKD_OPS", "crd=reference")
    tolerance = 1e-9 if dtype == torch.float64 else 5e-6
    first = Case("crd", "full1")
    negatives, temperature, _, _, momentum = first["hp/params"].tolist()
    bank = torch.stack((first["in/memory_v1"], first["in/memory_v2"]), 1)
    student_dim, teacher_dim = first["in/f_s"].shape[1], first["in/f_t"].shape[1]
    options = {"embed_dim": bank.shape[2], "negatives": int(negatives), "temperature": temperature}
    loss = CRDLoss(student_dim, teacher_dim, len(bank), momentum=momentum, **options).to(dtype)
    loss.numbers = torch.tensor((temperature, momentum), dtype=dtype)
    loss.bank.copy_(bank)
    for name in ("full1", "full2"):
        case = Case("crd", name)
        with torch.no_grad():
            for head, short in ((loss.student_head, "s"), (loss.teacher_head, "t")):
                head.weight.copy_(case[f"w/crd.embed_{short}.linear.weight"])
                head.bias.copy_(case[f"w/crd.embed_{short}.linear.bias"])
        student, teacher = case.input("f_s", dtype), case.input("f_t", dtype)
        terms = loss(student, teacher, case["in/idx"], case["in/contrast_idx"])
        near(terms.total, case["loss/crd"], tolerance)
        wanted = {
            "f_s": student,
            "f_t": teacher,
            "w/crd.embed_s.linear.weight": loss.student_head.weight,
            "w/crd.embed_s.linear.bias": loss.student_head.bias,
            "w/crd.embed_t.linear.weight": loss.teacher_head.weight,
            "w/crd.embed_t.linear.bias": loss.teacher_head.bias,
        }
        gradients = torch.autograd.grad(terms.total, list(wanted.values()))
        for key, gradient in zip(wanted, gradients, strict=True):
            near(gradient, case[f"grad/crd/{key}"], tolerance)
        near(loss.z, torch.stack((case["out/Z1"], case["out/Z2"])), tolerance)
        near(loss.bank[:, 0], case["out/memory_v1_new"], tolerance)
        near(loss.bank[:, 1], case["out/memory_v2_new"], tolerance)


@pytest.mark.parametrize("bank_dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("replacement", [False, True])
def test_resuming_is_exact(bank_dtype, replacement):
    options = {"bank_dtype": bank_dtype, "replacement": replacement}
    whole = module(**options)
    totals = train(whole, range(6))
    first = module(**options)
    assert train(first, range(3)) == totals[:3]
    state = copy.deepcopy(first.state_dict())
    resumed = CRDLoss(8, 10, 60, labels=LABELS, embed_dim=12, negatives=20, **options, seed=3)
    resumed.load_state_dict(state)
    assert train(resumed, range(3, 6)) == totals[3:]
    for name, tensor in whole.state_dict().items():
        assert torch.equal(tensor, resumed.state_dict()[name]), name


def test_a_state_brings_its_order_along():
    loss = module()
    train(loss, range(2))
    other = CRDLoss(8, 10, 60, labels=LABELS.flip(0), embed_dim=12, negatives=20, seed=3)
    other.load_state_dict(loss.state_dict())
    assert train(other, range(2, 4)) == train(loss, range(2, 4))


def test_how_few_negatives_there_are_is_that_of_the_state():
    """The host has to know before a step whether a class is scarce."""
    loss, other = module(), module(labels=torch.arange(60) // 50)
    assert (loss.fewest_negatives, other.fewest_negatives) == (51, 10)
    given = loss.state_dict()
    given["starts"] = torch.tensor([0, 50, 60, 60, 60, 60, 60, 60])
    loss.load_state_dict(given)
    assert loss.fewest_negatives == 10


def test_every_step_draws_anew_and_the_seed_decides():
    loss = module()
    loss.eval()
    one, again = loss(*batch(0)).total, loss(*batch(0)).total
    assert one == again and loss.step == 0 and (loss.z < 0).all(), "evaluation changes nothing"
    loss.step += 1
    assert loss(*batch(0)).total != one
    assert module(seed=4).eval()(*batch(0)).total != one
    assert torch.equal(module().bank, module().bank) and not torch.equal(module().bank, module(seed=4).bank)


def test_rows_are_sorted_by_class_and_negatives_of_other_classes():
    loss = module()
    labels = torch.empty_like(LABELS).scatter_(0, loss.position, LABELS)
    assert (labels.diff() >= 0).all()
    assert torch.equal(loss.position.sort().values, torch.arange(60))
    assert loss.starts.tolist() == [0, 9, 18, 27, 36, 44, 52, 60]


def test_the_update_reaches_the_batch_alone():
    loss = module()
    before = loss.bank.clone()
    student, teacher, index = batch(0)
    loss(student, teacher, index)
    changed = (loss.bank != before).flatten(1).any(1)
    assert torch.equal(changed.nonzero()[:, 0], loss.position[index].unique())
    torch.testing.assert_close(loss.bank[changed].norm(dim=2), torch.ones(int(changed.sum()), 2))


def test_z_is_that_of_the_first_batch():
    loss = module()
    loss(*batch(0))
    z = loss.z.clone()
    assert (z > 0).all()
    loss(*batch(1))
    assert torch.equal(loss.z, z)


def test_a_batch_that_is_not_finite_leaves_the_state_alone():
    loss = module()
    student, teacher, index = batch(0)
    bad = student.detach().clone()
    bad[2, 0] = torch.inf
    assert not loss(bad, teacher, index).total.isfinite()
    assert loss.bank.isfinite().all() and loss.z[0] < 0
    assert loss(student, teacher, index).total.isfinite()


def test_compiled_in_one_piece():
    plain, compiled = module(), module()
    torch.compiler.reset()
    step = torch.compile(compiled, fullgraph=True, backend="aot_eager")
    for i in range(3):
        student, teacher, index = batch(i)
        expected = torch.autograd.grad(plain(student, teacher, index).total, student)[0]
        actual = torch.autograd.grad(step(student, teacher, index).total, student)[0]
        torch.testing.assert_close(actual, expected, rtol=1e-5, atol=1e-7)
    torch.testing.assert_close(compiled.bank, plain.bank)
    assert torch.equal(compiled.step, plain.step) and compiled.step == 3
    torch.testing.assert_close(compiled.z, plain.z)


def test_half_precision_embeddings():
    loss = module()
    student, teacher, index = batch(0)
    with torch.autocast("cpu", torch.bfloat16):
        terms = loss(student, teacher, index)
    assert terms.total.dtype == torch.float32 and terms.total.isfinite()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"labels": torch.zeros(60, dtype=torch.int64)}, "no sample has a negative"),
        ({"labels": torch.zeros(59, dtype=torch.int64)}, r"int64 \[60\], got torch.int64 \[59\]"),
        ({"negatives": 0}, "negatives is at least 1"),
        ({"temperature": 0.0}, "temperature is a number above 0"),
        ({"momentum": 1.0}, "momentum is a number from 0"),
        ({"positive": "any"}, "'exact' or 'relaxed'"),
        ({"bank_dtype": torch.float16}, "torch.float32 or torch.bfloat16"),
    ],
)
def test_wrong_settings(options, message):
    with pytest.raises(ValueError, match=message):
        module(**options)


def test_wrong_batches():
    student, teacher, index = batch(0)
    with pytest.raises(ValueError, match=r"index is int64 \[6\]"):
        module()(student, teacher, index[:5])
    with pytest.raises(ValueError, match=r"contrast_index is \[6, 1 \+ negatives\]"):
        module()(student, teacher, index, torch.zeros(6, 1, dtype=torch.int64))


def test_without_labels_every_sample_is_a_class():
    loss = CRDLoss(8, 10, 60, embed_dim=12, negatives=59)
    rows = torch.arange(60)
    plan = crd.DrawPlan(loss.starts, loss.step, 59, 0, 0, replacement=False, relaxed=False)
    drawn = crd.draw(rows, 60, plan, "reference")[:, 1:].sort(1).values
    others = torch.stack([rows[rows != row] for row in rows])
    assert torch.equal(drawn, others)


@pytest.mark.parametrize(
    "path",
    [
        pytest.param("cpu_tiles", marks=needs_library),
        pytest.param("cpu", marks=(needs_library, pytest.mark.slow)),
        pytest.param("reference", marks=pytest.mark.slow),
    ],
    indirect=True,
)
@pytest.mark.parametrize("replacement", ["0", pytest.param("1", marks=pytest.mark.slow)])
def test_two_processes_equal_one(path, replacement, tmp_path):
    command = [sys.executable, "-m", "helpers.crd_two_processes", str(tmp_path), replacement]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, env=with_paths())
    assert done.returncode == 0, done.stderr
    one, *ranks = (torch.load(tmp_path / f"{name}.pt") for name in ("whole", "rank0", "rank1"))
    for name in ("bank", "z", "step"):
        assert torch.equal(ranks[0][name], ranks[1][name]), f"{name} differs between the processes"
    assert one["step"] == 4
    for name, tensor in one.items():
        torch.testing.assert_close(ranks[0][name], tensor, rtol=2e-6, atol=1e-7, msg=lambda m, n=name: f"{n}: {m}")
