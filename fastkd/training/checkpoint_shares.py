"""The shares that several processes write of a checkpoint: rows of large tensors that all of them hold alike.

A share is a file beside the checkpoint, which counts it: its number, its bytes and its digest. The next checkpoint has
shares of other numbers, so that those of the last one stand until it is there.
"""

import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from fastkd.support.errors import UserError
from fastkd.support.files import remove
from fastkd.support.paths import inside, is_there
from fastkd.support.schemas import CheckpointShare, checked
from fastkd.support.states import Written, read_state

LEAST_BYTES = 1 << 26
"""Bytes of the smallest tensor that is shared out: what is smaller one process writes in a moment."""
SHARED_OUT = ("model", "optimizer", "average")
"""The entries of a checkpoint that may hold such tensors."""

Tree = dict[Any, Any]


def share_of(checkpoint: Path, number: int) -> Path:
    """The file of a share. No stage can be called so that its checkpoint had this name."""
    return checkpoint.with_name(f"{checkpoint.name}.{number}")


def replicated(stage: nn.Module) -> frozenset[str]:
    """The names in the stage's state that all processes hold alike: parameters, and what a loss computes alike."""
    buffers = (
        f"{prefix}.{name}" if prefix else name
        for prefix, module in stage.named_modules()
        for name in getattr(module, "replicated", ())
    )
    return frozenset((*(name for name, _ in stage.named_parameters()), *buffers))


def shared_out(state: Tree, alike: frozenset[str], among: int) -> tuple[Tree, Tree]:
    """The entries of a checkpoint without what is shared out among so many processes, and that.

    alike: the names of the model's tensors that all of them hold alike. Averaged weights and the optimiser's state are
    so in any case.
    """
    rest, large = dict(state), {}
    for entry in SHARED_OUT:
        if entry in state:
            rest[entry], large[entry] = _divided(state[entry], alike if entry == "model" else None, among)
    return rest, {entry: tree for entry, tree in large.items() if tree}


def _divided(tree: Tree, alike: frozenset[str] | None, among: int) -> tuple[Tree, Tree]:
    """The two parts of a tree; a dictionary that has nothing large in it is in the first one alone."""
    small, large = {}, {}
    for name, value in tree.items():
        if isinstance(value, dict):
            small[name], below = _divided(value, alike, among)
            if below:
                large[name] = below
        elif _is_large(value, among) and (alike is None or name in alike):
            large[name] = value
        else:
            small[name] = value
    return small, large


def _is_large(value: Any, among: int) -> bool:
    return isinstance(value, Tensor) and value.nbytes >= LEAST_BYTES and value.ndim > 0 and len(value) >= among


def rows_of(large: Tree, mine: int, among: int) -> Tree:
    """The rows of every tensor that one of so many processes writes, as views."""
    return {
        name: rows_of(value, mine, among) if isinstance(value, dict) else value.tensor_split(among)[mine]
        for name, value in large.items()
    }


def read_shares(state: dict[str, Any], checkpoint: Path) -> None:
    """Adds to a checkpoint the tensors that it shared out; raises UserError where a share is not what it counts."""
    trees = [_read(checkpoint, share, state["stage"]) for share in state.get("shares", ())]
    for entry in SHARED_OUT:
        if any(entry in tree for tree in trees):
            try:
                state[entry] = _with_rows(state.get(entry, {}), [tree[entry] for tree in trees])
            except (KeyError, TypeError, AttributeError, RuntimeError) as error:
                raise UserError(f"{checkpoint} does not fit its shares: their rows of the {entry} differ") from error


def _read(checkpoint: Path, share: dict[str, Any], stage: str) -> Tree:
    path = share_of(checkpoint, share["number"])
    tree, _ = read_state(path, Written(share["bytes"], share["sha256"]))
    checked(CheckpointShare, tree, str(path))
    if (tree["stage"], tree["number"]) != (stage, share["number"]):
        raise UserError(f"{path} is the share {tree['number']} of another checkpoint, of the stage {tree['stage']!r}")
    return tree


def _with_rows(tree: Tree, shares: list[Tree]) -> Tree:
    """The tree with every tensor of the shares, whose rows follow each other."""
    found = {
        name: _with_rows(tree.get(name, {}), [share[name] for share in shares])
        if isinstance(value, dict)
        else torch.cat([share.pop(name) for share in shares])
        for name, value in [*shares[0].items()]
    }
    return tree | found


_SHARE = re.compile(r"(.+\.pt)\.\d+")


def remove_orphans(folder: Path) -> None:
    """Removes the shares whose checkpoint is gone: their process was killed before it could."""
    for path in inside(folder, "*.pt.*"):
        named = _SHARE.fullmatch(path.name)
        if named and not is_there(folder / named[1]):
            remove(path)


def remove_shares(checkpoint: Path, but: Iterable[int] = ()) -> None:
    """Removes the shares beside a checkpoint that it does not count."""
    kept = {share_of(checkpoint, number).name for number in but}
    for path in inside(checkpoint.parent, "*.pt.*"):
        named = _SHARE.fullmatch(path.name)
        if named and named[1] == checkpoint.name and path.name not in kept:
            remove(path)
