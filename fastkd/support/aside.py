"""Work of files that a thread does beside the training: one piece at a time, waited for or given up."""

import threading
from collections.abc import Callable
from typing import Any


class GivenUp(Exception):
    """Raised in a piece of work that nobody waits for any more."""


class Aside:
    """A thread for one piece of work at a time, which calls the `look` that it is given between its parts.

    The thread is no daemon: the interpreter waits for it at its end, as long as the work takes, and never for more.
    """

    def __init__(self) -> None:
        self._thread: threading.Thread | None = None
        self._given_up = threading.Event()
        self._error: BaseException | None = None
        self._result: Any = None

    def begin(self, work: Callable[[Callable[[], None]], Any], *, here: bool = False) -> None:
        """Starts the work; what was begun before has been waited for. here: it is done at once, without a thread."""
        assert self._thread is None, "one piece of work at a time"
        self._error = self._result = None
        self._given_up.clear()
        if here:
            self._do(work)
        else:
            self._thread = threading.Thread(target=self._do, args=(work,), name="fastkd writes aside")
            self._thread.start()

    def _do(self, work: Callable[[Callable[[], None]], Any]) -> None:
        try:
            self._result = work(self._look)
        except BaseException as error:  # whoever waits raises it
            self._error = error

    def _look(self) -> None:
        if self._given_up.is_set():
            raise GivenUp

    @property
    def ended(self) -> bool:
        """Whether nothing is going on, so that `wait` would not."""
        return self._thread is None or not self._thread.is_alive()

    def join(self) -> None:
        """Waits for the work; how it ended is kept for `wait`."""
        if self._thread is not None:
            self._thread.join()

    def wait(self) -> Any:
        """Waits for the work, raises what it ended in, and returns what it returned; None where there was none."""
        self.join()
        self._thread = None
        error, self._error = self._error, None
        if error is not None:
            raise error
        result, self._result = self._result, None
        return result

    def give_up(self) -> None:
        """Ends the work between two of its parts, and waits for that."""
        self._given_up.set()
        self.join()
        self._thread = self._error = None
