"""Which implementation runs, and why; what an import costs."""

import subprocess
import sys

import pytest
import torch
from helpers.crd_cases import needs_library

from fastkd.losses import KDLoss, SFTNLoss, kd_loss
from fastkd.ops import compiled, select
from fastkd.support.errors import UserError


@pytest.fixture(autouse=True)
def nothing_forced(monkeypatch):
    monkeypatch.delenv("FASTKD_OPS", raising=False)
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    forget()
    yield
    forget()


def forget():
    """What can run is found once in a process."""
    select._chosen.cache_clear()


@needs_library
def test_a_cpu_runs_the_compiled_kernels_and_says_why():
    implementation, reason = select.choose("distill_loss", "cpu")
    assert implementation == "cpu"
    assert reason == "triton does not run on cpu without TRITON_INTERPRET=1"


@pytest.mark.parametrize(
    "operation, of_gpus", (("distill_loss", ""), ("crd", "; the compiled cuda code does not run on cpu"))
)
def test_a_cpu_without_a_library_runs_the_reference_and_says_why(operation, of_gpus, monkeypatch):
    monkeypatch.setattr(compiled, "_file", lambda device: None)
    implementation, reason = select.choose(operation, "cpu")
    assert implementation == "reference"
    why = f"triton does not run on cpu without TRITON_INTERPRET=1{of_gpus}; the compiled cpu library was not built"
    assert reason == why


def test_what_can_run_is_found_once_in_a_process(monkeypatch):
    first = select.choose("distill_loss", "cuda")
    monkeypatch.setattr(select.importlib.util, "find_spec", lambda name: pytest.fail("searched again"))
    assert select.choose("distill_loss", "cuda") == first


@needs_library
def test_a_person_is_told_of_what_could_be_otherwise(monkeypatch):
    assert select.words("cpu") == {"distill_loss": "C++", "row_loss": "C++", "crd": "C++", "augment": "PyTorch"}
    monkeypatch.setattr(select.importlib.util, "find_spec", lambda name: None)
    forget()
    assert select.words("cpu")["augment"] == "PyTorch"
    assert select.words("cuda")["distill_loss"] == "PyTorch (triton is not installed)"
    monkeypatch.setenv("FASTKD_OPS", "crd=reference")
    assert select.words("cpu")["crd"] == "PyTorch (forced by FASTKD_OPS)"


def test_every_implementation_has_a_name_for_a_person_and_one_for_the_machine_it_was_made_for():
    names = {name for implementations in select.OPERATIONS.values() for name in implementations}
    assert names == {*select.MADE_FOR, "reference"} == set(select._CALLED)


def test_a_gpu_runs_the_kernels(monkeypatch):
    monkeypatch.setattr(select.importlib.util, "find_spec", lambda name: object())
    assert select.choose("distill_loss", "cuda") == ("triton", "preferred on cuda")


def test_a_gpu_without_bfloat16_runs_what_it_can(monkeypatch):
    """Triton's kernels of the losses compile for it without spilling; CRD's need matrix products that it has not."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device=None: (7, 5))
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device=None: "Tesla T4")
    monkeypatch.setattr(select.importlib.util, "find_spec", lambda name: object())
    monkeypatch.setattr(compiled, "_file", lambda device: device)
    assert select.choose("distill_loss", "cuda")[0] == select.choose("augment", "cuda")[0] == "triton"
    path, why = select.choose("crd", "cuda")
    assert path == "reference" and "the Tesla T4 (sm_75) has no bfloat16" in why
    assert select.words("cuda")["crd"] == "PyTorch (the Tesla T4 (sm_75) has no bfloat16)"


def test_a_gpu_without_triton_runs_the_reference(monkeypatch):
    monkeypatch.setattr(select.importlib.util, "find_spec", lambda name: None)
    why = "triton is not installed; the compiled cpu code does not run on cuda"
    assert select.choose("distill_loss", "cuda") == ("reference", why)


def test_the_interpreter_is_not_chosen_unless_forced(monkeypatch):
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    assert select.choose("distill_loss", "cpu")[0] != "triton"
    monkeypatch.setenv("FASTKD_OPS", "distill_loss=triton")
    assert select.choose("distill_loss", "cpu") == ("triton", "forced by FASTKD_OPS")


def test_forcing_works_with_spaces_and_commas(monkeypatch):
    monkeypatch.setenv("FASTKD_OPS", " distill_loss = reference , ")
    assert select.choose("distill_loss", "cuda") == ("reference", "forced by FASTKD_OPS")


@pytest.mark.parametrize(
    "forced, message",
    (
        ("distill_loss=triton", "FASTKD_OPS=distill_loss=triton: triton does not run on cpu"),
        ("distill_loss=cuda", "distill_loss has no implementation 'cuda'; known: cpu, reference, triton"),
        ("distil_loss=triton", "no operation 'distil_loss'; did you mean 'distill_loss'"),
        ("triton", "FASTKD_OPS is OPERATION=IMPLEMENTATION.*got 'triton'"),
    ),
)
def test_forcing_what_is_not_there(monkeypatch, forced, message):
    monkeypatch.setenv("FASTKD_OPS", forced)
    logits, labels = torch.zeros(2, 3), torch.tensor([0, 1])
    with pytest.raises(UserError, match=message):
        KDLoss()(logits, logits, labels)


def test_the_reference_compiles_without_a_graph_break(monkeypatch):
    monkeypatch.setenv("FASTKD_OPS", "distill_loss=reference")
    torch.manual_seed(0)
    teacher, branches, labels = torch.randn(4, 7), torch.randn(2, 4, 7), torch.tensor([0, 1, -100, 3])
    loss = SFTNLoss()
    compiled = torch.compile(loss, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(teacher, branches, labels), loss(teacher, branches, labels))


def test_the_choice_is_not_traced(monkeypatch):
    """Dynamo takes it as a constant; in particular it does not guard on the environment."""
    logits, labels = torch.randn(2, 3), torch.tensor([0, 1])

    def step(student, teacher):
        return kd_loss(student, teacher, labels, temperature=4.0, kl_weight=1.0, ce_weight=1.0).total

    compiled = torch.compile(step, fullgraph=True, backend="aot_eager")
    before = compiled(logits, logits)
    with torch.compiler.set_stance("fail_on_recompile"):
        monkeypatch.setenv("FASTKD_OPS", "nonsense")
        torch.testing.assert_close(compiled(logits, logits), before)


def test_an_import_needs_torch_and_numpy_alone():
    """Neither Triton nor any other package that torch itself does not load, and no GPU is touched."""
    program = """
import sys, torch
before = set(sys.modules)
import fastkd.losses
new = {name.partition(".")[0] for name in set(sys.modules) - before}
print(sorted(new - set(sys.stdlib_module_names)), "triton" in sys.modules, torch.cuda.is_initialized())
"""
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "['fastkd'] False False"
