"""PTX written by hand, with as little around it as can be: for tests of the executor."""

import re
from collections.abc import Sequence

import numpy as np

from .decoding import decoded
from .findings import Finding
from .launching import Argument, Result, array, launch
from .program import Program
from .source import kernels

_REGISTERS = """
    .reg .pred %p<24>;
    .reg .b16 %h<24>;
    .reg .b32 %r<160>;
    .reg .b64 %d<64>;
"""
_ADDRESSES = """
    ld.param.u64 %d{i}, [test_param_{i}];
"""


def text_of(body: str, *, pointers: int = 0, before: str = "") -> str:
    """A module with one entry, `test`, of so many pointers: %d0, %d1 … hold them, %r0 the thread's number, %r1 the
    block's, %r2 the threads of a block, and %d8 the thread's number in 64 bits. Registers: %p, %h (16 bits), %r, %d.
    """
    parameters = ", ".join(f".param .u64 test_param_{i}" for i in range(pointers))
    loads = "".join(_ADDRESSES.format(i=i) for i in range(pointers))
    numbers = "mov.u32 %r0, %tid.x; mov.u32 %r1, %ctaid.x; mov.u32 %r2, %ntid.x; cvt.u64.u32 %d8, %r0;"
    return (
        f".version 8.7\n.target sm_90a\n.address_size 64\n{before}\n"
        f".visible .entry test({parameters})\n{{{_REGISTERS}{loads}    {numbers}\n{body}\n    ret;\n}}\n"
    )


def program(body: str, *, pointers: int = 0, before: str = "") -> Program:
    return decoded(kernels(text_of(body, pointers=pointers, before=before))["test"])


def run(
    body: str,
    *arguments: np.ndarray | Argument,
    threads: int = 32,
    blocks: int = 1,
    before: str = "",
    **options,
) -> Result:
    """Launches such a body on arrays, which it changes in place. Findings are kept, not raised."""
    made = program(body, pointers=len(arguments), before=before)
    given = [
        array(value, f"argument {i}") if isinstance(value, np.ndarray) else value for i, value in enumerate(arguments)
    ]
    return launch(made, blocks, threads, given, keep_findings=True, **options)


def kinds(result: Result) -> list[str]:
    return sorted({finding.kind for finding in result.findings})


def line_of(text: str, pattern: str) -> int:
    """The number of the first line that matches."""
    return next(i for i, line in enumerate(text.splitlines(), 1) if re.search(pattern, line))


def at(pointer: int, index: str, size: int, to: str = "%d10") -> str:
    """`to` becomes the address of element `index` (a 32-bit register) of a pointer's array."""
    return f"mad.wide.u32 {to}, {index}, {size}, %d{pointer};"


def sequence(*bodies: str | Sequence[str]) -> str:
    return "\n".join(body if isinstance(body, str) else "\n".join(body) for body in bodies)


TILE = ".shared .align 16 .b8 tile[4096]; mov.u32 %r10, tile; mad.lo.u32 %r11, %r0, 4, %r10;"
"""Shared memory: %r10 is its beginning, %r11 the thread's own word."""
NEIGHBOUR = "xor.b32 %r12, %r0, {0}; mad.lo.u32 %r13, %r12, 4, %r10;"
"""%r13 is the word of the thread whose number differs in some bits."""


def words(count: int = 128) -> np.ndarray:
    return np.zeros(count, np.uint32)


def only(result: Result, kind: str) -> Finding:
    """The one finding of a result, which has that kind."""
    assert kinds(result) == [kind], [str(finding) for finding in result.findings]
    return result.findings[0]
