"""Matrix units and the moves that feed them (PTX ISA, "Warp Level" and "Asynchronous Warpgroup Level Matrix")."""

from ..forms import machine

_TYPE = "{type: f16 bf16}"
_COLUMNS = " ".join(str(columns) for columns in range(8, 257, 8))

ROWS = [
    machine("ldmatrix.sync.aligned.m8n8.{count: x1 x2 x4}[.{trans: trans}].shared[::cta].b16", "load_matrix"),
    machine("stmatrix.sync.aligned.m8n8.{count: x1 x2 x4}[.{trans: trans}].shared[::cta].b16", "store_matrix"),
    machine("mma.sync.aligned.m16n8{k: k8 k16}.row.col.f32.{type: f16}.f16.f32", "multiply"),
    machine("mma.sync.aligned.m16n8{k: k8 k16}.row.col.f32.{type: bf16}.bf16.f32", "multiply"),
    machine("mma.sync.aligned.m16n8{k: k4 k8}.row.col.f32.{type: tf32}.tf32.f32", "multiply"),
    machine("wgmma.fence.sync.aligned", "matrix_fence"),
    machine("wgmma.commit_group.sync.aligned", "commit_matrices"),
    machine("wgmma.wait_group.sync.aligned", "wait_for_matrices"),
    machine(f"wgmma.mma_async.sync.aligned.m64n{{n: {_COLUMNS}}}k16.f32.{{type: f16}}.f16", "multiply_async"),
    machine(f"wgmma.mma_async.sync.aligned.m64n{{n: {_COLUMNS}}}k8.f32.{{type: tf32}}.tf32", "multiply_async"),
    machine(f"wgmma.mma_async.sync.aligned.m64n{{n: {_COLUMNS}}}k16.f32.{{type: bf16}}.bf16", "multiply_async"),
]

NOT_EXECUTED = ("tcgen05", "mbarrier")
"""Mnemonics that are parsed, not executed: a kernel that has them is refused with their list."""
