"""One call of the program: what every stage of every seed has in common, whatever is trained."""

from collections.abc import Callable
from dataclasses import dataclass, field

from fastkd.support.callbacks import Callback, StopTraining
from fastkd.support.display import Display
from fastkd.support.heartbeat import EVERY_SECONDS, SILENT, Heartbeat
from fastkd.support.interrupt import Interrupt
from fastkd.support.loggers import LoggerName


@dataclass(frozen=True)
class Session:
    """Where a call of the program shows what it does, who may stop it, and what it writes besides."""

    display: Display
    interrupt: Interrupt = field(default_factory=Interrupt)
    loggers: tuple[LoggerName, ...] = ()
    """Where records go beside metrics.jsonl."""
    unlocked: bool = False
    """Whether a run goes on where the file system has no locks."""
    callbacks: tuple[Callback, ...] = ()
    """What a program wants to be told."""
    heartbeat_seconds: float = EVERY_SECONDS
    """Seconds between signs of life in a run's folder; 0: there are none."""
    heartbeat: Heartbeat = SILENT
    """That of the run which is being carried out."""

    def tell(self, call: Callable[[Callback], None]) -> None:
        """Calls each of the callbacks; one that raises `StopTraining` asks the run to stop."""
        for callback in self.callbacks:
            try:
                call(callback)
            except StopTraining:
                self.interrupt.requested = "a callback"
