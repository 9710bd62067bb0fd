"""The manual's meaning of the instructions that move bits about."""

from ptx.forms import Lane


def shift(value: int, by: int, bits: int, left: bool) -> int:
    if left:
        return value << by if by < bits else 0
    return value >> min(by, bits)


def bfe(form: Lane, given: list) -> int:
    """The manual's loop over the bits."""
    a, position, length = given[0], given[1] & 255, given[2] & 255
    top = int(form.gives[1:]) - 1
    sign = 0
    if form.gives[0] == "s" and length:
        sign = (a >> min(position + length - 1, top)) & 1
    found = 0
    for i in range(top + 1):
        bit = (a >> (position + i)) & 1 if i < length and position + i <= top else sign
        found |= bit << i
    return found


def bfi(form: Lane, given: list) -> int:
    a, b, position, length = given[0], given[1], given[2] & 255, given[3] & 255
    for i in range(length):
        if position + i < int(form.gives[1:]):
            b = (b & ~(1 << (position + i))) | ((a >> i) & 1) << (position + i)
    return b


def shf(form: Lane, given: list) -> int:
    a, b, by = given
    by = by % 32 if "wrap" in form.opcode.split(".") else min(by, 32)
    joined = b << 32 | a
    return (joined << by) >> 32 if "l" in form.opcode.split(".") else joined >> by


def prmt(form: Lane, given: list) -> int:
    a, b, selector = given
    data = (b << 32 | a).to_bytes(8, "little")
    found = 0
    for i in range(4):
        choice = selector >> 4 * i
        byte = data[choice & 7]
        found |= (255 * (byte >> 7) if choice & 8 else byte) << 8 * i
    return found


def lop3(form: Lane, given: list) -> int:
    a, b, c, table = given
    return sum(((table >> ((a >> i & 1) << 2 | (b >> i & 1) << 1 | (c >> i & 1))) & 1) << i for i in range(32))
