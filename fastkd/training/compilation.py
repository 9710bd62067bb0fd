"""torch.compile for a stage: its networks block by block, or the stage as a whole."""

from collections.abc import Callable, Iterator
from typing import Any, Literal

import torch
from torch import nn
from torch._functorch import config as functorch

from fastkd.networks.base import Head, Network, Tail
from fastkd.networks.grafts import Branch
from fastkd.networks.supernet import ReconfigurableLayer, layers_of
from fastkd.training.stages import Distill, Stage

# The limit holds for each code object, and all blocks of a family share one: every distinct block, in training and in
# evaluation, counts. Beyond it torch.compile would raise (`fullgraph`), so it is set above what a network has.
_RECOMPILE_LIMIT = 256

Backend = str | Callable[..., Any]


def compiled_parts(stage: Stage, mode: Literal["blocks", "whole"]) -> list[nn.Module]:
    """The modules that are compiled each by itself; a network that is not cut into blocks is not among them."""
    if mode == "whole":
        return [stage]
    frozen = stage.teachers if isinstance(stage, Distill) else ()
    parts = [
        *trained_parts(stage),
        *(part for teacher in frozen for module in teacher.modules() for part in _parts(module)),
    ]
    return [part for part in parts if not isinstance(part, Network)]


def trained_parts(stage: Stage) -> list[nn.Module]:
    """The stems, blocks, heads and transforms of all networks that are trained, or the networks that have none; of a
    supernet's blocks, the pieces."""
    return [part for module in stage.modules() for part in _parts(module)]


def _parts(module: nn.Module) -> Iterator[nn.Module]:
    if isinstance(module, Network) and not module.is_cut:
        yield module
        return
    if isinstance(module, Network):
        yield module.stem
    if isinstance(module, Network | Tail):
        yield from (block for block in module.blocks if not layers_of(block))
    if isinstance(module, ReconfigurableLayer):  # which runs others of its pieces in every step
        yield from (piece.module for piece in module.pieces())
    if isinstance(module, Branch):
        yield module.transform
    if isinstance(module, Head):
        yield module


def compile_stage(stage: Stage, mode: Literal["blocks", "whole"], backend: Backend = "inductor") -> None:
    """Makes the parts run compiled from their next call on; parameter names and states stay as they are."""
    torch._dynamo.config.recompile_limit = max(torch._dynamo.config.recompile_limit, _RECOMPILE_LIMIT)
    if stage.gate is not None:  # the graph is gone through once for each total
        functorch.donated_buffer = False
    for part in compiled_parts(stage, mode):
        # `Module.compile` sets this attribute, too. But it compiles the frame of `_call_impl` itself, which in torch's
        # own modules (a stem that is a Sequential) is silently left alone; inlined into a frame of ours it is not.
        compiled = torch.compile(_frame_around(part), dynamic=False, fullgraph=mode == "blocks", backend=backend)
        part._compiled_call_impl = compiled  # pyright: ignore[reportAttributeAccessIssue]


def _frame_around(part: nn.Module) -> Callable[..., Any]:
    call = part._call_impl

    def frame(*arguments: Any, **options: Any) -> Any:
        return call(*arguments, **options)

    return frame


def undo_compile(stage: Stage) -> None:
    """Makes the stage run as plain PyTorch again."""
    for mode in ("blocks", "whole"):
        for part in compiled_parts(stage, mode):
            part._compiled_call_impl = None  # pyright: ignore[reportAttributeAccessIssue]
