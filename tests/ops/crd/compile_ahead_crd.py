"""Compiles the dense path's kernels for GPUs that are not there, and prints what they take, as JSON lines."""

import json
import re
import subprocess
import sys
import tempfile
from pathlib import Path

import torch
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from fastkd.ops.crd import dense, dense_kernels, draw_kernels

CUOBJDUMP = Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / "cuobjdump"
INTEGERS = {"samples", "n", "negatives", "classes", "first_place", "size", "programs", "sums"}
INT64 = {"rows_ptr", "chosen_ptr", "starts_ptr", "step_ptr", "positives_ptr"}


def compiled(
    kernel, types: dict[str, str], constants: dict, warps: int, architecture: int, registers: int | None = None
) -> dict:
    signature, attributes = {}, {}
    for place, name in enumerate(kernel.arg_names):
        if name in constants:
            kind = "constexpr"
        elif name in types:
            kind = types[name]
        elif name in INTEGERS:
            kind = "i32"
        elif name == "seed":
            kind = "i64"
        else:
            kind = "*i64" if name in INT64 else "*fp32"
        signature[name] = kind
        if kind.startswith("*"):
            attributes[(place,)] = [["tt.divisibility", 16]]
    source = ASTSource(kernel, signature, constants, attributes)
    options = {"num_warps": warps, "maxnreg": registers}
    result = triton.compile(source, target=GPUTarget("cuda", architecture, 32), options=options)
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(result.asm["cubin"])
        file.flush()
        usage = subprocess.run(
            [CUOBJDUMP, "--dump-resource-usage", file.name], capture_output=True, text=True, check=True
        )
    numbers = {key: int(value) for key, value in re.findall(r"(REG|STACK|LOCAL):(\d+)", usage.stdout)}
    ptx = result.asm["ptx"]
    return {
        "kernel": kernel.__name__,
        "architecture": f"sm_{architecture}",
        "warps": warps,
        "registers": numbers["REG"],
        "spilled": numbers["STACK"] + numbers["LOCAL"],
        "shared": result.metadata.shared,
        "matrix_products": len(re.findall(r"\b(?:mma|wgmma|tcgen05)\.\S*(?:sync|mma)", ptx)),
        "wide_loads": len(re.findall(r"(?:ld\.global\S*\.v4\.b32|cp\.async\S* .*, 0x10\b)", ptx)),
        "float_atomics": len(re.findall(r"\b(?:atom|red)\.\S*\.f(?:16|32|64)", ptx)),
    }


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
    }
    types = {"bank_ptr": f"*{dtype}", "anchors_ptr": "*bf16", "counts_ptr": "*i16"}
    record = compiled(dense_kernels.scores_kernel, types, constants, tiles.warps, architecture, tiles.registers)
    return {"dtype": dtype, "samples": samples, "dim": dim} | record


def small_kernels(architecture: int) -> list[dict]:
    classes = {"RELAXED": False, "SEARCH": 1, "D": 128, "PADDED": 128}
    draw = classes | {"STRIDE": 50_048, "LANES": dense.DRAWN_LANES, "COUNT": True, "chosen_ptr": None}
    count = classes | {"STRIDE": 50_048, "LANES": dense.DRAWN_LANES, "ROWS": dense.COUNTED_ROWS}
    measure = classes | {"chosen_ptr": None, "REPLACEMENT": False}
    finish = {"D": 128, "SUMS": 256, "PROGRAMS": 224, "AT_ONCE": dense.ADDED_AT_ONCE, "LANES": dense.ADDED_LANES}
    update = {"D": 128, "PADDED": 128, "SAMPLES": 64}
    drawn = {"out_ptr": "*i32", "counts_ptr": "*i16", "anchors_ptr": "*bf16", "bank_ptr": "*bf16"}
    kernels = (
        (draw_kernels.draw_kernel, draw | {"REPLACEMENT": True}, 4),
        (draw_kernels.draw_kernel, draw | {"REPLACEMENT": False}, 4),
        (draw_kernels.count_kernel, count, 4),
        (dense_kernels.measure_kernel, measure, 4),
        (dense_kernels.finish_kernel, finish, 4),
        (dense_kernels.finish_normaliser_kernel, {"SUMS": 64}, 1),
        (dense_kernels.update_kernel, update, 1),
    )
    return [compiled(kernel, drawn, constants, warps, architecture) for kernel, constants, warps in kernels]


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
