"""How the kernels are laid over a GPU: what a multiprocessor has is not exceeded, and every argument has a value."""

import pytest
import torch

pytest.importorskip("triton", reason="Triton is not installed")

from fastkd.ops.distill_loss import launch
from fastkd.ops.distill_loss.kernel_pair import pair_kernel
from fastkd.ops.distill_loss.kernel_rows import rows_kernel
from fastkd.ops.distill_loss.kernel_wide import wide_kernel

CLASSES = (1, 2, 3, 10, 16, 17, 100, 128, 129, 200, 512, 513, 1000, 1024, 1025, 2048, 2049, 4096, 4097, 21841, 1 << 20)
TENSORS = 7  # logits, gradients, labels, numbers, shares, sums, and the number of samples


def power_of_two(value):
    return value > 0 and value & (value - 1) == 0


@pytest.mark.parametrize("classes", CLASSES)
class TestLayout:
    def test_a_row_fits_into_registers_or_goes_in_chunks(self, classes):
        chosen = launch.layout(classes)
        wide = classes > launch.WIDEST_ROW
        assert (classes <= chosen.COLUMNS) != wide
        assert launch.kernel_for("kd", classes, chosen) is (wide_kernel if wide else rows_kernel)
        assert power_of_two(chosen.ROWS) and power_of_two(chosen.COLUMNS)
        assert not wide or chosen.ROWS == 1

    def test_a_pair_is_read_in_chunks_of_at_most_1024(self, classes):
        chosen = launch.layout(classes, "nkd")
        assert chosen.COLUMNS <= launch.WIDEST_PAIR and (classes <= chosen.COLUMNS) == (classes <= launch.WIDEST_PAIR)
        assert launch.kernel_for("nkd", classes, chosen) is pair_kernel

    def test_no_more_is_resident_than_a_multiprocessor_has(self, classes):
        """65,536 registers and 2,048 threads, on all the architectures that are compiled for; and a thread has few
        enough numbers to hold, which with their products are up to eight for each."""
        for form, partners in (("sftn", 3), ("kd", 1), ("kd", 4), ("dkd", 1), ("ce", 0), ("nkd", 1)):
            for samples in (64, 4096):
                chosen = launch.layout(classes, form, partners=partners, samples=samples)
                threads = 32 * chosen.num_warps
                assert power_of_two(chosen.num_warps) and chosen.programs >= 1
                assert threads * chosen.programs <= 2048 and chosen.maxnreg <= 255
                if classes <= chosen.COLUMNS:  # programs on chunks wait for their turn
                    registers = -(-chosen.maxnreg // 8) * 8  # they are handed out in eights to a thread
                    assert threads * registers * chosen.programs <= 65536
                held = 32 if form in ("kd", "ce") and partners < 2 else 16
                assert chosen.ROWS * chosen.COLUMNS // threads <= held

    def test_few_samples_have_more_warps_and_nothing_loaded_ahead(self, classes):
        many, few = (launch.layout(classes, "sftn", partners=3, samples=samples) for samples in (4096, 64))
        assert few.num_warps >= many.num_warps and few.ROWS == many.ROWS and few.STAGES == 1
        assert (few.num_warps > many.num_warps) == (512 < classes <= 2048)

    def test_what_is_loaded_ahead_fits_into_shared_memory(self, classes):
        for partners in (0, 1, 4, 20):
            for itemsize in (2, 4):
                chosen = launch.layout(classes, partners=partners, itemsize=itemsize)
                assert chosen.STAGES == 1 or 2 * (1 + partners) * chosen.COLUMNS * itemsize <= 48 << 10


@pytest.mark.parametrize("classes", (10, 4097))
@pytest.mark.parametrize("form", launch.FORMS)
def test_every_argument_of_the_kernel_gets_a_value(form, classes):
    chosen = launch.layout(classes, form)
    given = launch.constants(form, classes, ((classes, 1), (classes, 1)), chosen)
    assert given.keys() == set(launch.kernel_for(form, classes, chosen).arg_names[TENSORS:])


@pytest.mark.parametrize("partners", (0, 1, 4))
def test_strides_are_those_of_every_network(partners):
    strides = tuple((100 + n, 1 + n) for n in range(1 + partners))
    given = launch.constants("kd", 10, strides, launch.layout(10), share_strides=(5, 1))
    assert given["PARTNERS"] == partners
    assert tuple(zip(given["ROW_STRIDES"], given["COLUMN_STRIDES"], strict=True)) == strides
    assert (given["SHARE_ROW_STRIDE"], given["SHARE_COLUMN_STRIDE"]) == (5, 1)


def test_an_empty_batch_has_no_gradients_to_scale():
    """Nothing is launched, which without a GPU would fail."""
    one = torch.ones(())
    launch.scale_in_place([torch.empty(0, 5), torch.empty(0, 5)], one, one)
    with pytest.raises((RuntimeError, ValueError)):
        launch.scale_in_place([torch.empty(1, 5)], one, one)
