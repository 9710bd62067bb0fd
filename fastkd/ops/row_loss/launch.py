"""How the kernels are laid out over a GPU, and their launches."""

from typing import NamedTuple

import triton
from torch import Tensor

from fastkd.ops.distill_loss.launch import device_of, multiprocessors
from fastkd.ops.row_loss.inputs import Found, Rows
from fastkd.ops.row_loss.kernel_dense import dense_kernel
from fastkd.ops.row_loss.kernel_kept import kept_kernel
from fastkd.ops.row_loss.kernel_scale import scale_rows_kernel
from fastkd.ops.select import checks_labels

WIDEST_CHUNK = 2048


class Layout(NamedTuple):
    """How a kernel is laid over the GPU: names in capitals are arguments of the kernel, the others of its launch."""

    ROWS: int
    """Rows that a program works on at once."""
    COLUMNS: int
    """Classes that it works on at once."""
    num_warps: int
    maxnreg: int
    """Registers of a thread, at most. Without a limit ptxas spills a few bytes to fit one more block."""
    programs: int
    """Programs on a multiprocessor, at most: those that are resident at once."""


def layout(classes: int, alone: bool) -> Layout:
    """The layout for rows of so many classes: eight numbers to a thread.

    alone: a program has one row, as for kept classes. Their registers, and what several rows need for each, leave room
    for half as many threads.
    """
    wide = classes > WIDEST_CHUNK // 2 and not alone
    at_once = WIDEST_CHUNK if wide else WIDEST_CHUNK // 2
    registers = 128 if wide else 168 if alone else 255
    columns = min(max(triton.next_power_of_2(classes), 16), at_once)
    rows = 1 if alone else at_once // columns
    warps = max(rows * columns // 256, 1)
    return Layout(rows, columns, warps, registers, programs=65536 // (32 * warps * registers))


def constants(rows: Rows, gradient_strides: tuple[int, ...], in_place: bool, chosen: Layout) -> dict[str, object]:
    """What the kernel is compiled for, beside the types of its arguments."""
    student, teacher, labels, form = rows.student_BRK, rows.teacher, rows.labels, rows.form
    shares = labels.probabilities_BRK
    kinds = "none" if labels.classes_N is None else "classes" if shares is None else "probabilities"
    common = {
        "K": student.shape[2],
        "STUDENT": strides(student),
        "GRADIENT": gradient_strides,
        "SHARES": strides(shares),
        "TEACHER": teacher.kind,
        "LABELS": kinds,
        "DIVERGENCE": form.divergence,
        "TAU_SQUARED": form.tau_squared,
        "CAPPED": form.capped,
        "IN_PLACE": in_place,
        "CHECK_LABELS": checks_labels(),
        "ROWS": chosen.ROWS,
        "COLUMNS": chosen.COLUMNS,
    }
    if teacher.kept_Nk is None:
        return common | {"TEACHERS": strides(teacher.dense_BRK), "TEACHER_CAPPED": form.teacher_capped}
    kept = teacher.kept_Nk.shape[1]
    return common | {"KEPT": kept, "PADDED": max(triton.next_power_of_2(kept), 16)}


def strides(tensor: Tensor | None) -> tuple[int, ...]:
    """Those of [B,R,K]; that of a batch of one is 0, so that its length does not compile anything again."""
    if tensor is None:
        return (0, 0, 0)
    return (tensor.stride(0) if tensor.shape[0] > 1 else 0, tensor.stride(1), tensor.stride(2))


def fill(rows: Rows, found: Found, gradient_BRK: Tensor | None) -> None:
    """Computes losses, parts and ranks into `found`, the gradient into its own tensor, which may be the student's."""
    student, teacher, labels = rows.student_BRK, rows.teacher, rows.labels
    batch, per_batch, classes = student.shape
    sparse = teacher.kept_Nk is not None
    chosen = layout(classes, alone=sparse)
    blocks = batch * triton.cdiv(per_batch, chosen.ROWS)
    if not blocks:
        return
    in_place = gradient_BRK is not None and gradient_BRK.data_ptr() == student.data_ptr()
    of_teacher = (teacher.kept_Nk, teacher.log_probs_Nk, teacher.log_rest_N) if sparse else (teacher.dense_BRK,)
    with device_of(student):
        (kept_kernel if sparse else dense_kernel)[(min(blocks, chosen.programs * multiprocessors(student.device)),)](
            student,
            gradient_BRK,
            *of_teacher,
            labels.classes_N,
            labels.probabilities_BRK,
            rows.weights_N,
            rows.numbers,
            found.losses_N,
            found.parts_2N,
            found.ranks_N,
            batch,
            per_batch,
            **constants(rows, strides(gradient_BRK), in_place, chosen),
            num_warps=chosen.num_warps,
            maxnreg=chosen.maxnreg,
            debug=checks_labels(),
        )


def scale_in_place(gradient_BRK: Tensor, scale_N: Tensor) -> None:
    """Multiplies every row by its number, and leaves a row alone whose number is 1."""
    batch, per_batch, classes = gradient_BRK.shape
    chosen = layout(classes, alone=False)
    blocks = batch * triton.cdiv(per_batch, chosen.ROWS)
    if not blocks:
        return
    with device_of(gradient_BRK):
        scale_rows_kernel[(min(blocks, chosen.programs * multiprocessors(gradient_BRK.device)),)](
            gradient_BRK,
            scale_N,
            batch,
            per_batch,
            K=classes,
            STRIDES=strides(gradient_BRK),
            ROWS=chosen.ROWS,
            COLUMNS=chosen.COLUMNS,
            num_warps=chosen.num_warps,
            maxnreg=chosen.maxnreg,
        )
