"""Matrix units: ldmatrix, stmatrix and mma.sync.

Products are exact and sums are taken in float64, in the order of k, and rounded once: the manual leaves order and
rounding of the hardware's sums open. Fragments lie as the manual's figures show them: with g = lane / 4 and t = lane %
4, a register of A holds columns 2t, 2t+1 of row g or g+8, one of B rows 2t, 2t+1 of column g, one of C one number.
"""

from typing import Any, NamedTuple

import numpy as np

from ..findings import INACTIVE
from ..program import Coded
from . import memory
from .clocks import WARP
from .lanes import WHOLE, loaded, stored

LANES = np.arange(WARP)
ROW_BYTES = 16


def warps_of(block: Any, active: np.ndarray) -> np.ndarray:
    """Numbers of the whole warps that are here."""
    block.check_whole_warps(active, INACTIVE)
    return np.flatnonzero(block.warps(active).all(1))


def rows_addressed(block: Any, coded: Coded, active: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The threads whose addresses count, and these: eight lanes a matrix."""
    base, *registers = coded.slots
    addressing = active & (np.arange(block.threads) % WARP < 8 * len(registers))
    threads = np.flatnonzero(addressing)
    addresses = memory.addresses_of(block, base, coded.numbers[0], addressing)
    memory.count(block, "shared", addressing, addresses, ROW_BYTES)
    return threads, addresses


def load_matrix(block: Any, coded: Coded, active: np.ndarray, group: Any) -> None:
    _, *targets = coded.slots
    warps = warps_of(block, active)
    threads, addresses = rows_addressed(block, coded, active)
    rows = np.zeros((block.threads, 8), np.uint16)
    known = np.ones((block.threads, 8), bool)
    for piece in memory.pieces(block, "shared", threads, addresses, ROW_BYTES, "reads"):
        known[piece.access.threads] = memory.read(block, piece)[:, :1]
        rows[piece.access.threads] = memory.bytes_at(piece.region, piece.offsets, ROW_BYTES).view(np.uint16)
    lane = np.arange(block.threads) % WARP
    first = np.arange(block.threads) - lane
    for i, target in enumerate(targets):
        matrix = first[:, None] + 8 * i
        if coded.form["trans"]:
            row, column = matrix + 2 * (lane % 4)[:, None] + np.arange(2), (lane // 4)[:, None]
        else:
            row, column = matrix + (lane // 4)[:, None], 2 * (lane % 4)[:, None] + np.arange(2)
        pairs = np.ascontiguousarray(rows[row, column]).view(np.uint32)[:, 0]
        block.put(target, active, pairs[active], _flags(known[row, column].all(1)[active]))
    _ = warps


def store_matrix(block: Any, coded: Coded, active: np.ndarray, group: Any) -> None:
    _, *sources = coded.slots
    warps_of(block, active)
    threads, addresses = rows_addressed(block, coded, active)
    rows = np.zeros((block.threads, 8), np.uint16)
    known = np.ones((block.threads, 8), bool)
    lane = np.arange(block.threads) % WARP
    first = np.arange(block.threads) - lane
    for i, source in enumerate(sources):
        halves = block.registers[source].view(np.uint16).reshape(-1, 2)
        matrix = first[:, None] + 8 * i
        if coded.form["trans"]:
            row, column = matrix + 2 * (lane % 4)[:, None] + np.arange(2), (lane // 4)[:, None]
        else:
            row, column = matrix + (lane // 4)[:, None], 2 * (lane % 4)[:, None] + np.arange(2)
        rows[row, np.broadcast_to(column, row.shape) if coded.form["trans"] else column] = halves
        known[row, np.broadcast_to(column, row.shape) if coded.form["trans"] else column] = (
            block.known[source] == WHOLE
        )[:, None]
    for piece in memory.pieces(block, "shared", threads, addresses, ROW_BYTES, "writes"):
        own = piece.access.threads
        values = np.ascontiguousarray(rows[own]).view(np.uint8).reshape(len(own), ROW_BYTES)
        memory.write(block, piece, values, known[own].all(1, keepdims=True))


class Fragments(NamedTuple):
    """Where the numbers of a fragment lie in the matrix: [registers, lanes, numbers a register]."""

    rows: np.ndarray
    columns: np.ndarray


def fragment_a(registers: int, packed: bool) -> Fragments:
    """A [16, k]: registers of two 16-bit numbers, or of one."""
    i, lane, h = np.ogrid[:registers, :WARP, : 2 if packed else 1]
    width = 2 if packed else 1
    return _broadcast(lane // 4 + 8 * (i % 2), width * (lane % 4) + h + 4 * width * (i // 2))


def fragment_b(registers: int, packed: bool) -> Fragments:
    """B [k, 8]"""
    i, lane, h = np.ogrid[:registers, :WARP, : 2 if packed else 1]
    width = 2 if packed else 1
    return _broadcast(width * (lane % 4) + h + 4 * width * i, lane // 4)


def fragment_c(registers: int) -> Fragments:
    """C [16, 8 · registers / 4]: one number a register."""
    i, lane, h = np.ogrid[:registers, :WARP, :1]
    return _broadcast(lane // 4 + 8 * (i // 2 % 2) + 0 * h, 8 * (i // 4) + 2 * (lane % 4) + i % 2 + 0 * h)


def _broadcast(rows: np.ndarray, columns: np.ndarray) -> Fragments:
    return Fragments(*np.broadcast_arrays(rows, columns))


def gathered(
    block: Any, slots: tuple[int, ...], places: Fragments, warp: int, kind: str
) -> tuple[np.ndarray, np.ndarray]:
    """The matrix that the registers of a warp hold, in float64, and where it is defined."""
    own = slice(warp * WARP, (warp + 1) * WARP)
    bits = np.stack([block.registers[slot][own] for slot in slots])
    known = np.stack([block.known[slot][own] == WHOLE for slot in slots])
    numbers = numbers_of(bits, kind).reshape(places.rows.shape)
    matrix = np.zeros((places.rows.max() + 1, places.columns.max() + 1))
    defined = np.zeros(matrix.shape, bool)
    matrix[places.rows, places.columns] = numbers
    defined[places.rows, places.columns] = known[:, :, None]
    return matrix, defined


def numbers_of(bits: np.ndarray, kind: str) -> np.ndarray:
    if kind == "tf32":
        return loaded(bits & np.uint32(0xFFFFE000), "f32").astype(np.float64)
    if kind == "f32":
        return loaded(bits, "f32").astype(np.float64)
    return loaded(np.ascontiguousarray(bits).view(np.uint16), kind).astype(np.float64)


def product(a: np.ndarray, b: np.ndarray, c: np.ndarray) -> np.ndarray:
    """a · b + c: the products added in the order of k, then c."""
    total = np.zeros(c.shape)
    for k in range(a.shape[1]):
        total = total + a[:, k, None] * b[None, k]
    return (total + c).astype(np.float32)


def scatter(
    block: Any, slots: tuple[int, ...], places: Fragments, warp: int, matrix: np.ndarray, known: np.ndarray
) -> None:
    own = np.zeros(block.threads, bool)
    own[warp * WARP : (warp + 1) * WARP] = True
    bits = stored(matrix, "f32")
    for i, slot in enumerate(slots):
        row, column = places.rows[i, :, 0], places.columns[i, :, 0]
        block.put(slot, own, bits[row, column], _flags(known[row, column]))


def _flags(known: np.ndarray) -> np.ndarray:
    return np.where(known, WHOLE, 0).astype(np.uint8)


def multiply(block: Any, coded: Coded, active: np.ndarray, group: Any) -> None:
    kind = coded.form["type"]
    in_a, in_b = coded.numbers
    d, a = coded.slots[:4], coded.slots[4 : 4 + in_a]
    b, c = coded.slots[4 + in_a : 4 + in_a + in_b], coded.slots[4 + in_a + in_b :]
    packed = kind != "tf32"
    for warp in warps_of(block, active):
        a_mk, a_known = gathered(block, a, fragment_a(in_a, packed), warp, kind)
        b_kn, b_known = gathered(block, b, fragment_b(in_b, packed), warp, kind)
        c_mn, c_known = gathered(block, c, fragment_c(4), warp, "f32")
        known = a_known.all(1)[:, None] & b_known.all(0)[None] & c_known
        scatter(block, d, fragment_c(4), warp, product(a_mk, b_kn, c_mn), known)


ACTIONS = {"load_matrix": load_matrix, "store_matrix": store_matrix, "multiply": multiply}
