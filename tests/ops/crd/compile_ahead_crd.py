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

from fastkd.ops.crd import dense
from fastkd.ops.crd import dense_kernels as kernels

CUOBJDUMP = Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / "cuobjdump"
INTEGERS = {"samples", "n", "negatives", "classes", "first_place", "size", "programs", "sums"}
INT64 = {"rows_ptr", "chosen_ptr", "starts_ptr", "step_ptr", "positives_ptr"}


def compiled(kernel, types: dict[str, str], constants: dict, warps: int, architecture: int) -> dict:
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
    result = triton.compile(source, target=GPUTarget("cuda", architecture, 32), options={"num_warps": warps})
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


def scores(dtype: str, samples: int, dim: int, architecture: int, measures: bool = False) -> dict:
    shape = dense.tiles(samples, 50_000, dim, torch.bfloat16 if dtype == "bf16" else torch.float32)
    warps = shape.pop("num_warps")
    shape.pop("programs")
    constants = shape | {"D": dim, "MEASURES": measures, "SPLIT": dtype == "bf16", "STRIDE": 50_000}
    types = {"bank_ptr": f"*{dtype}", "counts_ptr": "*i16"}
    record = compiled(kernels.scores_kernel, types, constants, warps, architecture)
    return {"dtype": dtype, "samples": samples, "dim": dim} | record


def small_kernels(architecture: int) -> list[dict]:
    draw = {
        "STRIDE": 50_000,
        "COUNT": True,
        "RELAXED": False,
        "UNLESS_KNOWN": False,
        "SEARCH": 7,
        "LANES": dense.DRAWN_LANES,
        "chosen_ptr": None,
    }
    finish = {"SUMS": 128, "LANES": dense.ADDED_AT_ONCE}
    update = {"D": 128, "PADDED": 128, "SAMPLES": 64}
    return [
        compiled(kernels.draw_kernel, {"out_ptr": "*i32"}, draw | {"REPLACEMENT": True}, 4, architecture),
        compiled(kernels.draw_kernel, {"out_ptr": "*i32"}, draw | {"REPLACEMENT": False}, 4, architecture),
        compiled(kernels.finish_kernel, {}, finish, 4, architecture),
        compiled(kernels.finish_normaliser_kernel, {}, {"SUMS": 128}, 4, architecture),
        compiled(kernels.update_kernel, {"bank_ptr": "*bf16"}, update, 1, architecture),
    ]


if __name__ == "__main__":
    for target in map(int, sys.argv[1:] or (80, 90, 100)):
        for record in (
            scores("bf16", 64, 128, target),
            scores("fp32", 64, 128, target),
            scores("bf16", 64, 128, target, measures=True),
            scores("fp32", 16, 128, target),
            scores("fp32", 7, 13, target),
            *small_kernels(target),
        ):
            print(json.dumps(record), flush=True)
