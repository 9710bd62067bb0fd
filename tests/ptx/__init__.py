"""Runs the compiled code of GPU kernels without a GPU, and tells what is wrong with it and what it moves.

source       PTX text → kernels
table/       what every instruction means
program      a kernel, decoded
interpreter/ the engine in numpy
native       the engine in C++
launching    arguments, orders of blocks, results
triton_device  Triton's launches, executed here
"""

from .findings import Finding, FindingsError
from .launching import Buffer, Pointer, Result, Struct, array, launch
from .program import NotExecuted, Program, decoded
from .source import Kernel, PTXError, kernels
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
