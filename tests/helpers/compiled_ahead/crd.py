"""The kernels of CRD's dense path."""

import json
import sys

import torch
import triton

from fastkd.ops.crd import dense, dense_kernels, draw_kernels
from helpers.compiled_ahead import compiled

INTEGERS = {"samples", "n", "negatives", "classes", "first_place", "size", "programs", "sums"}
INT64 = {"rows_ptr", "chosen_ptr", "starts_ptr", "step_ptr", "positives_ptr"}


def of_bank(kernel, types: dict[str, str], constants: dict, options: dict, architecture: int) -> dict:
    """types: of the arguments whose names do not tell."""

    def kind(name: str) -> str:
        if name in INTEGERS:
            return "i32"
        return "i64" if name == "seed" else "*i64" if name in INT64 else "*fp32"

    known = {name: types.get(name) or kind(name) for name in kernel.arg_names if name not in constants}
    return compiled(kernel, known, constants, options, architecture)


def scores(dtype: str, samples: int, dim: int, architecture: int) -> dict:
    tiles = dense.tiles_for(torch.bfloat16 if dtype == "bf16" else torch.float32, architecture // 10)
    constants = {
        "STRIDE": 50_048,
        "D": dim,
        "PADDED": max(triton.next_power_of_2(dim), 16),
        "PARTS": 1 if dtype == "bf16" else 2,
        "SAMPLES": dense.tile_of_samples(samples),
        "ROWS": tiles.rows,
        "STAGES": tiles.stages,
        "FENCED": architecture >= 90,
    }
    types = {"bank_ptr": f"*{dtype}", "scaled_ptr": "*bf16", "counts_ptr": "*i16"}
    options = {"num_warps": tiles.warps, "maxnreg": tiles.registers}
    record = of_bank(dense_kernels.scores_kernel, types, constants, options, architecture)
    return {"dtype": dtype, "samples": samples, "dim": dim} | record


def small_kernels(architecture: int) -> list[dict]:
    classes = {"RELAXED": False, "SEARCH": 1, "D": 128, "PADDED": 128}
    draw = classes | {"STRIDE": 50_048, "LANES": dense.DRAWN_LANES, "COUNT": True, "chosen_ptr": None}
    count = classes | {"STRIDE": 50_048, "LANES": dense.DRAWN_LANES, "ROWS": dense.COUNTED_ROWS}
    measure = classes | {"chosen_ptr": None, "REPLACEMENT": False}
    finish = {"D": 128, "SUMS": 256, "PROGRAMS": 224, "AT_ONCE": dense.ADDED_AT_ONCE, "LANES": dense.ADDED_LANES}
    update = {"D": 128, "PADDED": 128, "SAMPLES": 64}
    drawn = {"out_ptr": "*i32", "counts_ptr": "*i16", "scaled_ptr": "*bf16", "bank_ptr": "*bf16"}
    kernels = (
        (draw_kernels.draw_kernel, draw | {"REPLACEMENT": True}, 4),
        (draw_kernels.draw_kernel, draw | {"REPLACEMENT": False}, 4),
        (draw_kernels.count_kernel, count, 4),
        (dense_kernels.measure_kernel, measure, 4),
        (dense_kernels.finish_kernel, finish, 4),
        (dense_kernels.finish_normaliser_kernel, {"SUMS": 64}, 1),
        (dense_kernels.update_kernel, update, 1),
    )
    return [of_bank(kernel, drawn, constants, {"num_warps": n}, architecture) for kernel, constants, n in kernels]


if __name__ == "__main__":
    for target in map(int, sys.argv[1:] or (80, 90, 100)):
        for record in (
            scores("bf16", 64, 128, target),
            scores("fp32", 64, 128, target),
            scores("bf16", 20, 64, target),
            scores("fp32", 16, 128, target),
            scores("fp32", 7, 13, target),
            *small_kernels(target),
        ):
            print(json.dumps(record), flush=True)
