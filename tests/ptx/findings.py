"""What an execution found wrong, and where."""

from dataclasses import dataclass, field

OUTSIDE = "outside every buffer"
NOT_GIVEN = "outside what the caller gave"
MISALIGNED = "misaligned access"
UNINITIALISED = "memory read before it is written"
UNDEFINED = "undefined value used"
RACE = "race within a block"
RACE_BETWEEN_BLOCKS = "race between blocks"
DIVERGENCE = "barrier divergence"
INACTIVE = "inactive lane"
IN_FLIGHT = "asynchronous operation not waited for"
PROXY = "no proxy fence before an asynchronous read"
MATRIX_REGISTERS = "registers of a matrix instruction without a fence or wait"
ENDLESS = "does not end"
TRAP = "trap or failed assertion"
KINDS = (
    OUTSIDE,
    NOT_GIVEN,
    MISALIGNED,
    UNINITIALISED,
    UNDEFINED,
    RACE,
    RACE_BETWEEN_BLOCKS,
    DIVERGENCE,
    INACTIVE,
    IN_FLIGHT,
    PROXY,
    MATRIX_REGISTERS,
    ENDLESS,
    TRAP,
)
"""The engines name a kind by its place here."""


@dataclass(frozen=True)
class Finding:
    kind: str
    kernel: str
    line: int
    """Of the PTX."""
    text: str
    """The instruction."""
    source: str
    """`file:line` that the compiler says it comes from, or empty."""
    block: int
    thread: int
    detail: str = ""
    other_line: int = 0
    """Of the instruction that the access collides with; 0 where there is none or it is not known."""
    times: int = field(default=1, compare=False)

    def __str__(self) -> str:
        place = f"{self.kernel}, PTX line {self.line}" + (f" ({self.source})" if self.source else "")
        other = f"; the other access is in line {self.other_line}" if self.other_line else ""
        times = f" ({self.times} times in all)" if self.times > 1 else ""
        detail = f": {self.detail}" if self.detail else ""
        return f"{self.kind}{detail}: block {self.block}, thread {self.thread}: {place}: {self.text}{other}{times}"


class FindingsError(AssertionError):
    """Raised by a launch that found something, unless it is told to keep its findings."""

    def __init__(self, findings: list[Finding]):
        self.findings = findings
        super().__init__("\n".join(map(str, findings)))
