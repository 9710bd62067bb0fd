"""Compiles the distillation kernels for GPUs that are not there, and prints what they take, as JSON lines.

python compile_ahead.py [FORM CLASSES TYPE PARTNERS ARCHITECTURE …]
"""

import json
import re
import subprocess
import sys
import tempfile
from pathlib import Path

import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from fastkd.ops.distill_loss import kernel_finish, launch

CUOBJDUMP = Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / "cuobjdump"
ALIGNED = [["tt.divisibility", 16]]


def large_kernel(form: str, classes: int, dtype: str, partners: int, architecture: int) -> dict:
    """One kernel of the shape table, all gradients wanted that the form has."""
    layout = launch.layout(classes)
    kernel = launch.kernel_for(classes, layout)
    constants = launch.constants(form, classes, ((classes, 1),) * (1 + partners), layout)
    partners_learn = launch.FORMS[form].PARTNERS_LEARN
    gradient = "*fp32" if dtype == "fp16" else f"*{dtype}"
    gradients = (gradient, *[gradient if partners_learn else "constexpr"] * partners)
    signature = {
        "logits_ptrs": (f"*{dtype}",) * (1 + partners),
        "gradient_ptrs": gradients,
        "labels_ptr": "*i64",
        "numbers_ptr": "*fp32",
        "shares_ptr": "constexpr",
        "sums_ptr": "*fp32",
        "B": "i32",
    }
    absent = {(1, i): None for i, kind in enumerate(gradients) if kind == "constexpr"}
    options = {name: getattr(layout, name) for name in ("num_warps", "maxnreg")}
    record = compiled(kernel, signature, constants | {"shares_ptr": None}, absent, options, architecture)
    return {"form": form, "classes": classes, "dtype": dtype, "partners": partners} | record


def compiled(kernel, signature: dict, constants: dict, absent: dict, options: dict, architecture: int) -> dict:
    names = kernel.arg_names
    signature = signature | dict.fromkeys(constants, "constexpr")
    attributes = {}
    for position, name in enumerate(names):
        kind = signature[name]
        for path, one in (
            [((position, i), k) for i, k in enumerate(kind)] if isinstance(kind, tuple) else [((position,), kind)]
        ):
            if one.startswith("*"):
                attributes[path] = ALIGNED
    source = ASTSource(kernel, {name: signature[name] for name in names}, constants | absent, attributes)
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
        "warps": options["num_warps"],
        "registers": numbers["REG"],
        "spilled": numbers["STACK"] + numbers["LOCAL"],
        "shared": result.metadata.shared,
        "loads_128": len(re.findall(r"ld\.global\S*\.v4\.b32|cp\.async\.cg\.shared\.global.*0x10", ptx)),
        "stores_128": len(re.findall(r"st\.global\S*\.v4\.b32", ptx)),
        "float_atomics": len(re.findall(r"\b(atom|red)\.\S*\.f(16|32|64)", ptx)),
    }


def small_kernels(architecture: int) -> list[dict]:
    finish = {
        "sums_ptr": "*fp32",
        "numbers_ptr": "*fp32",
        "total_ptr": "*fp32",
        "parts_ptr": "*fp32",
        "hits_ptr": "*i64",
        "correction_ptr": "*fp32",
        "programs": "i32",
        "B": "i32",
    }
    quantities = {
        "PARTNERS_LEARN": True,
        "DECOUPLED": False,
        "QUANTITIES": 12,
        "PADDED": 16,
        "LANES": launch.FINISHED_AT_ONCE,
    }
    scale = {"gradient_ptrs": ("*bf16",) * 4, "scale_ptr": "*fp32", "correction_ptr": "*fp32", "B": "i32"}
    return [
        compiled(kernel_finish.finish_kernel, finish, quantities, {}, {"num_warps": 16}, architecture),
        compiled(
            kernel_finish.scale_kernel,
            scale,
            {"K": 1000, "GRADIENTS": 4, "LANES": launch.SCALED_AT_ONCE},
            {},
            {"num_warps": 8},
            architecture,
        ),
    ]


if __name__ == "__main__":
    for case in zip(*[iter(sys.argv[1:])] * 5, strict=True):
        form, classes, dtype, partners, architecture = case
        print(json.dumps(large_kernel(form, int(classes), dtype, int(partners), int(architecture))), flush=True)
    if len(sys.argv) == 1:
        for architecture in (80, 90, 100):
            for record in small_kernels(architecture):
                print(json.dumps(record), flush=True)
