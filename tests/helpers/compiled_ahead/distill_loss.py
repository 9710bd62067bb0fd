"""The kernels of the distillation loss.

python -m helpers.compiled_ahead.distill_loss [FORM CLASSES TYPE PARTNERS ARCHITECTURE …]
"""

import json
import sys

from fastkd.ops.distill_loss import kernel_finish, launch
from helpers.compiled_ahead import compiled


def large_kernel(form: str, classes: int, dtype: str, partners: int, architecture: int) -> dict:
    """One kernel of the shape table, all gradients wanted that the form has."""
    itemsize = 4 if dtype == "fp32" else 2
    layout = launch.layout(classes, form, partners=partners, itemsize=itemsize)
    kernel = launch.kernel_for(form, classes, layout)
    constants = launch.constants(form, classes, ((classes, 1),) * (1 + partners), layout)
    partners_learn = launch.FORMS[form].PARTNERS_LEARN
    gradient = "*fp32" if dtype == "fp16" else f"*{dtype}"
    gradients = (gradient, *[gradient if partners_learn else "constexpr"] * partners)
    signature = {
        "logits_ptrs": (f"*{dtype}",) * (1 + partners),
        "gradient_ptrs": gradients,
        "labels_ptr": "*i64",
        "numbers_ptr": "*fp32",
        "sums_ptr": "*fp32",
        "B": "i32",
    }
    options = {name: getattr(layout, name) for name in ("num_warps", "maxnreg")}
    record = compiled(kernel, signature, constants | {"shares_ptr": None}, options, architecture)
    return {"form": form, "classes": classes, "dtype": dtype, "partners": partners} | record


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
        compiled(kernel_finish.finish_kernel, finish, quantities, {"num_warps": 16}, architecture),
        compiled(
            kernel_finish.scale_kernel,
            scale,
            {"K": 1000, "GRADIENTS": 4, "LANES": launch.SCALED_AT_ONCE},
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
