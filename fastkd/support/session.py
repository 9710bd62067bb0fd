"""One call of the program: what every stage of every seed has in common, whatever is trained."""

from dataclasses import dataclass, field

from fastkd.support.callbacks import Callback
from fastkd.support.display import Display
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
