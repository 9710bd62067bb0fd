"""Brings the checkpoints of a stage to the disk: one at a time, at once or aside, by one process or by all of them."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

from fastkd.support.aside import Aside
from fastkd.support.distributed import agreed, is_main, on_all, on_main, rank, world_size
from fastkd.support.errors import UserError
from fastkd.support.host_copies import HostCopies
from fastkd.support.paths import is_there
from fastkd.support.states import write_state
from fastkd.training.checkpoint_shares import remove_shares, rows_of, share_of


class CheckpointWriter:
    """Writes what a checkpoint holds as it is when `begin` is called. Every rank has one.

    Aside, the state is copied and a thread writes the copy. The thread sends no messages; what several ranks have to
    know of each other they tell in `begin`, `look` and `settle`, to which all of them come together. Rank 0 writes the
    checkpoint when the shares of all ranks are on the disk; until then the last one stands, with its own shares.
    """

    def __init__(self, checkpoint: Path, stage: str, flush: Callable[[], object]):
        """flush: brings to the disk what a checkpoint counts on."""
        self.checkpoint, self.stage, self.flush = checkpoint, stage, flush
        self.first = 0
        """The number of the first share that is written next."""
        self._underway: Literal["nothing", "shares", "checkpoint"] = "nothing"
        self._aside = Aside()
        self._copies, self._copies_of_rows = HostCopies(), HostCopies()
        self._state: dict[str, Any] = {}
        self._arrived: Callable[[], None] = _nothing
        self._written_aside = False

    def begin(self, state: dict[str, Any], large: dict[str, Any], *, aside: bool) -> None:
        """Begins with a checkpoint; `settle` has been called since the last one.

        state: what rank 0 writes. large: tensors of which every rank writes its rows; empty on all ranks or on none.
        aside: `state` and `large` may change when this returns, and nobody waits for the disk.
        """
        assert self._underway == "nothing", "one checkpoint at a time"
        self._written_aside = aside
        self._underway = "shares" if large else "checkpoint"
        on_all(lambda: self._start(state, large))

    def _start(self, state: dict[str, Any], large: dict[str, Any]) -> None:
        if is_main():
            self._state, self._arrived = self._copies.of(state) if self._written_aside else (state, _nothing)
        if large:
            self._start_share(large)
        elif is_main():
            self._start_checkpoint([])

    def _start_share(self, large: dict[str, Any]) -> None:
        number = self.first + rank()
        rows, arrived = self._copies_of_rows.of(rows_of(large, rank(), world_size()), apart=True)
        share = {"stage": self.stage, "number": number, **rows}

        def write(look: Callable[[], None]) -> tuple[int, str]:
            arrived()
            size, sha256 = write_state(share_of(self.checkpoint, number), share, look)
            return size, sha256

        self._aside.begin(write, here=not self._written_aside)

    def _start_checkpoint(self, shares: list[dict[str, Any]]) -> None:
        state, arrived = self._state | ({"shares": shares} if shares else {}), self._arrived
        self._state, self._arrived = {}, _nothing

        def write(look: Callable[[], None]) -> None:
            arrived()
            self.flush()
            self._refuse_shares_elsewhere(shares)
            write_state(self.checkpoint, state, look)
            remove_shares(self.checkpoint, but=[share["number"] for share in shares])

        self._aside.begin(write, here=not self._written_aside)

    def _refuse_shares_elsewhere(self, shares: list[dict[str, Any]]) -> None:
        for process, share in enumerate(shares):
            path = share_of(self.checkpoint, share["number"])
            if not is_there(path):
                raise UserError(
                    f"process {process} has written {path}, which process 0 does not see: processes on several "
                    "machines need a folder that all of them see, or --shard-checkpoints off"
                )

    def look(self) -> bool:
        """Goes on where all ranks have come so far, without waiting; returns whether the checkpoint is written.

        Raises on every rank what went wrong on one of them.
        """
        if self._underway == "nothing" or agreed(not self._aside.ended):
            return False
        if self._underway == "shares":
            self._count_shares()
            return False
        return self.settle()

    def settle(self) -> bool:
        """Waits until the checkpoint that was begun is written; returns whether there was one. It raises as `look`."""
        if self._underway == "shares":
            self._count_shares()
        if self._underway == "nothing":
            return False
        self._underway = "nothing"
        on_main(self._aside.wait)
        return True

    def _count_shares(self) -> None:
        self._underway = "nothing"
        written = on_all(self._aside.wait)
        shares = [
            {"number": self.first + place, "bytes": size, "sha256": sha256}
            for place, (size, sha256) in enumerate(written)
        ]
        self.first += len(shares)
        self._underway = "checkpoint"
        if is_main():
            self._start_checkpoint(shares)

    def wait_alone(self) -> None:
        """Waits for what this rank is writing; how it ended is kept for the next `look`."""
        self._aside.join()

    def give_up(self) -> None:
        """Ends what this rank is writing; what stood there stays."""
        self._aside.give_up()
        self._underway = "nothing"


def _nothing() -> None:
    """Everything has arrived that was never sent."""
