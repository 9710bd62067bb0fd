"""The CUDA kernels themselves, run thread by thread on the CPU (simt.h).

Not what a GPU would prove, but arithmetic, indices, butterfly and ragged ends are those of the source that nvcc gets.
"""

import ctypes
import platform
import shutil
import subprocess
from pathlib import Path

import pytest
import torch
from helpers.crd_cases import in_float64, near, problem

from fastkd.ops import crd

HERE = Path(__file__).parent
CSRC = HERE.parents[2] / "csrc"
COMPILER = shutil.which("g++")
FLOAT, NARROW = torch.float32, torch.bfloat16
WIDTHS = [
    ("float 4 1 8", 20, FLOAT),
    ("float 4 2 8", 128, FLOAT),
    ("float 4 4 4", 200, FLOAT),
    ("float 1 8 4", 13, FLOAT),
    ("float 1 16 2", 255, FLOAT),
    ("bfloat16 8 1 8", 128, NARROW),
    ("bfloat16 8 1 8", 48, NARROW),
    ("bfloat16 8 2 8", 136, NARROW),
    ("bfloat16 1 8 4", 21, NARROW),
    ("bfloat16 1 16 2", 255, NARROW),
]
DRAWS = {
    "plain": {},
    "with replacement, relaxed": {"replacement": True, "relaxed": True},
    "explicit": {"explicit": True},
    "one negative": {"negatives": 1, "samples": 1},
    "several tiles and blocks": {"negatives": 600, "rows": 700, "splits": 2},
    "more negatives than rows": {"rows": 50, "negatives": 200},
    "more than 1024 classes": {"rows": 1200, "classes": 1100, "relaxed": True, "negatives": 300},
    "a tile less one": {"negatives": 127},
    "a tile": {"negatives": 128, "splits": 2},
}
# What is drawn does not depend on the width.
PASSES = [(*width, name) for width in WIDTHS for name in DRAWS if width[1] in (13, 48) or "tiles" in name]


class Arguments(ctypes.Structure):
    _fields_ = (
        *((name, ctypes.c_void_p) for name in ("rows", "chosen", "starts", "step")),
        *((name, ctypes.c_int64) for name in ("classes", "n", "negatives", "first_place")),
        *((name, ctypes.c_int64) for name in ("seed", "replacement", "relaxed", "scarce")),
    )


@pytest.fixture(scope="module")
def kernels(tmp_path_factory):
    if COMPILER is None or platform.system() != "Linux":
        pytest.skip("needs g++ on Linux")
    folder = tmp_path_factory.mktemp("simulated")
    for header in ("cuda_bf16.h", "cuda_runtime.h"):
        (folder / header).touch()  # what the kernels take of them is in simt.h
    includes = "".join(f'#include "{name}"\n' for name in ("simt.h", "gather.cuh", "update.cuh", "simulated.h"))
    (folder / "kernels.cpp").write_text(includes)
    flags = ("-O1", "-std=c++17", "-shared", "-fPIC", "-w", f"-I{folder}", f"-I{HERE}", f"-I{CSRC}")
    library = folder / "kernels.so"
    subprocess.run([COMPILER, *flags, str(folder / "kernels.cpp"), "-o", str(library)], check=True)
    return ctypes.CDLL(str(library))


def pointer(tensor: torch.Tensor | None) -> ctypes.c_void_p:
    return ctypes.c_void_p(None if tensor is None else tensor.data_ptr())


def arguments(case) -> Arguments:
    batch, plan = case.contrast, case.contrast.plan
    chosen = None if batch.chosen_BK is None else batch.chosen_BK.data_ptr()
    tensors = (batch.rows_B.data_ptr(), chosen, plan.starts.data_ptr(), plan.step.data_ptr())
    sizes = (len(plan.starts) - 1, len(case.bank), plan.negatives, plan.first_place)
    return Arguments(*tensors, *sizes, plan.seed, plan.replacement, plan.relaxed, plan.scarce)


@pytest.mark.parametrize(("variant", "dim", "dtype", "name"), PASSES)
def test_loss_gradients_and_z(kernels, variant, dim, dtype, name):
    options = {"dim": dim, "dtype": dtype, "samples": 3} | DRAWS[name]
    splits = options.pop("splits", 1)
    case = problem(**options)
    student, teacher = (tensor.detach() for tensor in case.contrast[:2])
    total, sides, measured = torch.empty(()), torch.empty(2), torch.empty(2)
    gradients = torch.empty_like(student), torch.empty_like(teacher)

    def run(z: torch.Tensor, measures: bool) -> None:
        tensors = (student, teacher, case.bank, z, case.numbers)
        outputs = (total, sides, *gradients, measured)
        kernels.simulated_pass(
            ctypes.byref(arguments(case)),
            variant.encode(),
            *map(pointer, tensors),
            *student.shape,
            splits,
            ctypes.c_bool(measures),
            *map(pointer, outputs),
        )

    run(torch.full((2,), -1.0), True)
    z = measured.clone()
    run(z, True)
    assert torch.equal(measured, z), "a Z that is known stays"
    run(z, False)
    expected = in_float64(case, z)
    near(z, expected.z, 2e-6)
    near(total, expected.total, 2e-6)
    near(sides, expected.sides, 2e-6)
    for gradient, right in zip(gradients, expected.gradients, strict=True):
        near(gradient, right, 2e-6)


@pytest.mark.parametrize("name", [name for name in DRAWS if name != "explicit"])
def test_draws_are_those_of_the_reference(kernels, name):
    options = dict(DRAWS[name])
    options.pop("splits", None)
    case = problem(**options)
    batch = case.contrast
    drawn = torch.empty(len(batch.rows_B), batch.plan.negatives + 1, dtype=torch.int64)
    kernels.simulated_draw(ctypes.byref(arguments(case)), len(drawn), pointer(drawn))
    assert torch.equal(drawn, crd.draw(batch.rows_B, len(case.bank), batch.plan, "reference"))


@pytest.mark.parametrize("dtype", [FLOAT, NARROW])
def test_update(kernels, dtype):
    case = problem(samples=6, dtype=dtype, dim=20)
    rows = torch.tensor([4, 9, 4, 200, 9, 4])
    student, teacher = (tensor.detach().clone() for tensor in case.contrast[:2])
    student[3, 2] = torch.nan
    new_z = torch.tensor([3.0, torch.inf])
    ours, theirs = ((case.bank.clone(), torch.tensor([-1.0, 5.0]), torch.tensor(7)) for _ in range(2))
    inputs = (rows, student, teacher, new_z, case.numbers)
    kernels.simulated_update(
        ctypes.c_bool(dtype == NARROW), *map(pointer, (*ours, *inputs)), 6, 20, ctypes.c_int64(len(case.bank))
    )
    crd.update_(*theirs, *inputs, "reference")
    torch.testing.assert_close(ours[0], theirs[0], rtol=2e-7 if dtype == FLOAT else 2**-7, atol=1e-8)
    assert torch.equal(ours[1], theirs[1]) and torch.equal(ours[2], theirs[2])
