"""Kernels compiled for GPUs that are not there: `python -m helpers.compiled_ahead.KERNELS` prints a JSON line each."""

import re
import subprocess
import tempfile
from pathlib import Path
from typing import Any

import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

CUOBJDUMP = Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / "cuobjdump"
ALIGNED = [["tt.divisibility", 16]]
COUNTED = {
    "loads_128": r"ld\.global\S*\.v4\.b32|cp\.async\S* .*, 0x10\b",
    "stores_128": r"st\.global\S*\.v4\.b32",
    "float_atomics": r"\b(?:atom|red)\.\S*\.f(?:16|32|64)",
    "matrix_products": r"\b(?:mma|wgmma|tcgen05)\.\S*(?:sync|mma)",
}
"""What is counted in the PTX, as regular expressions."""


def compiled(
    kernel: Any, types: dict[str, Any], constants: dict[Any, Any], options: dict[str, Any], architecture: int
) -> dict[str, Any]:
    """What a kernel takes of a GPU.

    types: of the arguments that are no constants, by name; those of a tuple are a tuple, in which "constexpr" stands
    for one that is None.
    """
    names = kernel.arg_names
    signature = types | dict.fromkeys(constants, "constexpr")
    absent, attributes = {}, {}
    for place, name in enumerate(names):
        kind = signature[name]
        parts = enumerate(kind) if isinstance(kind, tuple) else [(None, kind)]
        for part, one in parts:
            path = (place,) if part is None else (place, part)
            if one.startswith("*"):
                attributes[path] = ALIGNED
            elif one == "constexpr" and part is not None:
                absent[path] = None
    source = ASTSource(kernel, {name: signature[name] for name in names}, constants | absent, attributes)
    result = triton.compile(source, target=GPUTarget("cuda", architecture, 32), options=options)
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(result.asm["cubin"])
        file.flush()
        usage = subprocess.run(
            [CUOBJDUMP, "--dump-resource-usage", file.name], capture_output=True, text=True, check=True
        )
    used = {key: int(value) for key, value in re.findall(r"(REG|STACK|LOCAL):(\d+)", usage.stdout)}
    return {
        "kernel": kernel.__name__,
        "architecture": f"sm_{architecture}",
        "warps": options["num_warps"],
        "registers": used["REG"],
        "spilled": used["STACK"] + used["LOCAL"],
        "shared": result.metadata.shared,
        "in_flight": _in_flight(result.asm["ttgir"]),
        **{name: len(re.findall(pattern, result.asm["ptx"])) for name, pattern in COUNTED.items()},
    }


def _in_flight(intermediate: str) -> int:
    """How many asynchronous copies of the next rounds a loop does not wait for before its first reduction, which is
    its only wait; 0 if it copies nothing ahead."""
    _, loop, body = intermediate.partition("scf.for")
    waits = re.findall(r"async_wait.*num = (\d+)", body.partition("scf.yield")[0])
    before = re.findall(r"async_wait.*num = (\d+)", body.partition('"tt.reduce"')[0])
    return int(before[0]) if loop and len(waits) == len(before) == 1 else 0
