"""What all processes do together or not at all, such as recording a step whose messages they exchange.

They agree by a message of the host's, by gloo, which is part of no graph and waits for no device.
"""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import TypeVar

from fastkd.support.distributed import first_of_all, rank, world_size
from fastkd.training.capture import Recorder, Work, first_lines

T = TypeVar("T")


class NotTogether(Exception):
    """Says why one of the processes, the first in the order of ranks, could not do what all had to do."""


def together(action: Callable[[], T]) -> T:
    """Does `action` in every process and returns its result; raises NotTogether in each where one of them failed.

    Where there is one process, its own error is raised.
    """
    if world_size() == 1:
        return action()
    result = error = None
    try:
        result = action()
    except NotTogether:  # all have been told, see `all_are_well`
        raise
    except Exception as raised:
        error = raised
    _tell(error)
    return result  # pyright: ignore[reportReturnType]


def all_are_well() -> None:
    """Raises NotTogether where another process has failed in what they do `together`, inside of which this is called.

    It is called before messages that such a process would not answer: what tells why it failed is its next message of
    this kind, whether the others wait for it here or at the end.
    """
    if world_size() > 1:
        _tell(None)


def _tell(error: Exception | None) -> None:
    """Tells the others of an error; raises NotTogether where there is one in any process."""
    why = first_of_all(None if error is None else f"process {rank()}: {first_lines(error)}")
    if why is not None:
        raise NotTogether(why) from error


def in_one_line(error: Exception) -> str:
    """Why something could not be compiled or captured, the same in every process."""
    return str(error) if isinstance(error, NotTogether) else first_lines(error)


class AgreeingRecorder:
    """A recorder whose every rehearsal and recording is done by all processes, or counts for none of them."""

    def __init__(self, recorder: Recorder):
        self.recorder = recorder

    def on_stream(self) -> AbstractContextManager[None]:
        return self.recorder.on_stream()

    def rehearse(self, work: Work, times: int = 3) -> None:
        def rehearsal() -> None:
            all_are_well()
            work()

        together(lambda: self.recorder.rehearse(rehearsal, times))

    def record(self, work: Work, times: int = 1, *, beside: Sequence[Work] = ()) -> Work:
        return together(lambda: self.recorder.record(work, times, beside=beside))

    def pace(self) -> None:
        self.recorder.pace()


def agreeing(recorder: Recorder) -> Recorder:
    """The recorder; that of one process among several, as one that agrees with the others."""
    return recorder if world_size() == 1 else AgreeingRecorder(recorder)
