"""Compiles the augmentation kernel for GPUs that are not there, and prints what it takes, as JSON lines."""

import json
import re
import subprocess
import tempfile
from pathlib import Path

import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from fastkd.ops.augment import kernel

CUOBJDUMP = Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / "cuobjdump"
POINTERS = {
    "images_ptr": "*u8",
    "rows_ptr": "*i64",
    "index_ptr": "*i64",
    "epoch_ptr": "*i64",
    "turns_ptr": "*i64",
    "scale_ptr": "*fp32",
    "shift_ptr": "*fp32",
}
CASES = {
    "cifar": {"H": 32, "W": 32, "PADDING": 4, "FLIP": True, "QUARTER_TURNS": False, "TURN": False},
    "sskd": {"H": 32, "W": 32, "PADDING": 4, "FLIP": True, "QUARTER_TURNS": True, "TURN": False},
    "tfkd": {"H": 64, "W": 64, "PADDING": 8, "FLIP": True, "QUARTER_TURNS": False, "TURN": True},
    "imagenet": {"H": 224, "W": 224, "PADDING": 0, "FLIP": True, "QUARTER_TURNS": False, "TURN": False},
}

RUNS = [(case, "bf16", architecture) for case in ("sskd", "tfkd") for architecture in (80, 90, 100)]
RUNS += [("cifar", "fp32", 90), ("imagenet", "bf16", 90)]


def compiled(name: str, out: str, architecture: int) -> dict:
    settings = {"ANGLES": kernel.ANGLES, "FIXED": kernel.FIXED, "STREAM": kernel.STREAM, "BLOCK": kernel.BLOCK}
    constants = CASES[name] | settings
    signature = POINTERS | {"out_ptr": f"*{out}", "B": "i32", "key_low": "i64", "key_high": "i64"}
    attributes = {(place,): [["tt.divisibility", 16]] for place in range(len(POINTERS) + 1)}
    signature |= dict.fromkeys(constants, "constexpr")
    source = ASTSource(kernel.augment_kernel, signature, constants, attributes)
    result = triton.compile(source, target=GPUTarget("cuda", architecture, 32), options={"num_warps": kernel.WARPS})
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(result.asm["cubin"])
        file.flush()
        usage = subprocess.run(
            [CUOBJDUMP, "--dump-resource-usage", file.name], capture_output=True, text=True, check=True
        )
    numbers = {key: int(value) for key, value in re.findall(r"(REG|STACK|LOCAL):(\d+)", usage.stdout)}
    return {
        "case": name,
        "out": out,
        "architecture": f"sm_{architecture}",
        "registers": numbers["REG"],
        "spilled": numbers["STACK"] + numbers["LOCAL"],
        "shared": result.metadata.shared,
        "stores_128": len(re.findall(r"st\.global\S*\.v4\.b32", result.asm["ptx"])),
    }


if __name__ == "__main__":
    for case, out, architecture in RUNS:
        print(json.dumps(compiled(case, out, architecture)), flush=True)
