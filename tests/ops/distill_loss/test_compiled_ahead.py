"""The kernels compiled for GPUs that are not there: no spills up to 4096 classes, 128-bit accesses, no float atomics.

`pytest -s` prints the table of registers, spills and shared memory.
"""

import pytest
from helpers.subprocesses import compiled_ahead

pytest.importorskip("triton", reason="Triton is not installed")

import triton

from fastkd.ops.distill_loss import launch

ARCHITECTURES = ("80", "90", "100")
SHAPES = (("100", "fp32", "3"), ("1000", "bf16", "4"), ("4096", "fp32", "4"))
QUICK = [("sftn", *shape, architecture) for shape in SHAPES for architecture in ARCHITECTURES] + [
    ("sftn", "10", "fp32", "3", "90"),
    ("sftn", "21841", "bf16", "4", "90"),
    ("kd", "1000", "fp16", "1", "90"),
    ("dkd", "4096", "fp32", "1", "90"),
    ("virtual_softened", "1000", "fp32", "0", "90"),
    ("sftn_reverse", "2048", "bf16", "4", "90"),
    ("sftn_reverse", "4096", "bf16", "4", "90"),
    ("nkd", "1000", "bf16", "1", "90"),
    ("rld_standardised", "100", "fp32", "1", "80"),
    ("ab", "4096", "fp32", "1", "100"),
    ("kd_standardised", "1000", "fp16", "4", "90"),
    ("jsd", "21841", "bf16", "1", "90"),
]
ALL = [
    (form, classes, dtype, partners, architecture)
    for classes in ("2", "10", "100", "128", "200", "1000", "2048", "4096", "21841")
    for dtype in ("fp32", "bf16", "fp16")
    for form, partners in (
        ("sftn", "1"),
        ("sftn", "4"),
        ("sftn_reverse", "4"),
        ("kd", "1"),
        ("kd", "4"),
        ("dkd", "1"),
        ("virtual", "0"),
        ("virtual_softened", "0"),
        ("smoothing_all", "0"),
        *((pair, "1") for pair in launch.FORMS if isinstance(launch.FORMS[pair], launch.PairForm)),
    )
    for architecture in ARCHITECTURES
]


def compile_ahead(*cases: tuple[str, ...]) -> list[dict]:
    return compiled_ahead("distill_loss", *(argument for case in cases for argument in case))


def print_table(records: list[dict]) -> None:
    columns = (
        "kernel",
        "form",
        "classes",
        "dtype",
        "partners",
        "architecture",
        "warps",
        "registers",
        "spilled",
        "shared",
    )
    print("\n" + "  ".join(f"{name:>12}" for name in columns))
    for record in records:
        print("  ".join(f"{record.get(name, ''):>12}" for name in columns))


def assert_sound(records: list[dict]) -> None:
    print_table(records)
    for record in records:
        assert record["registers"] <= 255, record
        assert record["float_atomics"] == 0, record
        assert record["shared"] <= 48 * 1024, record
        if record.get("classes", 0) <= 4096:
            assert record["spilled"] == 0, record


def assert_wide_accesses(records: list[dict]) -> None:
    """Each network's row is read, and its gradient written, 16 bytes a thread, where rows are aligned to that."""
    for record in records:
        aligned = record["classes"] % (4 if record["dtype"] == "fp32" else 8) == 0
        # In a loop over chunks an access stands once, however many networks there are.
        looped = record["classes"] > (1024 if record["kernel"] == "pair_kernel" else 2048)
        looped &= record["form"] == "sftn_reverse" or record["kernel"] == "pair_kernel"
        if aligned and not looped and record["classes"] in range(100, 4097):
            networks = 1 + record["partners"]
            learners = networks if record["form"].startswith("sftn") else 1
            assert record["loads_128"] >= networks, record
            assert record["stores_128"] >= learners, record


def assert_rows_come_ahead(records: list[dict]) -> None:
    """The next rows are under way while these are reduced, one copy a network and its label's: the loop waits for all
    but those."""
    for record in records:
        networks, classes = 1 + record["partners"], record["classes"]
        bytes_of_a_number = 4 if record["dtype"] == "fp32" else 2
        small = 2 * networks * triton.next_power_of_2(classes) * bytes_of_a_number <= 48 << 10
        if record["kernel"] == "rows_kernel" and classes > 128 and small and classes % 2 == 0:
            assert record["in_flight"] >= networks, record
        else:
            assert record["in_flight"] == 0, record


def test_the_shape_table():
    records = compile_ahead(*QUICK)
    assert len(records) == len(QUICK)
    assert_rows_come_ahead(records)
    assert_sound(records)
    assert_wide_accesses(records)


def test_the_small_kernels():
    records = compile_ahead()
    assert len(records) == 6
    assert_sound(records)
    for record in records:
        if record["kernel"] == "scale_kernel":
            assert record["loads_128"] >= 4


@pytest.mark.slow
def test_every_form_type_and_architecture():
    records = compile_ahead(*ALL)
    assert len(records) == len(ALL)
    assert_rows_come_ahead(records)
    assert_sound(records)
    assert_wide_accesses(records)
