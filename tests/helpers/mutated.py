"""Launches that are recorded once and run again with a change in their PTX."""

import copy
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from ptx import Device, Result
from torch import Tensor

SYNCHRONISES = re.compile(
    r"(?<![\w.])(?:bar(?:rier)?(?:\.warp)?\.sync|cp\.async\.(?:wait|commit)_\w+|fence|membar"
    r"|wgmma\.(?:fence|commit_group|wait_group))(?![a-z])[^;]*;"
)
"""Instructions that only order others."""


class Outcome(NamedTuple):
    kinds: frozenset[str]
    """Kinds of what was found."""
    tensors: list[Tensor]
    """All that the kernel was given, afterwards."""

    def same_values(self, other: "Outcome") -> bool:
        return all(torch.equal(_bits(one), _bits(two)) for one, two in zip(self.tensors, other.tensors, strict=True))


class Recorded(NamedTuple):
    """One launch: what Triton's launcher was given, the tensors as they were before."""

    kernel: str
    architecture: str
    text: str
    shape: tuple[Any, int, int]
    """Grid, threads of a block, bytes of shared memory."""
    arguments: list[Any]
    never_written: tuple[int, ...]
    """Places of those tensors that nobody had filled."""

    def run(self, edit: Callable[[str], str] = str) -> Outcome:
        gpu = Device(self.architecture, keep_findings=True)
        arguments = copy.deepcopy(self.arguments)
        for place in self.never_written:
            gpu.watch(arguments[place])
        gpu.edit = edit
        gpu.launch(self.text, *self.shape, arguments)
        (result,) = gpu.launches
        return outcome(result, [value for value in arguments if isinstance(value, Tensor)])

    @property
    def synchronising(self) -> list[str]:
        return [match[0] for match in SYNCHRONISES.finditer(self.text)]


def outcome(result: Result, tensors: list[Tensor]) -> Outcome:
    return Outcome(frozenset(finding.kind for finding in result.findings), tensors)


def _bits(tensor: Tensor) -> Tensor:
    """NaN is equal to itself then."""
    return tensor.contiguous().view(-1).view(torch.uint8)


@contextmanager
def recording(gpu: Device) -> Iterator[dict[str, Recorded]]:
    """The launches on a device by the name of their kernel, the last of each."""
    kept: dict[str, Recorded] = {}
    plain = gpu.launch

    def launch(text: str, grid: Any, threads: int, shared: int, arguments: list[Any]) -> None:
        given = copy.deepcopy([value.detach() if isinstance(value, Tensor) else value for value in arguments])
        fresh = tuple(
            place for place, value in enumerate(arguments) if isinstance(value, Tensor) and gpu.is_fresh(value)
        )
        plain(text, grid, threads, shared, arguments)
        kernel = gpu.launches[-1].kernel
        kept[kernel] = Recorded(kernel, gpu.architecture, text, (grid, threads, shared), given, fresh)

    gpu.launch = launch
    yield kept


def without(pattern: re.Pattern[str] | str, nth: int) -> Callable[[str], str]:
    """Leaves out the nth text that matches."""
    return replaced(pattern, nth, "")


def replaced(pattern: re.Pattern[str] | str, nth: int, by: str) -> Callable[[str], str]:
    """Puts `by`, a template as in re.sub, in place of the nth text that matches."""

    def edit(text: str) -> str:
        match = list(re.finditer(pattern, text))[nth]
        return text[: match.start()] + match.expand(by) + text[match.end() :]

    return edit
