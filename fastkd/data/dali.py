"""Images that DALI decodes as they are needed: all of it on a CPU, or decoding, cutting and resizing on a GPU.

fastkd says which images and which crops come when: DALI's own shuffling and random crops depend on more than the seed.
One call a batch hands over paths and boxes; out come bytes [V,B,H,W,3] on the device, and the indices.
"""

import importlib
import re
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fastkd.data.base import RawBatch
from fastkd.data.dali_source import BatchSource
from fastkd.data.failures import Failures
from fastkd.data.order import InOrder, Order
from fastkd.data.streaming import PixelPlan, consequence
from fastkd.support.errors import UserError

# This module is imported where DALI is installed and wanted; type checkers run also where it is not.
fn: Any = importlib.import_module("nvidia.dali.fn")
types: Any = importlib.import_module("nvidia.dali.types")
pipeline_def: Any = importlib.import_module("nvidia.dali").pipeline_def
feed_ndarray: Any = importlib.import_module("nvidia.dali.plugin.pytorch").feed_ndarray

PREFETCH = 2
HW_DECODER_LOAD = 0.65  # share of the JPEGs that go to the GPU's decoding unit; the best value differs by machine
_HINT_QUANTILE = 0.999  # of the sizes that buffers are made for: one huge image in a million must not decide


class DALILoader:
    """Yields raw batches with pixels [V,B,H,W,3], which do not depend on the number of threads."""

    def __init__(
        self,
        plan: PixelPlan,
        classes: tuple[str, ...],
        order: Order | InOrder,
        failures: Failures,
        *,
        threads: int,
        device: torch.device | None = None,
    ):
        self.labels, self.classes, self._order, self.plan = plan.split.labels, classes, order, plan
        self.samples, self.steps, self.failures = order.samples, order.steps, failures
        self._threads = threads
        self.hw_decoder_load = HW_DECODER_LOAD
        """Share of the JPEGs that go to a GPU's decoding unit, 0 to 1; a change counts when a pipeline is built."""
        self._gpu = None if device is None or device.type == "cpu" else device
        self._source = BatchSource(plan)
        self._pipeline: Any = None
        self._drained = False  # the pipeline stands at the end of an epoch and can begin another

    def epoch(self, epoch: int, start: int = 0) -> Iterator[RawBatch]:
        source = self._source
        source.begin(epoch)
        remaining = list(self._order.epoch(epoch, start))
        while True:
            planned = [(index, used) for index in remaining if len(used := source.usable(index))]
            source.batches = [used for _, used in planned]
            done = 0
            try:
                for raw in self._run():
                    done += 1
                    yield raw
                return
            except _DecoderFails as error:
                self._pipeline = None  # a pipeline that failed once is of no use any more
                self._explain(error, source.batches[done:][: PREFETCH + 1])
                remaining = [index for index, _ in planned[done:]]

    def _run(self) -> Iterator[RawBatch]:
        self._make_ready()
        for _ in self._source.batches:
            try:
                raw = self._next()
            except StopIteration:
                raise AssertionError("the source ended before its batches did") from None
            except RuntimeError as error:
                raise _DecoderFails(str(error)) from error
            self._tell()
            yield raw
        self._drain()

    def _make_ready(self) -> None:
        """Brings the pipeline to the begin of an epoch.

        There is one for all epochs: to build another takes seconds on a GPU, and the buffers of two for a while.
        """
        if self._pipeline is not None and not self._drained:  # an epoch was left in its middle, as in warming up
            batches, self._source.batches = self._source.batches, []
            self._drain()
            self._source.batches = batches
        if self._pipeline is None:
            self._pipeline = self._build()
        else:
            self._pipeline.reset()
        self._drained = False

    def _drain(self) -> None:
        """Takes what the pipeline has prepared; its source has no more batches."""
        try:
            while True:
                self._pipeline.run()
        except StopIteration:
            self._drained = True
        except RuntimeError:
            self._pipeline = None

    def _next(self) -> RawBatch:
        size, views = self.plan.image_size, self.plan.images
        if self._gpu is None:
            images, index = self._pipeline.run()
            pixels = torch.empty(len(images), size, size, 3, dtype=torch.uint8)
            feed_ndarray(images.as_tensor(), pixels)  # a copy: DALI fills the same memory again
        else:
            pixels, index = self._next_on_gpu(size)
        places = torch.from_numpy(np.array(index.as_tensor()))
        index = places[: len(places) // views]
        return RawBatch(index, pixels.view(views, -1, size, size, 3), paired=self._order.paired)

    def _next_on_gpu(self, size: int) -> tuple[Tensor, Any]:
        """Copies the pixels on a stream of its own, which does not wait for the step that is running."""
        stream = self._stream
        stream.synchronize()  # the copy out of DALI's previous outputs has to end before they are freed
        images, index = self._pipeline.run(stream)
        with torch.cuda.stream(stream):
            pixels = torch.empty(len(images), size, size, 3, dtype=torch.uint8, device=self._gpu)
            feed_ndarray(images.as_tensor(), pixels, cuda_stream=stream)
        self._kept = images
        current = torch.cuda.current_stream(self._gpu)
        current.wait_stream(stream)
        pixels.record_stream(current)
        return pixels, index

    def _build(self) -> Any:
        gpu, plan = self._gpu, self.plan
        device_id = None
        if gpu is not None:
            device_id = torch.cuda.current_device() if gpu.index is None else gpu.index
            self._stream = torch.cuda.Stream(gpu)
        pipeline = _graph(
            batch_size=self._order.largest * plan.images * (2 if self._order.paired else 1),
            num_threads=self._threads,
            device_id=device_id,
            prefetch_queue_depth=PREFETCH,
            source=self._source,
            plan=plan,
            gpu=gpu is not None,
            hw_decoder_load=self.hw_decoder_load,
        )
        pipeline.build()
        return pipeline

    def _explain(self, error: RuntimeError, batches: list[Tensor]) -> None:
        """Finds out which image a pipeline broke on: DALI does not say. Raises UserError if there is no remedy."""
        source = self._source
        places = [place for batch in batches for place in batch.tolist()]
        with ThreadPoolExecutor(max_workers=self._threads) as pool:
            reasons = list(pool.map(source.examine, places))
        bad = {place: reason for place, reason in zip(places, reasons, strict=True) if reason}
        if bad:
            source.bad |= bad
            self._tell()
            return
        # Pillow reads them all, so it shall read the suspects and write them again for DALI.
        named = re.search(r"Failed to decode sample #(\d+)", str(error))
        first = batches[0].tolist()
        suspects = {first[int(named[1]) % len(first)]} if named else set(first)
        if not suspects - source.odd:
            words = next((line for line in str(error).splitlines() if line and "pipeline" not in line), str(error))
            raise UserError(f"DALI cannot go on: {words.strip()}; --loader torchvision does without it") from error
        source.odd |= suspects

    def _tell(self) -> None:
        if self._source.bad:
            records = self.plan.split.records
            found = {records[place]: reason for place, reason in self._source.bad.items()}
            self.failures.add(found, while_reading=True, consequence=consequence(self.plan))


class _DecoderFails(RuntimeError):
    """An error of any of DALI's operators."""


@pipeline_def
def _graph(source: BatchSource, plan: PixelPlan, gpu: bool, hw_decoder_load: float):
    """DALI's graph of a batch: images [N,H,W,3] and row numbers [N]."""
    contents, first, second, index = fn.external_source(
        source=source,
        num_outputs=4,
        batch=True,
        dtype=[types.UINT8, types.INT32, types.INT32, types.INT64],
        ndim=[1, 1, 1, 0],
    )
    encoded = fn.io.file.read(contents) if source.gives_paths else contents
    size = plan.image_size
    reading: dict[str, Any] = {"output_type": types.RGB, "adjust_orientation": False}
    if gpu:
        width, height = np.quantile(plan.split.sizes, _HINT_QUANTILE, axis=0).astype(int).tolist()
        reading |= {
            "device": "mixed",
            "hw_decoder_load": hw_decoder_load,
            "preallocate_width_hint": width,
            "preallocate_height_hint": height,
            "jpeg_fancy_upsampling": True,  # as libjpeg does, and Pillow with it
        }
    resizing = {"interp_type": types.INTERP_LINEAR, "antialias": True, "subpixel_scale": False}
    if plan.random_boxes:
        images = fn.decoders.image_slice(encoded, start=first, shape=second, axis_names="HW", **reading)
        return fn.resize(images, size=[size, size], **resizing), index
    images = fn.resize(fn.decoders.image(encoded, **reading), size=fn.cast(first, dtype=types.FLOAT), **resizing)
    return fn.slice(images, start=second, shape=[size, size], axis_names="HW"), index
