"""The kernels of the losses of rows.

python -m helpers.compiled_ahead.row_loss [TEACHER DIVERGENCE LABELS CLASSES TYPE OPTIONS ARCHITECTURE …]

OPTIONS are joined by "+": "capped", "in_place", "pixels" (classes at a stride), or "plain".
"""

import json
import sys

import torch

from fastkd.ops.row_loss import launch
from fastkd.ops.row_loss.inputs import Form, Labels, Rows, Teacher
from fastkd.ops.row_loss.kernel_dense import dense_kernel
from fastkd.ops.row_loss.kernel_kept import kept_kernel
from fastkd.ops.row_loss.kernel_scale import scale_rows_kernel
from helpers.compiled_ahead import compiled

KEPT = 64
PIXELS = 4096
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


def options_of(chosen: launch.Layout) -> dict[str, int]:
    return {name: getattr(chosen, name) for name in ("num_warps", "maxnreg")}


def logits(classes: int, dtype: str, pixels: bool) -> torch.Tensor:
    """[B,R,K] without memory."""
    if pixels:
        return torch.empty(2, classes, PIXELS, dtype=DTYPES[dtype], device="meta").transpose(1, 2)
    return torch.empty(1, 2, classes, dtype=DTYPES[dtype], device="meta")


def large_kernel(
    kind: str, divergence: str, labels: str, classes: int, dtype: str, options: str, architecture: int
) -> dict:
    dense = logits(classes, dtype, "pixels" in options)
    sparse = kind in ("renormalised", "lumped", "sampled")
    kept = torch.empty(2, KEPT, dtype=torch.int64, device="meta")
    teacher = Teacher(kind, *((None, kept, kept.float(), None) if sparse else (dense, None, None, None)))
    given = Labels(None if labels == "none" else kept[:, 0], dense if labels == "probabilities" else None)
    form = Form(divergence, True, "capped" in options, "capped" in options)
    rows = Rows(dense, teacher, given, kept[:, 0].float(), kept[0, :16].float(), form)
    chosen = launch.layout(classes, alone=sparse)
    # float16 has gradients in float32, but in place it keeps its type.
    in_place = "in_place" in options
    gradient = "*fp32" if dtype == "fp16" and not in_place else f"*{dtype}"
    constants = launch.constants(rows, launch.strides(dense), in_place, chosen)
    kinds = {
        "student_ptr": f"*{dtype}",
        "gradient_ptr": gradient,
        "labels_ptr": "*i64",
        "shares_ptr": f"*{dtype}",
        "weights_ptr": "*fp32",
        "numbers_ptr": "*fp32",
        "losses_ptr": "*fp32",
        "parts_ptr": "*fp32",
        "ranks_ptr": "*i64",
        "batches": "i32",
        "R": "i32",
    }
    if sparse:
        kinds |= {"kept_ptr": "*i64", "log_probs_ptr": "*fp32", "log_rest_ptr": "*fp32"}
    else:
        kinds["teacher_ptr"] = f"*{dtype}"
    kernel = kept_kernel if sparse else dense_kernel
    record = compiled(kernel, kinds, constants, options_of(chosen), architecture)
    named = {"teacher": kind, "divergence": divergence, "labels": labels, "classes": classes, "dtype": dtype}
    return named | {"options": options} | record


def scaling(classes: int, dtype: str, architecture: int) -> dict:
    chosen = launch.layout(classes, alone=False)
    kinds = {"gradient_ptr": f"*{dtype}", "scale_ptr": "*fp32", "batches": "i32", "R": "i32"}
    constants = {"K": classes, "STRIDES": (0, classes, 1), "ROWS": chosen.ROWS, "COLUMNS": chosen.COLUMNS}
    record = compiled(scale_rows_kernel, kinds, constants, options_of(chosen), architecture)
    return {"classes": classes, "dtype": dtype} | record


if __name__ == "__main__":
    for case in zip(*[iter(sys.argv[1:])] * 7, strict=True):
        kind, divergence, labels, classes, dtype, options, architecture = case
        found = large_kernel(kind, divergence, labels, int(classes), dtype, options, int(architecture))
        print(json.dumps(found), flush=True)
    if len(sys.argv) == 1:
        for architecture in (80, 90, 100):
            for classes, dtype in ((21, "fp32"), (128256, "bf16")):
                print(json.dumps(scaling(classes, dtype, architecture)), flush=True)
