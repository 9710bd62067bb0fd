"""The kernels of CRD's dense path."""

import json
import sys

import torch
import triton

from fastkd.ops.crd import dense, dense_kernels, draw_kernels
from helpers.compiled_ahead import compiled

INTEGERS = {"samples", "prepared", "n", "negatives", "classes", "first_place", "size", "programs", "sums"}
INT64 = {"rows_ptr", "chosen_ptr", "starts_ptr", "step_ptr", "positives_ptr"}


def of_bank(kernel, types: dict[str, str], constants: dict, options: dict, architecture: int) -> dict:
    """types: of the arguments whose names do not tell."""

    def kind(name: str) -> str:
        if name in INTEGERS:
            return "i32"
        return "i64" if name == "seed" else "*i64" if name in INT64 else "*fp32"

    known = {name: types.get(name) or kind(name) for name in kernel.arg_names if name not in constants}
    return compiled(kernel, known, constants, options, architecture)


def scores(dtype: str, samples: int, dim: int, architecture: int, *, bits: bool = True) -> dict:
    tiles = dense.tiles_for(torch.bfloat16 if dtype == "bf16" else torch.float32, architecture // 10, bits=bits)
    constants = {
        "STRIDE": 50_048,
        "BITS": bits,
        "D": dim,
        "PADDED": max(triton.next_power_of_2(dim), 16),
        "PARTS": 1 if dtype == "bf16" else 2,
        "SAMPLES": dense.tile_of_samples(samples),
        "ROWS": tiles.rows,
        "STAGES": tiles.stages,
        "FENCED": architecture >= 90,
    }
    types = {"bank_ptr": f"*{dtype}", "scaled_ptr": "*bf16", "counts_ptr": "*i32" if bits else "*i16"}
    options = {"num_warps": tiles.warps, "maxnreg": tiles.registers}
    record = of_bank(dense_kernels.scores_kernel, types, constants, options, architecture)
    return {"dtype": dtype, "samples": samples, "dim": dim} | record


def small_kernels(architecture: int) -> list[dict]:
    classes = {"RELAXED": False, "SEARCH": 1}
    draw = classes | {"STRIDE": 50_048, "LANES": dense.DRAWN_LANES, "COUNT": True, "chosen_ptr": None}
    mark = classes | {"STRIDE": 50_048, "ROWS": dense.MARKED_ROWS}
    prepare = classes | {"chosen_ptr": None, "REPLACEMENT": False, "D": 128, "PADDED": 128}
    finish = {"D": 128, "SUMS": 256, "PROGRAMS": 144, "AT_ONCE": dense.ADDED_AT_ONCE, "LANES": dense.ADDED_LANES}
    update = {"D": 128, "PADDED": 128, "SAMPLES": 64}
    drawn = {"out_ptr": "*i32", "bits_ptr": "*i32", "scaled_ptr": "*bf16", "bank_ptr": "*bf16"}
    prepared = drawn | {"out_ptr": "*fp32"}
    four = {"num_warps": 4}
    limited = four | {"maxnreg": 128}
    kernels = (
        (draw_kernels.draw_kernel, drawn, draw | {"REPLACEMENT": True}, four),
        (draw_kernels.draw_kernel, drawn, draw | {"REPLACEMENT": False}, four),
        (draw_kernels.mark_kernel, drawn, mark, four),
        (dense_kernels.prepare_kernel, prepared, prepare, limited),
        (dense_kernels.finish_kernel, drawn, finish, four),
        (dense_kernels.update_kernel, drawn, update, {"num_warps": 1}),
    )
    return [of_bank(*one, architecture) for one in kernels]


if __name__ == "__main__":
    for target in map(int, sys.argv[1:] or (80, 90, 100)):
        for record in (
            scores("bf16", 64, 128, target),
            scores("fp32", 64, 128, target),
            scores("bf16", 64, 128, target, bits=False),
            scores("fp32", 64, 128, target, bits=False),
            scores("bf16", 20, 64, target),
            scores("fp32", 16, 128, target),
            scores("fp32", 7, 13, target),
            *small_kernels(target),
        ):
            print(json.dumps(record), flush=True)
