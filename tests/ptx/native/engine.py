"""The engine in C++ as `interpreter.Run` is: what `machine.h` declares, filled from a program and its memory."""

import ctypes
from collections.abc import Sequence
from functools import cache
from typing import Any

import numpy as np

from ..counting import PerInstruction
from ..findings import KINDS
from ..forms import Lane, Machine
from ..interpreter import Found
from ..interpreter.clocks import SCOPES, SYSTEM
from ..memories import Region
from ..program import NONE, SPECIAL, Coded, Program
from ..table import LANES
from . import library

MOST_FOUND = 512

_ACTIONS = (
    *("lane", "load", "store", "atomic", "copy", "commit_copies", "wait_for_copies", "fence", "proxy_fence", "nothing"),
    *(
        "branch",
        "end",
        "trap",
        "call",
        "barrier",
        "arrive",
        "warp_barrier",
        "shuffle",
        "vote",
        "reduce",
        "elect",
        "active",
    ),
    *("pack", "load_matrix", "store_matrix", "multiply", "matrix_fence", "commit_matrices", "wait_for_matrices"),
    "multiply_async",
)
_KNOWN = ("all", "same", "select", "and", "or", "lower")
_SEMANTICS = ("", "relaxed", "acquire", "release", "acq_rel")
_OPERATIONS = ("add", "and", "or", "xor", "min", "max", "exch", "inc", "dec", "cas")
_NUMBERS = ("u32", "s32", "u64", "s64", "f32", "f64", "f16", "bf16", "tf32")
_REDUCTIONS = ("", "and", "or", "popc", "all", "any", "uni", "ballot", "add", "min", "max", "xor")
_MODES = ("up", "down", "bfly", "idx")
_LANE_NUMBERS = {opcode: number for number, opcode in enumerate(LANES)}

_S32, _S64 = ctypes.c_int32, ctypes.c_int64


class _Instruction(ctypes.Structure):
    _fields_ = (
        *(
            (name, _S32)
            for name in ("action", "lane", "guard", "unless", "first", "count", "written_from", "written_to")
        ),
        ("numbers", _S64 * 5),
        ("details", _S32 * 5),
    )


class _Slot(ctypes.Structure):
    _fields_ = (("bits", _S32), ("special", _S32), ("value", ctypes.c_uint64))


class _Region(ctypes.Structure):
    _fields_ = (
        ("data", ctypes.c_void_p),
        ("bytes", _S64),
        ("flags", ctypes.c_void_p),
        ("cells", _S64),
        ("cell", _S32),
        ("tracked", _S32),
        ("name", ctypes.c_char_p),
    )


class _Found(ctypes.Structure):
    _fields_ = (
        *((name, _S32) for name in ("kind", "place", "block", "thread", "other", "times")),
        ("detail", ctypes.c_char * 160),
    )


class _Launch(ctypes.Structure):
    _fields_ = (
        ("code", ctypes.c_void_p),
        ("operands", ctypes.c_void_p),
        ("slots", ctypes.c_void_p),
        ("parameters", ctypes.c_void_p),
        ("regions", ctypes.c_void_p),
        ("found", ctypes.c_void_p),
        ("order", ctypes.c_void_p),
        *((name, ctypes.c_void_p) for name in PerInstruction.FIELDS),
        ("most_steps", _S64),
        *(
            (name, _S32)
            for name in ("instructions", "slot_count", "region_count", "most_found", "found_count", "blocks")
        ),
        ("grid", _S32 * 3),
        ("block", _S32 * 3),
        *((name, _S32) for name in ("shared_bytes", "shared_cell", "approximation", "checked", "matrices")),
    )


class Encoded:
    """A program as the engine takes it."""

    def __init__(self, program: Program):
        self.code = (_Instruction * len(program.code))()
        operands: list[int] = []
        for given, coded in zip(self.code, program.code, strict=True):
            _fill(given, coded, len(operands))
            operands += coded.slots
        self.operands = np.array(operands or [0], np.int32)
        self.slots = (_Slot * max(len(program.slots), 1))()
        for given, slot in zip(self.slots, program.slots, strict=False):
            given.bits = slot.bits
            if slot.value is not None:
                given.special, given.value = 1, slot.value
            elif slot.name in SPECIAL:
                given.special = 2 + SPECIAL.index(slot.name)


def _fill(given: _Instruction, coded: Coded, first: int) -> None:
    given.action = _ACTIONS.index(coded.action)
    given.guard, given.unless = coded.guard, coded.unless
    given.first, given.count = first, len(coded.slots)
    given.written_from, given.written_to = coded.written_range
    for i, number in enumerate(coded.numbers):
        given.numbers[i] = number
    if isinstance(coded.form, Lane):
        given.lane = _LANE_NUMBERS[coded.form.opcode]
        given.details[0] = _KNOWN.index("same" if coded.form.halves else coded.form.known)
        return
    for i, detail in enumerate(_details(coded, coded.form)):
        given.details[i] = detail


def _details(coded: Coded, form: Machine) -> tuple[int, ...]:
    found = form.details
    if coded.action in ("load", "store", "atomic"):
        space = 2 if form["space"] == "param" else int(form["space"].startswith("shared"))
        volatile = found.get("semantics") == "volatile"
        default = "relaxed" if coded.action == "atomic" else ""
        semantics = _SEMANTICS.index("relaxed" if volatile else found.get("semantics") or default)
        scope = SYSTEM if volatile else SCOPES[found.get("scope", "")]
        if coded.action != "atomic":
            return space, semantics, scope
        kind = form["type"].replace("b", "u")
        return space, semantics, scope, _OPERATIONS.index(form["operation"]), _NUMBERS.index(kind)
    if coded.action == "fence":
        return (SCOPES[form["scope"]],)
    if coded.action == "barrier":
        aligned = form.opcode.startswith("bar.") or bool(found.get("aligned"))
        return _REDUCTIONS.index(found.get("reduction", "")), int(aligned)
    if coded.action == "shuffle":
        return (_MODES.index(form["mode"]),)
    if coded.action == "vote":
        return (_REDUCTIONS.index(form["reduction"]),)
    if coded.action == "reduce":
        kind = _NUMBERS.index(form["type"].replace("b", "u"))
        return _REDUCTIONS.index(form["reduction"]), kind, int(bool(found.get("absolute"))), int(bool(found.get("nan")))
    if coded.action in ("load_matrix", "store_matrix"):
        return (int(bool(form["trans"])),)
    if coded.action == "multiply":
        return (_NUMBERS.index(form["type"]),)
    if coded.action == "multiply_async":
        return _NUMBERS.index(form["type"]), int(form["n"])
    return ()


@cache
def encoded(program: Program) -> Encoded:
    return Encoded(program)


class Run:
    """One execution of the blocks of a launch, in an order."""

    def __init__(
        self,
        program: Program,
        regions: list[Region],
        parameters: np.ndarray,
        *,
        grid: tuple[int, int, int],
        block: tuple[int, int, int],
        shared_bytes: int,
        approximation: int,
        most_steps: int,
        checked: bool,
    ):
        self.program, self.regions = program, regions
        self.counts = PerInstruction(program)
        self.found: dict[tuple[int, int], Found] = {}
        given = encoded(program)
        self.kept: list[Any] = [given, parameters]
        self.given_regions = (_Region * max(len(regions), 1))()
        for item, region in zip(self.given_regions, regions, strict=False):
            item.data, item.bytes = region.data.ctypes.data, len(region.data)
            item.flags, item.cells, item.cell = region.flags.ctypes.data, region.cells, region.cell
            item.tracked, item.name = region.tracked, region.name.encode()
        self.given_found = (_Found * MOST_FOUND)()
        self.launch = _Launch(
            code=ctypes.addressof(given.code),
            operands=given.operands.ctypes.data,
            slots=ctypes.addressof(given.slots),
            parameters=parameters.ctypes.data,
            regions=ctypes.addressof(self.given_regions),
            found=ctypes.addressof(self.given_found),
            most_steps=most_steps,
            instructions=len(program.code),
            slot_count=len(program.slots),
            region_count=len(regions),
            most_found=MOST_FOUND,
            shared_bytes=shared_bytes,
            shared_cell=program.cell["shared"],
            approximation=approximation,
            checked=checked,
            matrices="multiply_async" in program.actions,
            **{name: getattr(self.counts, name).ctypes.data for name in PerInstruction.FIELDS},
        )
        self.launch.grid[:], self.launch.block[:] = grid, block

    def execute(self, order: Sequence[int]) -> None:
        numbers = np.array(order, np.int32)
        self.launch.order, self.launch.blocks = numbers.ctypes.data, len(numbers)
        library().run_launch(ctypes.byref(self.launch))
        for item in self.given_found[: self.launch.found_count]:
            place = (item.block, item.thread, item.other, item.times)
            self.found[item.kind, item.place] = Found(item.kind, item.place, *place, item.detail.decode())


assert len(KINDS) == 14 and NONE == -1, "machine.h names the kinds by their places"
