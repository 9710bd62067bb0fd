"""How timm's families are cut into stem, blocks and head, so that these in a row are the model itself.

Each function takes a model of one class and returns its `Parts`, or None where the model was made so that they do not
hold (another pooling, an attention pool). Whatever stands behind the pooling is the classifier.
"""

from collections.abc import Callable
from copy import copy
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn

from fastkd.networks.base import Head
from fastkd.networks.cut import (
    ChannelsFirst,
    ChannelsLast,
    FirstToken,
    MeanPool,
    OnePixel,
    Parts,
    TokensToMap,
    grouped,
)
from fastkd.networks.layers import LinearBlock


class MapToTokens(nn.Module):
    """A map as tokens [B,N,D], with those of the class and its like in front as the model's stem has them."""

    def __init__(self, stem: "TokenStem"):
        super().__init__()
        model = stem.model
        self.cls_token, self.reg_token, self.in_front = model.cls_token, model.reg_token, model.num_prefix_tokens
        self.pos_embed = None if model.no_embed_class else model.pos_embed

    def forward(self, map_BDHW: Tensor) -> Tensor:
        tokens = map_BDHW.flatten(2).mT
        if not self.in_front:
            return tokens
        front = torch.cat([one for one in (self.cls_token, self.reg_token) if one is not None], 1)
        if self.pos_embed is not None:
            front = front + self.pos_embed[:, : self.in_front]
        return torch.cat([front.expand(len(tokens), -1, -1), tokens], 1)


class TokenStem(nn.Module):
    """A Vision Transformer up to its blocks: a copy of the model without what comes behind, sharing its weights."""

    def __init__(self, model: Any):
        super().__init__()
        self.model: Any = copy(model)
        kept = ("patch_embed", "pos_drop", "patch_drop", "norm_pre")
        self.model._modules = {name: module for name, module in model._modules.items() if name in kept}

    def forward(self, images_BCHW: Tensor) -> Tensor:
        tokens = self.model._pos_embed(self.model.patch_embed(images_BCHW))
        return self.model.norm_pre(self.model.patch_drop(tokens))


def resnet(model: Any, blocks: int | None) -> Parts | None:
    if not _pools_by_mean(model.global_pool):
        return None
    stem = nn.Sequential(model.conv1, model.bn1, model.act1, model.maxpool)
    head = Head(_behind_dropout(model.drop_rate, model.fc), pool=MeanPool())
    return Parts(stem, [model.layer1, model.layer2, model.layer3, model.layer4], head)


def regnet(model: Any, blocks: int | None) -> Parts | None:
    if not _pools_by_mean(model.head.global_pool):
        return None
    head = Head(nn.Sequential(model.head.drop, model.head.fc), neck=model.final_conv, pool=MeanPool())
    return Parts(model.stem, [model.s1, model.s2, model.s3, model.s4], head)


def efficientnet(model: Any, blocks: int | None) -> Parts | None:
    if not _pools_by_mean(model.global_pool):
        return None
    neck = nn.Sequential(model.conv_head, model.bn2)
    head = Head(_behind_dropout(model.drop_rate, model.classifier), neck=neck, pool=MeanPool())
    return Parts(nn.Sequential(model.conv_stem, model.bn1), _by_reduction(model), head)


def mobilenet(model: Any, blocks: int | None) -> Parts | None:
    """MobileNetV3 and V4, which widen behind the pooling."""
    if not _pools_by_mean(model.global_pool):
        return None
    wider = OnePixel(), model.conv_head, model.norm_head, model.act2, nn.Flatten(1)
    head = Head(nn.Sequential(*wider, nn.Dropout(model.drop_rate), model.classifier), pool=MeanPool())
    return Parts(nn.Sequential(model.conv_stem, model.bn1), _by_reduction(model), head)


def convnext(model: Any, blocks: int | None) -> Parts | None:
    own = model.head
    if not _pools_by_mean(own.global_pool):
        return None
    behind = [own.norm, own.flatten, own.pre_logits] if hasattr(own, "pre_logits") else [nn.Flatten(1)]
    head = Head(nn.Sequential(OnePixel(), *behind, own.drop, own.fc), neck=model.norm_pre, pool=MeanPool())
    return Parts(model.stem, [LinearBlock(stage) for stage in model.stages], head)


def swin(model: Any, blocks: int | None) -> Parts | None:
    """Swin and Swin V2, whose maps are channels-last: a block turns them there and back."""
    if not _pools_by_mean(model.head.global_pool):
        return None
    turned = [LinearBlock(ChannelsLast(), layer, ChannelsFirst()) for layer in model.layers]
    neck = nn.Sequential(ChannelsLast(), model.norm, ChannelsFirst())
    head = Head(nn.Sequential(model.head.drop, model.head.fc), neck=neck, pool=MeanPool())
    return Parts(nn.Sequential(model.patch_embed, ChannelsFirst()), turned, head)


def vision_transformer(model: Any, blocks: int | None) -> Parts | None:
    """ViT, DeiT 3, CLIP, DINOv2: tokens, of which the class's, or the mean over the image's, is what is classified."""
    if model.attn_pool is not None or model.global_pool not in ("token", "avg") or model.patch_embed.grid_size is None:
        return None
    if model.global_pool == "avg" and model.pool_include_prefix and model.num_prefix_tokens:
        return None
    as_map = TokensToMap(model.num_prefix_tokens, tuple(model.patch_embed.grid_size))
    classifier = nn.Sequential(model.fc_norm, model.head_drop, model.head)
    by_mean = model.global_pool == "avg"
    if by_mean:
        head = Head(classifier, neck=nn.Sequential(model.norm, as_map), pool=MeanPool())
    else:
        head = Head(classifier, neck=model.norm, pool=FirstToken())
    return Parts(
        TokenStem(model),
        [LinearBlock(*units) for units in grouped(list(model.blocks), blocks)],
        head,
        pooling="mean" if by_mean else "token",
        as_map=as_map,
        entrance=MapToTokens,
    )


CUTS: dict[str, Callable[[Any, int | None], Parts | None]] = {
    "ResNet": resnet,
    "RegNet": regnet,
    "EfficientNet": efficientnet,
    "MobileNetV3": mobilenet,
    "ConvNeXt": convnext,
    "VisionTransformer": vision_transformer,
    "SwinTransformer": swin,
    "SwinTransformerV2": swin,
}
"""{the name of a class of timm's: how it is cut}"""


def _by_reduction(model: Any) -> list[nn.Module]:
    """The stages in groups, each of which ends where the map has got smaller for the last time before the next."""
    ends = [
        int(entry["module"].split(".")[1]) + 1
        for entry in model.feature_info
        if entry["module"].startswith("blocks.") and entry["reduction"] > model.feature_info[0]["reduction"]
    ]
    ends[-1] = len(model.blocks)
    groups = [list(model.blocks)[start:end] for start, end in pairwise((0, *ends))]
    linear = all(_ends_without_activation(group[-1]) for group in groups)
    return [LinearBlock(*group) if linear else nn.Sequential(*group) for group in groups]


def _ends_without_activation(stage: nn.Module) -> bool:
    last = list(stage.children())[-1]
    return type(last).__name__ in ("InvertedResidual", "EdgeResidual")


def _pools_by_mean(pool: Any) -> bool:
    return getattr(pool, "pool_type", "") in ("avg", "fast", "fastavg")


def _behind_dropout(rate: float, classifier: nn.Module) -> nn.Module:
    return nn.Sequential(nn.Dropout(rate), classifier) if rate else classifier
