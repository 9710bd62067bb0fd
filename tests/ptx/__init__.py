"""Runs the compiled code of GPU kernels without a GPU, and tells what is wrong with it and what it moves.

source       PTX text → kernels
table/       what every instruction means
syntax, tokens, parsing  what the text says
decoding, operands       a kernel as a program, which the engines execute
interpreter/ the engine in numpy
native       the engine in C++
launching    arguments, orders of blocks, results
triton_device  Triton's launches, executed here
"""

from .decoding import NotExecuted, decoded
from .findings import Finding, FindingsError
from .launching import Buffer, Pointer, Result, Struct, array, launch
from .program import Program
from .source import kernels
from .syntax import Kernel, PTXError
from .table import UnknownInstruction
from .triton_device import Device, device, execute

__all__ = [
    "Buffer",
    "Device",
    "Finding",
    "FindingsError",
    "Kernel",
    "NotExecuted",
    "PTXError",
    "Pointer",
    "Program",
    "Result",
    "Struct",
    "UnknownInstruction",
    "array",
    "decoded",
    "device",
    "execute",
    "kernels",
    "launch",
]
