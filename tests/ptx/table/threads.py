"""The flow of control, barriers, and what the threads of a warp do together (PTX ISA, "Control Flow", "Warp Level")."""

from ..forms import machine

ROWS = [
    machine("bra[.uni]", "branch"),
    machine("ret[.uni]", "end"),
    machine("exit", "end"),
    machine("trap", "trap"),
    machine("call[.uni]", "call"),
    machine("bar[.cta].sync", "barrier"),
    machine("barrier[.cta].sync[.{aligned: aligned}]", "barrier"),
    machine("bar[.cta].arrive", "arrive"),
    machine("bar[.cta].red.{reduction: and or}.pred", "barrier"),
    machine("bar[.cta].red.{reduction: popc}.u32", "barrier"),
    machine("bar.warp.sync", "warp_barrier"),
    machine("shfl.sync.{mode: up down bfly idx}.b32", "shuffle"),
    machine("vote.sync.{reduction: all any uni}.pred", "vote"),
    machine("vote.sync.{reduction: ballot}.b32", "vote"),
    machine("redux.sync.{reduction: add min max}.{type: u32 s32}", "reduce"),
    machine("redux.sync.{reduction: and or xor}.{type: b32}", "reduce"),
    machine("redux.sync.{reduction: min max}[.{absolute: abs}][.{nan: NaN}].{type: f32}", "reduce"),
    machine("elect.sync", "elect"),
    machine("activemask.b32", "active"),
    machine("mov.{type: b32 b64}", "pack"),
]
"""`pack` is the mov with a vector on one side; the plain one is a lane row."""
