"""The kernels compiled for GPUs that are not there: no spills at any width, 128-bit accesses, no float atomics.

A row is taken in chunks of 2048 classes, so that a vocabulary takes no more registers than they do. `pytest -s` prints
the table of registers, spills and shared memory.
"""

import pytest
from helpers.subprocesses import compiled_ahead

ARCHITECTURES = ("80", "90", "100")
SPARSE = ("renormalised", "lumped", "sampled")
QUICK = [
    *(("logits", "forward", "classes", "128256", "bf16", "plain", architecture) for architecture in ARCHITECTURES),
    *(("lumped", "jsd", "probabilities", "128256", "bf16", "capped", architecture) for architecture in ARCHITECTURES),
    ("logits", "jsd", "probabilities", "4096", "fp32", "capped+in_place", "90"),
    ("logits", "reverse", "classes", "256000", "bf16", "in_place", "90"),
    ("probabilities", "forward", "none", "4096", "fp32", "plain", "80"),
    ("logits", "forward", "classes", "21", "fp32", "pixels", "90"),
    ("none", "forward", "probabilities", "1000", "fp16", "plain", "90"),
    ("sampled", "forward", "classes", "32000", "bf16", "in_place", "100"),
    ("renormalised", "reverse", "none", "100", "fp32", "plain", "80"),
]
ALL = [
    (kind, divergence, labels, classes, dtype, options, architecture)
    for classes, dtype in (("2", "fp32"), ("21", "fp32"), ("1000", "fp16"), ("4096", "fp32"), ("256000", "bf16"))
    for kind, divergence, labels, options in (
        ("logits", "forward", "classes", "plain"),
        ("logits", "reverse", "none", "in_place"),
        ("logits", "jsd", "probabilities", "capped"),
        ("probabilities", "jsd", "classes", "pixels"),
        ("lumped", "forward", "classes", "in_place"),
        ("lumped", "jsd", "probabilities", "capped"),
        ("renormalised", "reverse", "classes", "plain"),
        ("sampled", "jsd", "classes", "plain"),
    )
    for architecture in ARCHITECTURES
]


def compile_ahead(*cases: tuple[str, ...]) -> list[dict]:
    return compiled_ahead("row_loss", *(argument for case in cases for argument in case))


def assert_sound(records: list[dict]) -> None:
    names = ("kernel", "teacher", "divergence", "labels", "classes", "dtype", "options", "architecture", "warps")
    columns = (*names, "registers", "spilled", "shared")
    print("\n" + "  ".join(f"{name:>13}" for name in columns))
    for record in records:
        print("  ".join(f"{record.get(name, ''):>13}" for name in columns))
        assert record["registers"] <= 255, record
        assert record["spilled"] == 0, record
        assert record["float_atomics"] == 0, record
        assert record["shared"] <= 48 * 1024, record


def assert_wide_accesses(records: list[dict]) -> None:
    """Rows that are aligned to 16 bytes are read and written so, in every pass."""
    for record in records:
        aligned = record["classes"] % (4 if record["dtype"] == "fp32" else 8) == 0
        if aligned and record["classes"] >= 1000 and record["options"] != "pixels":
            passes = 3 if record["divergence"] == "jsd" and record["teacher"] not in SPARSE else 2
            dense = 2 if record["teacher"] in ("logits", "probabilities") else 1
            if record["teacher"] == "renormalised" and record["labels"] == "none":
                passes = 1
            assert record["loads_128"] >= passes * dense, record
            assert record["stores_128"] >= 1, record


def test_the_shape_table():
    records = compile_ahead(*QUICK)
    assert len(records) == len(QUICK)
    assert_sound(records)
    assert_wide_accesses(records)


def test_the_scaling():
    records = compile_ahead()
    assert len(records) == 6
    assert_sound(records)
    assert all(record["loads_128"] >= 1 for record in records if record["classes"] > 1000)


@pytest.mark.slow
def test_every_teacher_label_type_and_architecture():
    records = compile_ahead(*ALL)
    assert len(records) == len(ALL)
    assert_sound(records)
    assert_wide_accesses(records)
