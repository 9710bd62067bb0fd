"""A student as a file for whoever serves it: a torch.export program, or ONNX."""

import importlib
import io
import json
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fastkd.data.boxes import evaluation_size
from fastkd.networks.base import Network
from fastkd.run.description import KEY, Description, to_metadata
from fastkd.support.errors import UserError
from fastkd.support.files import write_bytes
from fastkd.support.paths import is_folder, is_there

_HINT = "pip install 'fastkd[onnx]'"
TOLERANCE = 1e-4
"""The most that ONNX's logits may differ from torch's, of the largest logit."""
_CHECKED = ((1, 0), (3, 1))
"""(images in a batch, seed) of what an ONNX file is tried on before it counts."""


class Logits(nn.Module):
    """From normalised images [B,3,S,S] to logits [B,K]."""

    def __init__(self, network: Network):
        super().__init__()
        self.network = network

    def forward(self, images_BCHW: Tensor) -> Tensor:
        return self.network(images_BCHW).logits


class FromPixels(nn.Module):
    """From images [B,3,H,W] uint8 of any size to logits [B,K]: resized, cropped and normalised as in the tests."""

    def __init__(self, network: Network, description: Description):
        super().__init__()
        if description.mean is None or description.std is None:
            raise UserError(f"--preprocess: the file of {description.network} does not say mean and deviation")
        self.network = network
        self.crop_to = description.image_size
        self.squeezes = description.crop == "squeezed"
        self.resize_to = evaluation_size(description.crop or "resized", description.image_size)
        self.mean: Tensor
        self.std: Tensor
        self.register_buffer("mean", torch.tensor(description.mean).view(3, 1, 1) * 255)
        self.register_buffer("std", torch.tensor(description.std).view(3, 1, 1) * 255)

    def forward(self, images_BCHW: Tensor) -> Tensor:
        size = self._resized(*images_BCHW.shape[2:])
        pixels = F.interpolate(images_BCHW.float(), size=size, mode="bilinear", antialias=True).round().clamp(0, 255)
        inside = torch.arange(self.crop_to, device=pixels.device)  # a slice's length would depend on the data
        pixels = pixels.index_select(2, inside + _half(size[0] - self.crop_to))
        pixels = pixels.index_select(3, inside + _half(size[1] - self.crop_to))
        return self.network((pixels - self.mean) / self.std).logits

    def _resized(self, height: int, width: int) -> tuple[int, int]:
        if self.squeezes:
            return self.resize_to, self.resize_to
        shorter: int = torch.sym_min(height, width)  # pyright: ignore[reportAssignmentType]
        return height * self.resize_to // shorter, width * self.resize_to // shorter


def _half(length: int) -> int:
    """Half of a length, rounded to the even neighbour, as torchvision's centre crop does."""
    half = length // 2
    return half + (length % 2) * (half % 2)


def check_export(path: Path, *, preprocess: bool = False, int8: bool = False) -> None:
    """Raises UserError where `export_network` cannot write such a file, or a folder for a path without an ending."""
    if path.suffix not in (".pt2", ".onnx", ""):
        raise UserError(f"--export writes FILE.pt2 (torch.export), FILE.onnx or a FOLDER, no other kind; got {path}")
    if not is_folder(path.parent):
        raise UserError(f"--export {path}: there is no folder {path.parent}")
    if not path.suffix and is_there(path) and not is_folder(path):
        raise UserError(f"--export {path}: it is no folder")
    if preprocess and not path.suffix:
        raise UserError("--preprocess changes nothing: a folder holds weights, not a program")
    if int8 and (path.suffix != ".onnx" or preprocess):
        raise UserError("--int8 goes with --export FILE.onnx, from normalised images: without --preprocess")
    if path.suffix == ".onnx":
        for package in ("onnx", "onnxscript", "onnxruntime"):
            imported(package)


def imported(package: str) -> Any:
    """A package of the extra `onnx`. Raises UserError where it is missing."""
    try:
        return importlib.import_module(package)
    except ImportError as error:
        raise UserError(f"--export FILE.onnx needs the package {package}: {_HINT}") from error


def takes(description: Description, *, preprocess: bool) -> str:
    """What an exported program takes and gives, in words."""
    if preprocess:
        return "RGB images [any number, 3, any height, any width] of bytes to logits"
    side = description.image_size
    return f"normalised images [any number, 3, {side}, {side}] to logits"


def export_network(path: Path, network: Network, description: Description, *, preprocess: bool = False) -> None:
    """Writes FILE.pt2, which torch alone loads, or FILE.onnx, which onnxruntime has then run: the logits differ by
    at most `TOLERANCE` of the largest. Any number of images makes a batch.

    preprocess: whether it takes images as they are decoded, see `FromPixels`; else normalised ones. What the network is
    for (classes, mean, deviation, size, crop) lies in a .pt2 as the extra file `fastkd.json`, in an .onnx as metadata.
    Raises UserError.
    """
    program = FromPixels(network, description) if preprocess else Logits(network)
    program = program.eval().cpu()
    made = _onnx if path.suffix == ".onnx" else _pt2
    write_bytes(path, made(program, description, preprocess))


def example(description: Description, preprocess: bool, images: int = 2, seed: int = 0) -> Tensor:
    """Images that the program takes."""
    side, generator = description.image_size, torch.Generator().manual_seed(seed)
    if not preprocess:
        return torch.randn(images, 3, side, side, generator=generator)
    return torch.randint(0, 256, (images, 3, side + 5 + seed, side + 11), dtype=torch.uint8, generator=generator)


def _shapes(preprocess: bool) -> dict[int, Any]:
    batch = {0: torch.export.Dim("batch", min=1)}
    return batch | ({2: torch.export.Dim.DYNAMIC, 3: torch.export.Dim.DYNAMIC} if preprocess else {})


def _pt2(program: nn.Module, description: Description, preprocess: bool) -> bytes:
    images = example(description, preprocess)
    exported = torch.export.export(program, (images,), dynamic_shapes=(_shapes(preprocess),))
    buffer = io.BytesIO()
    torch.export.save(exported, buffer, extra_files={"fastkd.json": to_metadata(description)[KEY]})
    return buffer.getvalue()


def _onnx(program: nn.Module, description: Description, preprocess: bool) -> bytes:
    onnx = imported("onnx")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the exporter about itself
        exported = torch.onnx.export(
            program,
            (example(description, preprocess),),
            dynamo=True,
            dynamic_shapes=(_shapes(preprocess),),
            input_names=["images"],
            output_names=["logits"],
            verbose=False,
        )
    assert exported is not None
    model = exported.model_proto
    about = {KEY: to_metadata(description)[KEY]}
    onnx.helper.set_model_props(model, about | {"classes": json.dumps(description.classes or [])})
    content = model.SerializeToString()
    _check(content, program, description, preprocess)
    return content


def _check(content: bytes, program: nn.Module, description: Description, preprocess: bool) -> None:
    session = session_of(content)
    for images, seed in _CHECKED:
        given = example(description, preprocess, images, seed)
        with torch.no_grad():
            expected = program(given).numpy()
        (found,) = session.run(None, {"images": given.numpy()})
        error = float(np.abs(found - expected).max()) / max(1.0, float(np.abs(expected).max()))
        if not error <= TOLERANCE:
            raise UserError(f"the ONNX program errs by {error:.1e} of the largest logit, {TOLERANCE:g} are allowed")


def session_of(content: bytes) -> Any:
    """onnxruntime's session of a model, on the CPU."""
    return imported("onnxruntime").InferenceSession(content, providers=["CPUExecutionProvider"])
