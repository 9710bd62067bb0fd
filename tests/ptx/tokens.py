"""PTX text → words, numbers and marks, each with its line."""

import re
from collections.abc import Iterator
from typing import NamedTuple

from .syntax import PTXError

_TOKEN = re.compile(
    r"""(?P<space>[ \t\r]+|//[^\n]*|/\*.*?\*/)|(?P<line>\n)
      |(?P<text>"(?:[^"\\]|\\.)*")
      |(?P<number>-?(?:0[fF][0-9a-fA-F]{8}|0[dD][0-9a-fA-F]{16}|0[xX][0-9a-fA-F]+U?|0[bB][01]+U?|\d+\.\d*(?:[eE][-+]?\d+)?|\d+U?))
      |(?P<name>[%$A-Za-z_][\w$]*(?:(?:\.|::)\w+)*)
      |(?P<directive>\.[A-Za-z_]\w*(?:::\w+)?)
      |(?P<mark>[{}()\[\]<>,;:|@!+=*-])""",
    re.VERBOSE | re.DOTALL,
)


class Token(NamedTuple):
    kind: str
    text: str
    line: int


def tokens(text: str, before: int) -> Iterator[Token]:
    """before: the lines in front of the text."""
    line, position = before + 1, 0
    while position < len(text):
        match = _TOKEN.match(text, position)
        if match is None:
            raise PTXError(f"line {line}: cannot read {text[position : position + 20]!r}")
        kind = str(match.lastgroup)
        if kind not in ("space", "line"):
            yield Token(kind, match[0], line)
        line += match[0].count("\n")
        position = match.end()
    yield Token("end", "", line)
