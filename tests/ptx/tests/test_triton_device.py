"""Triton's launches on a device that is not there: bound, compiled and executed as on a GPU."""

import copy

import pytest
import torch
from ptx import FindingsError, NotExecuted, UnknownInstruction, device, execute, findings
from ptx.triton_device import ARCHITECTURES

triton = pytest.importorskip("triton")
tl = pytest.importorskip("triton.language")


@triton.jit
def add_kernel(x_ptr, y_ptr, out_ptr, n, STRIDE: tl.constexpr, BLOCK: tl.constexpr):
    place = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    x = tl.load(x_ptr + place * STRIDE, place < n, 0.0)
    y = tl.load(y_ptr + place, place < n, 0.0)
    tl.store(out_ptr + place, x + y, place < n)


@triton.jit
def careless_kernel(x_ptr, out_ptr, n, BLOCK: tl.constexpr):
    place = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    tl.store(out_ptr + place, tl.load(x_ptr + place), place < n)


@triton.jit
def product_kernel(a_ptr, b_ptr, c_ptr, M: tl.constexpr, N: tl.constexpr, K: tl.constexpr, IEEE: tl.constexpr):
    m, n, k = tl.arange(0, M), tl.arange(0, N), tl.arange(0, K)
    a = tl.load(a_ptr + m[:, None] * K + k[None, :])
    b = tl.load(b_ptr + k[:, None] * N + n[None, :])
    tl.store(c_ptr + m[:, None] * N + n[None, :], tl.dot(a, b, input_precision="ieee" if IEEE else "tf32"))


@triton.jit
def sum_kernel(x_ptr, total_ptr, n, BLOCK: tl.constexpr):
    place = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    tl.atomic_add(total_ptr, tl.sum(tl.load(x_ptr + place, place < n, 0)))


def arguments(x, y, out, **options):
    return {"x_ptr": x, "y_ptr": y, "out_ptr": out, "n": len(out), "STRIDE": x.stride(0), "BLOCK": 64, **options}


@pytest.mark.parametrize("arch", ARCHITECTURES)
def test_a_kernel_changes_tensors_in_place(arch, engine):
    x, y, out = torch.randn(100), torch.randn(100), torch.zeros(100)
    result = execute(add_kernel, (2,), arguments(x, y, out), arch=arch, engine=engine)
    assert torch.equal(out, x + y) and result.kernel == "add_kernel"
    assert result.counts.read.unique_bytes == 800 and result.counts.written.unique_bytes == 400


def test_views_are_what_they_name():
    """Every second number of a tensor: the others may not be touched, and are not."""
    whole, y, out = torch.randn(200), torch.randn(100), torch.zeros(100)
    result = execute(add_kernel, (2,), arguments(whole[::2], y, out))
    assert torch.equal(out, whole[::2] + y)
    assert result.counts.read.unique_bytes == 800
    with pytest.raises(FindingsError, match=findings.NOT_GIVEN):
        execute(add_kernel, (2,), arguments(whole[::2], y, out, STRIDE=1))
    rows = torch.zeros(4, 32)
    with pytest.raises(FindingsError, match=findings.NOT_GIVEN):
        execute(add_kernel, (1,), {**arguments(rows[0, :20], rows[1, :20], rows[2, :20]), "n": 21})


def test_a_mask_that_is_missing(engine):
    x, out = torch.randn(100), torch.zeros(100)
    given = {"x_ptr": x, "out_ptr": out, "n": 100, "BLOCK": 64}
    result = execute(careless_kernel, (2,), given, keep_findings=True, engine=engine)
    found = result.of_kind(findings.OUTSIDE)
    assert found and found[0].source.startswith("test_triton_device.py:") and found[0].block == 1
    assert torch.equal(out, x)


def test_memory_that_nobody_has_written():
    y, out = torch.randn(64), torch.zeros(64)
    with device("sm_90") as gpu:
        x = torch.empty(64)
        with pytest.raises(FindingsError, match=findings.UNINITIALISED):
            add_kernel[(1,)](**arguments(x, y, out))
        x.copy_(y)
        add_kernel[(1,)](**arguments(x, y, out))
        fresh = torch.empty_like(y)
        add_kernel[(1,)](**arguments(x, y, fresh))
        add_kernel[(1,)](**arguments(x, fresh, out))
    assert torch.equal(out, 3 * y) and len(gpu.launches) == 3
    assert torch.empty(2, 3).shape == (2, 3), "what is empty is not watched any more"


def test_memory_that_was_given_up_is_not_taken_for_another_tensors():
    """A copy is made as an empty tensor that then gets other memory; the address of the first one is not free again."""
    with device("sm_90") as gpu:
        copies = [copy.deepcopy(torch.ones(())) for _ in range(20)]
        others = [torch.ones(5, dtype=torch.float64) for _ in range(200)]
        assert len(gpu.fresh) == 20
        assert all(made.storage.data_ptr() == address for address, made in gpu.fresh.items())
        assert not any(map(gpu.is_fresh, (*copies, *others)))
        assert not gpu.is_fresh(torch.empty(0))


def test_one_launch_is_found_by_its_kernel():
    with device("sm_90") as gpu:
        total = torch.zeros(1, dtype=torch.int32)
        sum_kernel[(3,)](torch.arange(150, dtype=torch.int32), total, 150, BLOCK=64)
        add_kernel[(1,)](**arguments(torch.ones(8), torch.ones(8), torch.zeros(8)))
    assert total == 149 * 150 // 2
    assert gpu["sum_kernel"].orders == 3 and gpu["sum_kernel"].counts.atomics == 3
    assert [result.kernel for result in gpu.launches] == ["sum_kernel", "add_kernel"]


def test_ones_and_alignment_are_compiled_in_as_on_a_gpu():
    """A tensor that is aligned to 16 bytes is read so; one that is not, is not."""
    x, y, out = torch.randn(65), torch.randn(64), torch.zeros(64)
    texts = []

    def keep(text: str) -> str:
        texts.append(text)
        return text

    execute(add_kernel, (1,), arguments(x[:64], y, out, num_warps=1, BLOCK=128), edit=keep)
    execute(add_kernel, (1,), arguments(x[1:], y, out, num_warps=1, BLOCK=128), edit=keep)
    assert texts[0].count("ld.global.v4") > texts[1].count("ld.global.v4")
    assert torch.equal(out, x[1:] + y)


def test_edits_and_errors():
    given = arguments(torch.ones(64), torch.ones(64), torch.zeros(64))
    result = execute(add_kernel, (1,), given, edit=lambda text: text.replace("add.f32", "sub.f32"))
    assert not given["out_ptr"].any() and not result.findings
    with pytest.raises(UnknownInstruction, match=r"add_kernel, line \d+: frob.f32"):
        execute(add_kernel, (1,), given, edit=lambda text: text.replace("add.f32", "frob.f32"))


@pytest.mark.parametrize("warps", [1, 4])
@pytest.mark.parametrize(
    ("dtype", "ieee", "tolerance"),
    [
        (torch.bfloat16, False, 1e-5),
        (torch.float16, False, 1e-5),
        (torch.float32, False, 2e-3),
        (torch.float32, True, 1e-5),
    ],
)
@pytest.mark.parametrize("arch", ["sm_80", "sm_90"])
def test_products_as_the_compiler_lays_them_out(arch, dtype, ieee, tolerance, warps):
    """What Triton makes of a matrix product: mma.sync or wgmma, in the layouts that it takes the hardware to have."""
    m, n, k = 64, 32, 64
    a, b, c = torch.randn(m, k).to(dtype), torch.randn(k, n).to(dtype), torch.zeros(m, n)
    given = {"a_ptr": a, "b_ptr": b, "c_ptr": c, "M": m, "N": n, "K": k, "IEEE": ieee, "num_warps": warps}
    result = execute(product_kernel, (1,), given, arch=arch)
    expected = a.double() @ b.double()
    assert (c - expected).norm() / expected.norm() < tolerance
    assert (result.counts.matrix_operations == 2 * m * n * k) or ieee
    used = {"mma", "wgmma"} & set(result.counts.instructions)
    assert used == (set() if ieee else {"wgmma"} if arch == "sm_90" and warps == 4 and dtype != torch.float32 else used)


def test_what_is_parsed_but_not_executed_is_refused_by_name():
    a, b, c = (torch.randn(128, 128).bfloat16() for _ in range(3))
    given = {"a_ptr": a, "b_ptr": b, "c_ptr": c.float(), "M": 128, "N": 128, "K": 128, "IEEE": False, "num_warps": 4}
    with pytest.raises(NotExecuted, match="product_kernel: mbarrier, tcgen05 are parsed, not executed"):
        execute(product_kernel, (1,), given, arch="sm_100")
