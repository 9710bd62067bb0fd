"""A device for Triton that is not there: its launches compile for a real architecture and run in the executor.

    with device("sm_90") as gpu:
        loss = kd_loss(student, teacher, labels, …)  # tensors of the CPU
    gpu.launches[0].counts

Triton takes drivers from anybody; this one compiles as far as PTX (no ptxas), binds arguments exactly as for a GPU
(alignment, ones, constants), and calls `launching.launch` where a driver would call CUDA. Compiled kernels are kept by
the hash of their source, in Triton's own cache, in a folder of ours.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cache
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from . import source
from .decoding import decoded
from .launching import Buffer, Pointer, Result, launch
from .places import cache_folder
from .program import Program

ARCHITECTURES = ("sm_80", "sm_90", "sm_100")
POISON = 0x7FF5
"""What fresh memory is filled with, 16 bits at a time: NaN in every floating-point type. A byte that still holds it
when a kernel starts was never written."""


class Fresh(NamedTuple):
    """Memory that was allocated without being filled."""

    storage: torch.UntypedStorage
    """Kept alive, so that nothing else is at its address: the tensor may be given other memory (deepcopy does so)."""
    element: int
    """Bytes of a number."""


class Device:
    """What was launched on it, and how launches are run."""

    def __init__(self, architecture: str, **options):
        self.architecture = architecture
        self.options = options
        """Of `launching.launch`."""
        self.launches: list[Result] = []
        self.programs: list[Program] = []
        self.edit: Callable[[str], str] = lambda text: text
        """Changes the PTX of every kernel before it is read."""
        self.fresh: dict[int, Fresh] = {}
        """By address."""

    @property
    def number(self) -> int:
        return int(self.architecture.removeprefix("sm_"))

    def __getitem__(self, kernel: str) -> Result:
        """The last launch of a kernel."""
        return next(result for result in reversed(self.launches) if result.kernel == kernel)

    def empty(self, made: Tensor) -> Tensor:
        """Marks a tensor as never written."""
        data = _storage(made)
        if made.element_size() > 1 and len(data):
            data.view(np.uint16)[:] = POISON
            self.watch(made)
        return made

    def watch(self, made: Tensor) -> None:
        """From now on what holds the poison in this tensor's memory was never written."""
        storage = made.untyped_storage()
        self.fresh[storage.data_ptr()] = Fresh(storage, made.element_size())

    def is_fresh(self, tensor: Tensor) -> bool:
        return tensor.untyped_storage().data_ptr() in self.fresh

    def launch(self, text: str, grid: Sequence[int], threads: int, shared: int, arguments: list[Any]) -> None:
        program = program_of(self.edit(text))
        buffers: dict[int, Buffer] = {}
        converted = [self.argument(value, buffers) for value in arguments]
        self.programs.append(program)
        self.launches.append(launch(program, grid, threads, converted, shared_bytes=shared, **self.options))

    def argument(self, value: Any, buffers: dict[int, Buffer]) -> Any:
        if not isinstance(value, Tensor):
            return value
        data = _storage(value)
        address = data.ctypes.data
        if address not in buffers:
            buffers[address] = Buffer(data, given=np.zeros(len(data), bool), written=self.written(data))
        given = buffers[address].given
        assert given is not None
        given |= _bytes_of(value, len(data))
        return Pointer(buffers[address], value.storage_offset() * value.element_size())

    def written(self, data: np.ndarray) -> np.ndarray | None:
        if data.ctypes.data not in self.fresh:
            return None
        halves = data.view(np.uint16).reshape(-1, self.fresh[data.ctypes.data].element // 2)
        return np.repeat((halves != POISON).any(1), 2 * halves.shape[1])


def _storage(tensor: Tensor) -> np.ndarray:
    storage = tensor.detach().untyped_storage()
    return torch.tensor([], dtype=torch.uint8).set_(storage).numpy()  # pyright: ignore[reportArgumentType]


def _bytes_of(tensor: Tensor, size: int) -> np.ndarray:
    """Which bytes of its storage a tensor names."""
    element = tensor.element_size()
    marks = torch.zeros(size // element, dtype=torch.bool)
    if tensor.numel():
        torch.as_strided(marks, tensor.size(), tensor.stride(), tensor.storage_offset()).fill_(True)
    return np.pad(np.repeat(marks.numpy(), element), (0, size % element))


@cache
def program_of(text: str) -> Program:
    (kernel,) = source.kernels(text).values()
    return decoded(kernel)


_current: Device | None = None


class _Utils:
    @staticmethod
    def get_device_properties(device: int) -> dict[str, int]:
        return {"max_shared_mem": 232448 if device >= 90 else 166912, "multiprocessor_count": 132, "warpSize": 32}

    @staticmethod
    def load_binary(name: str, binary: bytes, shared: int, device: int):
        return None, binary.decode(), 0, 0, 1024


class _Launcher:
    def __init__(self, compiled_source: Any, metadata: Any):
        self.types = list(compiled_source.signature.values())
        self.threads = metadata.num_warps * 32
        self.shared = metadata.shared

    def __call__(self, x: int, y: int, z: int, stream: int, text: str, *rest: Any) -> None:
        arguments = [flat for kind, value in zip(self.types, rest[4:], strict=True) for flat in _flattened(kind, value)]
        assert _current is not None
        _current.launch(text, (x, y, z), self.threads, self.shared, arguments)


def _flattened(kind: Any, value: Any) -> Iterator[Any]:
    """The arguments that are none of the compiler's constants."""
    if isinstance(kind, tuple):
        for one, part in zip(kind, value, strict=True):
            yield from _flattened(one, part)
    elif kind != "constexpr":
        yield value


def _driver(device: Device):
    from triton.backends.compiler import GPUTarget
    from triton.backends.driver import DriverBase

    class Driver(DriverBase):
        utils = _Utils()
        launcher_cls = _Launcher

        @classmethod
        def is_active(cls) -> bool:
            return True

        def get_current_target(self):
            return GPUTarget("cuda", device.number, 32)

        def get_current_device(self) -> int:
            return device.number  # kernels of several architectures are kept apart by it

        def get_current_stream(self, device: int) -> int:
            return 0

        def get_active_torch_device(self) -> torch.device:
            return torch.device("cpu")

        def map_python_to_cpp_type(self, ty: str) -> str:
            return ty

        def get_benchmarker(self):
            raise NotImplementedError("nothing is timed here")

    return Driver()


def _without_ptxas(backend: Any, stages: dict[str, Any], *unused: Any) -> None:
    """What Triton takes for the binary is the PTX."""
    stages["cubin"] = lambda text, metadata: text.encode()


@contextmanager
def device(architecture: str, **options) -> Iterator[Device]:
    """Launches of Triton kernels within run in the executor, on tensors of the CPU. options: of `launching.launch`."""
    global _current
    from triton import knobs
    from triton.runtime.driver import driver

    made, before = Device(architecture, **options), driver._active
    hook, folder = knobs.runtime.add_stages_inspection_hook, knobs.cache.dir
    knobs.runtime.add_stages_inspection_hook = _without_ptxas
    knobs.cache.dir = str(cache_folder() / "triton")
    driver.set_active(_driver(made))
    _current = made
    try:
        with _poisoned(made):
            yield made
    finally:
        _current = None
        driver._active = before
        knobs.runtime.add_stages_inspection_hook, knobs.cache.dir = hook, folder


@contextmanager
def _poisoned(made: Device) -> Iterator[None]:
    """torch.empty and its like mark what they give as never written."""
    places = ((torch, "empty"), (torch, "empty_like"), (Tensor, "new_empty"))
    plain = [getattr(holder, name) for holder, name in places]

    def marking(function: Callable[..., Tensor]) -> Callable[..., Tensor]:
        def marked(*arguments: Any, **options: Any) -> Tensor:
            made_ = function(*arguments, **options)
            return made.empty(made_) if type(made_) is Tensor and made_.device.type == "cpu" else made_

        return marked

    for (holder, name), function in zip(places, plain, strict=True):
        setattr(holder, name, marking(function))
    try:
        yield
    finally:
        for (holder, name), function in zip(places, plain, strict=True):
            setattr(holder, name, function)


def execute(
    kernel: Any,
    grid: Sequence[int],
    arguments: Mapping[str, Any],
    *,
    arch: str = "sm_90",
    edit: Callable[[str], str] | None = None,
    **options,
) -> Result:
    """One Triton kernel on tensors of the CPU, which it changes in place.

    arguments: by name, as the kernel is called, launch options (num_warps, maxnreg …) among them. options: of
    `launching.launch`.
    """
    with device(arch, **options) as gpu:
        if edit is not None:
            gpu.edit = edit
        kernel[tuple(grid)](**arguments)
    return gpu.launches[-1]
