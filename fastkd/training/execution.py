"""How a step is carried out: what is on to make it fast, and why what is off is off.

It changes no setting of a paper.
"""

import os
import warnings
from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch

from fastkd.support import environment
from fastkd.support.errors import UserError
from fastkd.support.plain import Checked

Switch = Literal["auto", "on", "off"]


@dataclass(frozen=True, kw_only=True)
class Execution(Checked):
    """What makes a step fast. `auto`: on for a GPU, off for a CPU."""

    compile: Literal["auto", "blocks", "whole", "off"] = "auto"
    """torch.compile, block by block or the whole stage (default: blocks on a GPU)."""
    capture: Switch = "auto"
    """Record the whole step as one CUDA graph and replay it (default: on one GPU); `on` does so with several processes,
    too, which no two GPUs have run yet: auto leaves it off there."""
    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    """Type of convolutions and matrix products; losses are always float32 (default: bfloat16 on a GPU that has it).
    float32 is all of it: no TF32."""
    channels_last: Switch = "auto"
    """Keep images and weights in the memory layout channels_last (default: on a GPU)."""
    fold: Switch = "auto"
    """Fold a frozen teacher's BatchNorm into its convolutions (default: on a GPU)."""
    deterministic: bool = False
    """Make runs on a GPU bit-equal, at some cost; on the CPU they are bit-equal anyway."""
    write_aside: Literal["on", "off"] = "on"
    """Write checkpoints by a thread while the training goes on: their content is copied first, which takes as much of
    the host's memory again. The last one of a stage is waited for in any case."""
    shard_checkpoints: Literal["on", "off"] = "on"
    """With several processes, let each write its rows of the tensors of 64 MiB and more that all hold alike (CRD's
    memory bank) into a file beside the checkpoint."""


class Resolved(NamedTuple):
    compile: Literal["blocks", "whole", "off"]
    capture: bool
    bfloat16: bool
    channels_last: bool
    fold: bool
    deterministic: bool
    write_aside: bool = True
    shard_checkpoints: bool = True

    def words(self) -> str:
        """What is on, as the header of a run says it."""
        precision = "bfloat16" if self.bfloat16 else "float32"
        layout = "channels_last" if self.channels_last else "contiguous"
        capture = f"capture {'on' if self.capture else 'off'}"
        parts = [
            f"compile {self.compile}",
            capture,
            precision,
            layout,
            f"teacher folding {'on' if self.fold else 'off'}",
        ]
        return ", ".join([*parts, "deterministic"] if self.deterministic else parts)


EVERYTHING_OFF = Resolved(
    compile="off",
    capture=False,
    bfloat16=False,
    channels_last=False,
    fold=False,
    deterministic=False,
    write_aside=False,
    shard_checkpoints=False,
)
"""Plain PyTorch."""


def resolve(execution: Execution, device: torch.device, processes: int = 1) -> tuple[Resolved, str]:
    """What `auto` means on that device, and a line that says why what is off is off ("" where nothing is)."""
    gpu = device.type == "cuda"
    if execution.channels_last == "on" and not gpu:
        raise UserError("--channels-last on: on the CPU it makes convolutions slower; leave it out")
    if execution.capture == "on" and not gpu:
        raise UserError("--capture on: only a GPU replays a captured step; leave it out")
    old = environment.without_bfloat16(device)
    if execution.precision == "bfloat16" and old:
        raise UserError(f"--precision bfloat16: the {old} cannot compute in it; leave it out")
    resolved = Resolved(
        compile=("blocks" if gpu else "off") if execution.compile == "auto" else execution.compile,
        capture=gpu and (processes == 1 if execution.capture == "auto" else execution.capture == "on"),
        bfloat16=gpu and not old if execution.precision == "auto" else execution.precision == "bfloat16",
        channels_last=gpu if execution.channels_last == "auto" else execution.channels_last == "on",
        fold=gpu if execution.fold == "auto" else execution.fold == "on",
        deterministic=execution.deterministic,
        write_aside=execution.write_aside == "on",
        shard_checkpoints=execution.shard_checkpoints == "on",
    )
    why = ""
    if gpu and processes > 1 and execution.capture == "auto":
        why = "with several processes the step is captured by --capture on alone: no two GPUs have tried it yet"
    if not gpu and resolved.compile == "off" and execution.compile == "auto":
        why = "compiling is off on the CPU, where it takes longer than a short run: --compile blocks turns it on"
    if old and execution.precision == "auto":
        why = "; ".join(filter(None, (why, f"float32, since the {old} has no bfloat16")))
    return resolved, why


def set_up(resolved: Resolved, device: torch.device) -> None:
    """Sets torch's process-wide switches."""
    if device.type == "cuda":
        torch.backends.cudnn.benchmark = not resolved.deterministic
        torch.backends.cudnn.allow_tf32 = resolved.bfloat16  # torch's default takes 10 bits of float32 in convolutions
        torch.set_float32_matmul_precision("highest")
        warnings.filterwarnings("ignore", message="TensorFloat32 tensor cores")  # Inductor advises against that
        if resolved.deterministic:  # cuBLAS reads it at the first matrix product
            os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.use_deterministic_algorithms(resolved.deterministic, warn_only=True)
