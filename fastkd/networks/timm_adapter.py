"""timm's models as networks: cut into stem, blocks and head where the family can be, else with the features that timm
gives. timm itself is imported when one is named."""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

from torch import Tensor, nn

from fastkd.networks.base import Network, Output
from fastkd.networks.cut import QUARTERS, CutNetwork
from fastkd.networks.naming import Option, Spec
from fastkd.networks.timm_cuts import CUTS
from fastkd.networks.uncut import WORDS, Absent, Lacks, Uncut, logits_of, refusal, refuse_another_width, without
from fastkd.support.errors import UserError, nearest


class Intermediates(Network):
    """A model whose blocks are no chain (EVA, DINOv3, distilled DeiT): logits, embedding, and timm's own features."""

    is_cut = False
    PUBLIC_NAMES = {"model": ""}  # noqa: RUF012 - nothing changes it

    def __init__(self, model: Any, name: str, places: Sequence[int]):
        """places: the blocks, from 0, whose maps are features."""
        super().__init__()
        self.model, self.name, self.places = model, name, list(places)

    def forward(self, images_BCHW: Tensor, *, preacts: bool = False) -> Output:
        if preacts:
            raise Lacks(refusal(self.absent, WORDS["preacts"]))
        images = self.preparation(images_BCHW)
        last, maps = self.model.forward_intermediates(images, indices=self.places, output_fmt="NCHW")
        logits = logits_of(self.model.forward_head(last), self.name)
        embedding = self.model.forward_head(last, pre_logits=True)
        absent: Any = self.absent
        output = Output(logits, absent, tuple(maps), absent, embedding)
        return without(output, absent, "stem", "final_map")

    @property
    def absent(self) -> Absent:
        return Absent(self.name, "logits, features and an embedding", named=True)

    @property
    def classifier(self) -> nn.Module:
        found = self.model.get_classifier()
        if not isinstance(found, nn.Module):
            raise Lacks(f"{self.name} has several classifiers, where one of its embedding is needed")
        return found

    def last_layers(self) -> list[nn.Linear]:
        found = self.model.get_classifier()
        layers = found if isinstance(found, list | tuple) else [found]
        return [layer for layer in layers if isinstance(layer, nn.Linear)]

    stem, blocks, head = Uncut.stem, Uncut.blocks, Uncut.head  # pyright: ignore[reportAssignmentType]
    _refuse_cut = Uncut._refuse_cut


def timm_source(spec: Spec) -> Callable[..., Network]:
    """What makes a model of timm's. Raises UserError where timm is missing, or has none of that name."""
    timm = imported_timm()
    if not timm.is_model(spec.name.partition(".")[0]):
        raise UserError(f"timm has no model {spec.name!r}{_nearest(spec.name, timm.list_models())}")
    return _made


def imported_timm() -> Any:
    """timm, or a UserError that says how it is installed."""
    try:
        import timm  # pyright: ignore[reportMissingImports]
    except ImportError as error:
        raise UserError("timm: networks are timm's, which is not installed: pip install 'fastkd[timm]'") from error
    return timm


def _nearest(name: str, known: Sequence[str]) -> str:
    found = nearest(name, known)
    return found if "did you mean" in found else ""


def _made(
    spec: Spec, name: str, *, num_classes: int, image_size: int, weights: Mapping[str, Tensor] | None = None
) -> Network:
    """weights: what the model begins with, by timm's names, for whatever classes and size; None: fresh ones."""
    model = _model(spec, name, num_classes, image_size, weights)
    network = adapted(model, spec, name)
    refuse_another_width(network, name, num_classes, image_size)
    network.taking = partial(_made, spec, name, image_size=image_size)
    return network


def _model(spec: Spec, name: str, num_classes: int, image_size: int, weights: Mapping[str, Tensor] | None) -> nn.Module:
    of_file = {"state_dict": dict(weights or {}), "num_classes": num_classes}
    begun = {} if weights is None else {"pretrained": True, "pretrained_cfg_overlay": of_file}
    try:
        return imported_timm().create_model(spec.name, num_classes=num_classes, **begun, **arguments(spec, image_size))
    except Exception as error:  # whatever timm makes of options and sizes that do not go together
        why = next(iter(str(error).splitlines()), type(error).__name__)
        raise UserError(f"{name} cannot be made for {image_size} pixels: {why}") from error


def arguments(spec: Spec, image_size: int) -> dict[str, Option]:
    """What timm is given beside a model's name, its classes and its weights."""
    fixed = imported_timm().get_pretrained_cfg(spec.name).fixed_input_size
    return ({"img_size": image_size} if fixed else {}) | spec.options


def adapted(model: Any, spec: Spec, name: str) -> Network:
    """A model of timm's, whoever made it, as a network that gives what its family can."""
    if spec.features:
        return Uncut(model, name, spec.features)
    cut = CUTS.get(type(model).__name__)
    parts = cut(model, spec.blocks) if cut is not None else None
    if parts is not None:
        return CutNetwork(model, parts, name)
    if hasattr(model, "forward_intermediates") and getattr(model, "feature_info", None):
        return Intermediates(model, name, _places(model, spec.blocks))
    return Uncut(model, name)


def _places(model: Any, blocks: int | None) -> list[int]:
    """The entries of timm's own features that are taken: those of each reduction, or a Transformer's quarters."""
    info = model.feature_info.info if hasattr(model.feature_info, "info") else model.feature_info
    reductions = [entry["reduction"] for entry in info]
    if len(set(reductions)) == 1:
        count = min(blocks or QUARTERS, len(reductions))
        return [round(len(reductions) * number / count) - 1 for number in range(1, count + 1)]
    return [place for place, reduction in enumerate(reductions) if reduction > 2]
