"""int8 after training: onnxruntime's static quantisation of an exported student, with what it costs."""

import contextlib
import logging
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from fastkd.data import Source, evaluation_source
from fastkd.run.export import imported, session_of
from fastkd.run.job import EVALUATION_BATCH, Job
from fastkd.support.files import read_bytes, write_bytes

CALIBRATED = 512
"""Training images, at most, whose activations decide on the scales."""
_KINDS = ("Conv", "Gemm", "MatMul")


class Cost(NamedTuple):
    """What the quantisation of a file changed."""

    bytes_before: int
    bytes_after: int
    right_before: int
    """Test images that it was right about."""
    right_after: int
    samples: int
    quantised: int
    """Layers with weights of 8 bits."""
    layers: int

    def words(self) -> str:
        before, after = (100 * right / self.samples for right in (self.right_before, self.right_after))
        sizes = f"{self.bytes_before / 1e6:.2f} to {self.bytes_after / 1e6:.2f} MB"
        right = f"top-1 {before:.2f} to {after:.2f}% of {self.samples:,} test images"
        return f"int8: {self.quantised} of {self.layers} layers, {sizes}, {right}"


def quantise(path: Path, job: Job) -> Cost:
    """Replaces FILE.onnx by one with weights and activations of 8 bits; the job's training images decide on the scales.

    Raises UserError where onnxruntime is missing.
    """
    quantization = imported("onnxruntime.quantization")
    before = read_bytes(path)
    with tempfile.TemporaryDirectory() as folder, _quietly():
        prepared, made = (str(Path(folder) / name) for name in ("prepared.onnx", "made.onnx"))
        imported("onnxruntime.quantization.shape_inference").quant_pre_process(str(path), prepared)
        kinds = quantization.QuantType
        quantization.quantize_static(
            prepared,
            made,
            _reader(quantization, job),
            quant_format=quantization.QuantFormat.QDQ,
            op_types_to_quantize=list(_KINDS),
            per_channel=True,
            activation_type=kinds.QUInt8,
            weight_type=kinds.QInt8,
        )
        after = read_bytes(Path(made))
    quantised, layers = _layers(after)
    tested = job.test_source()
    right_before, right_after = (_right(content, tested) for content in (before, after))
    write_bytes(path, after)
    return Cost(len(before), len(after), right_before, right_after, tested.samples, quantised, layers)


def _reader(quantization: Any, job: Job) -> Any:
    batches = ({"images": images} for images, _ in _batches(_calibrating(job)))

    class Reader(quantization.CalibrationDataReader):
        def get_next(self) -> dict[str, np.ndarray] | None:
            return next(batches, None)

    return Reader()


def _calibrating(job: Job) -> Source:
    """Some of the training images, prepared as in a test."""
    train = job.data.train
    count = min(len(train), CALIBRATED)
    chosen = np.sort(np.random.Generator(np.random.Philox(4)).permutation(len(train))[:count])
    data = replace(job.data, test=train.take(chosen))
    crop = job.recipe.augmentation.evaluated
    return evaluation_source(data, job.feeding, batch_size=min(count, EVALUATION_BATCH), crop=crop)


def _batches(source: Source) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Images and labels, on the CPU."""
    zero = torch.zeros((), dtype=torch.int64)
    for raw in source.loader.epoch(0):
        batch = source.prepare(raw, zero, zero)
        yield batch.images[0].float().contiguous().numpy(), batch.labels.numpy()


def _right(content: bytes, source: Source) -> int:
    session = session_of(content)
    return sum(
        int((session.run(None, {"images": images})[0].argmax(1) == labels).sum()) for images, labels in _batches(source)
    )


def _layers(content: bytes) -> tuple[int, int]:
    """How many layers have weights of 8 bits, and how many layers there are."""
    graph = imported("onnx").load_from_string(content).graph
    from_bytes = {out for node in graph.node if node.op_type == "DequantizeLinear" for out in node.output}
    layers = [node for node in graph.node if node.op_type in _KINDS]
    return sum(len(node.input) > 1 and node.input[1] in from_bytes for node in layers), len(layers)


@contextlib.contextmanager
def _quietly() -> Iterator[None]:
    """onnxruntime advises by the root logger to do what is done."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(before)
