"""Forks of the streams that are recorded, for `fastkd.support.branches`."""

from collections.abc import Callable
from typing import TypeVar

import torch

T = TypeVar("T")


class Forks:
    """Those of one recording."""

    def __init__(self, device: torch.device):
        self.device = device
        self.branches: dict[torch.cuda.Stream, torch.cuda.Stream] = {}
        self.results: list[object] = []
        """They live as long as the recording: their memory belongs to their branch, which would take it again while
        another stream still reads it."""

    def __call__(self, work: Callable[[], T]) -> Callable[[], T]:
        trunk = torch.cuda.current_stream(self.device)
        if trunk not in self.branches:
            self.branches[trunk] = torch.cuda.Stream(self.device)
        branch = self.branches[trunk]
        branch.wait_stream(trunk)  # what waits for a stream that is captured is captured, too
        with torch.cuda.stream(branch):
            result = work()
        self.results.append(result)

        def joined() -> T:
            torch.cuda.current_stream(self.device).wait_stream(branch)
            return result

        return joined
