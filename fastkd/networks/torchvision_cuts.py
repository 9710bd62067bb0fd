"""torchvision's models by their names, `torchvision:NAME`: cut into stem, blocks and head where they are a chain.

The rows `torchvision_…` of the table are cut by hand, and have preacts; this serves the others. A model whose layers
are no chain (Inception, GoogLeNet, SqueezeNet, DenseNet) gives its logits and the features that are named.
"""

from collections.abc import Callable, Sequence
from copy import deepcopy
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn

from fastkd.networks.base import Head, Network
from fastkd.networks.cut import (
    QUARTERS,
    ChannelsFirst,
    ChannelsLast,
    CutNetwork,
    FirstToken,
    MeanPool,
    OnePixel,
    Parts,
    TokensToMap,
    grouped,
)
from fastkd.networks.layers import LinearBlock
from fastkd.networks.naming import Spec
from fastkd.networks.uncut import Uncut, refuse_another_width
from fastkd.support.errors import UserError, nearest

_TRIAL = 256
"""Side of the images by which the layers of a chain are told apart."""


class TokenStem(nn.Module):
    """A Vision Transformer up to its blocks."""

    def __init__(self, model: Any):
        super().__init__()
        self.conv_proj, self.dropout = model.conv_proj, model.encoder.dropout
        self.class_token, self.pos_embedding = model.class_token, model.encoder.pos_embedding

    def forward(self, images_BCHW: Tensor) -> Tensor:
        tokens = self.conv_proj(images_BCHW).flatten(2).mT
        tokens = torch.cat([self.class_token.expand(len(tokens), -1, -1), tokens], 1)
        return self.dropout(tokens + self.pos_embedding)


class Entrance(nn.Module):
    """A map as tokens, with that of the class in front."""

    def __init__(self, stem: TokenStem):
        super().__init__()
        self.class_token, self.pos_embedding = stem.class_token, stem.pos_embedding

    def forward(self, map_BDHW: Tensor) -> Tensor:
        front = self.class_token + self.pos_embedding[:, :1]
        return torch.cat([front.expand(len(map_BDHW), -1, -1), map_BDHW.flatten(2).mT], 1)


def chain(model: Any, blocks: int | None) -> Parts:
    """A chain of layers, a pooling and a classifier: each block ends where the map has its size for the last time."""
    layers = list(model.features)
    return _chained(layers, model.classifier, nn.Sequential(model.avgpool, nn.Flatten(1)))


def convnext(model: Any, blocks: int | None) -> Parts:
    first, *layers = model.features
    head = Head(nn.Sequential(OnePixel(), *model.classifier))
    return Parts(first, [LinearBlock(*stage) for stage in _with_merging(layers)], head)


def mnasnet(model: Any, blocks: int | None) -> Parts:
    layers = list(model.layers)
    return _chained(
        [nn.Sequential(*layers[:8]), *layers[8:14], nn.Sequential(*layers[14:])], model.classifier, MeanPool()
    )


def regnet(model: Any, blocks: int | None) -> Parts:
    return Parts(model.stem, list(model.trunk_output), Head(model.fc))


def resnet(model: Any, blocks: int | None) -> Parts:
    stem = nn.Sequential(model.conv1, model.bn1, model.relu, model.maxpool)
    return Parts(stem, [model.layer1, model.layer2, model.layer3, model.layer4], Head(model.fc))


def shufflenet(model: Any, blocks: int | None) -> Parts:
    stages = [model.stage2, model.stage3, model.stage4]
    stem = nn.Sequential(model.conv1, model.maxpool)
    return Parts(stem, stages, Head(model.fc, neck=model.conv5, pool=MeanPool()))


def swin(model: Any, blocks: int | None) -> Parts:
    first, *layers = model.features
    turned = [LinearBlock(ChannelsLast(), *stage, ChannelsFirst()) for stage in _with_merging(layers)]
    neck = nn.Sequential(ChannelsLast(), model.norm, ChannelsFirst())
    return Parts(nn.Sequential(first, ChannelsFirst()), turned, Head(model.head, neck=neck))


def maxvit(model: Any, blocks: int | None) -> Parts:
    pool, flat, *behind = model.classifier
    return Parts(model.stem, list(model.blocks), Head(nn.Sequential(*behind), pool=nn.Sequential(pool, flat)))


def vision_transformer(model: Any, blocks: int | None) -> Parts:
    side = model.image_size // model.patch_size
    stem = TokenStem(model)
    return Parts(
        stem,
        [LinearBlock(*units) for units in grouped(list(model.encoder.layers), blocks)],
        Head(model.heads, neck=model.encoder.ln, pool=FirstToken()),
        pooling="token",
        as_map=TokensToMap(1, (side, side)),
        entrance=Entrance,
    )


CUTS: dict[str, Callable[[Any, int | None], Parts]] = {
    "AlexNet": chain,
    "ConvNeXt": convnext,
    "EfficientNet": chain,
    "MNASNet": mnasnet,
    "MaxVit": maxvit,
    "MobileNetV2": chain,
    "MobileNetV3": chain,
    "RegNet": regnet,
    "ResNet": resnet,
    "ShuffleNetV2": shufflenet,
    "SwinTransformer": swin,
    "VGG": chain,
    "VisionTransformer": vision_transformer,
}
"""{the name of a class of torchvision's: how it is cut}"""


def torchvision_source(spec: Spec) -> Callable[..., Network]:
    """What makes a model of torchvision's. Raises UserError where it has none of that name."""
    from torchvision.models import list_models

    known = [name for name in list_models() if "." not in name and "/" not in name]
    if spec.name not in known:
        found = nearest(spec.name, known)
        raise UserError(f"torchvision has no model {spec.name!r}{found if 'did you mean' in found else ''}")
    return _made


def _made(spec: Spec, name: str, *, num_classes: int, image_size: int) -> Network:
    from torchvision.models import get_model

    sized = {"vit": {"image_size": image_size}, "maxvit": {"input_size": (image_size, image_size)}}
    options: dict[str, Any] = sized.get(spec.name.partition("_")[0], {})
    options |= {"init_weights": True} if spec.name in ("inception_v3", "googlenet") else {}
    try:
        model = get_model(spec.name, weights=None, num_classes=num_classes, **options, **spec.options)
    except Exception as error:  # whatever torchvision makes of options and sizes that do not go together
        why = next(iter(str(error).splitlines()), type(error).__name__)
        raise UserError(f"{name} cannot be made for {image_size} pixels: {why}") from error
    network = adapted(model, spec, name)
    refuse_another_width(network, name, num_classes, image_size)
    return network


def adapted(model: nn.Module, spec: Spec, name: str) -> Network:
    """A model of torchvision's, whoever made it, as a network that gives what its family can."""
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.inplace = False  # it would overwrite the embedding
    cut = CUTS.get(type(model).__name__) if not spec.features else None
    return Uncut(model, name, spec.features) if cut is None else CutNetwork(model, cut(model, spec.blocks), name)


def _with_merging(layers: list[nn.Module]) -> list[list[nn.Module]]:
    """The stages, each but the first with the layer in front of it that makes the map smaller."""
    return [layers[:1], *(layers[place : place + 2] for place in range(1, len(layers), 2))]


@torch.no_grad()
def _chained(layers: Sequence[nn.Module], classifier: nn.Module, pool: nn.Module) -> Parts:
    """The first layer is the stem; what keeps the size of the map in the end, and is one layer, is the neck."""
    sides, x = [], torch.empty(2, 3, _TRIAL, _TRIAL, device="meta")
    for layer in layers:
        x = _on_meta(layer)(x)
        sides.append(x.shape[2])
    ends = [place + 1 for place in range(len(layers)) if place + 1 == len(layers) or sides[place + 1] < sides[place]]
    ends = [end for end in ends if end > 1]
    if len(ends) > QUARTERS and sides[ends[0] - 1] == sides[0] and len(ends) == QUARTERS + 1:
        ends = ends[1:]  # what stands at the stem's size is part of the first block
    last = ends[-2] if ends[-1] - ends[-2] == 1 and isinstance(layers[-1], nn.MaxPool2d) else ends[-1] - 1
    neck = layers[last:]
    ends = [*ends[:-1], last] if last not in ends else ends[:-1]
    blocks = [nn.Sequential(*layers[start:end]) for start, end in pairwise((1, *ends))]
    return Parts(layers[0], blocks, Head(classifier, neck=nn.Sequential(*neck), pool=pool))


def _on_meta(layer: nn.Module) -> nn.Module:
    return deepcopy(layer).to("meta").eval()
