"""A private copy of a frozen teacher, with each BatchNorm folded into the convolution in front of it."""

import copy
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval
from torch.overrides import TorchFunctionMode, resolve_name

from fastkd.networks.base import Network


def frozen_copy(network: Network, image_size: int, *, fold: bool) -> Network:
    """A copy of the network in eval mode, without gradients; the network itself stays as it is.

    fold: each BatchNorm that `foldable` finds at this image size goes into its convolution.
    """
    twin = copy.deepcopy(network).eval().requires_grad_(False)
    if fold:
        for convolution, norm in foldable(twin, image_size):
            _fold(twin, convolution, norm)
    return twin


def in_bfloat16(network: Network) -> Network:
    """Turns the network itself into bfloat16 and returns it; BatchNorm stays in float32, as under autocast."""
    network.to(torch.bfloat16)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.float()
    return network


@torch.no_grad()
def foldable(network: Network, image_size: int) -> list[tuple[str, str]]:
    """The names (convolution, BatchNorm) of every pair in which the BatchNorm alone reads the convolution's output.

    The two are torch's own layers. The pairs are found by looking at a forward pass, so that no family has to name
    them: a raw sum that is also a feature or a shortcut (as in WRN) does not qualify.
    """
    outputs: dict[int, tuple[str, Tensor]] = {}
    pairs: list[tuple[str, str]] = []
    calls: dict[str, int] = {}

    def after_convolution(name: str) -> Any:
        def remember(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
            calls[name] = calls.get(name, 0) + 1
            outputs[id(output)] = (name, output)  # the tensor is kept, so that its id stays its own

        return remember

    def before_norm(name: str) -> Any:
        def pair(module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
            calls[name] = calls.get(name, 0) + 1
            if id(inputs[0]) in outputs:
                pairs.append((outputs[id(inputs[0])][0], name))

        return pair

    hooks = []
    for name, module in network.named_modules():
        if module._forward_hooks:  # what it returns is a feature that somebody has named
            continue
        if type(module) is nn.Conv2d:  # not one that pads or standardises by itself, as timm's do
            hooks.append(module.register_forward_hook(after_convolution(name)))
        elif type(module) is nn.BatchNorm2d:  # not one that holds its activation, as timm's do
            hooks.append(module.register_forward_pre_hook(before_norm(name)))
    images = next(network.parameters()).new_zeros(2, 3, image_size, image_size)
    with _Uses() as uses:
        found = network(images)
    for hook in hooks:
        hook.remove()
    returned: set[int] = set()
    found.mapped(lambda value: returned.add(id(value)) or value)
    private = {name for key, (name, _) in outputs.items() if uses.count.get(key) == 1 and key not in returned}
    return [(conv, norm) for conv, norm in pairs if conv in private and calls[conv] == calls[norm] == 1]


class _Uses(TorchFunctionMode):
    """Counts the torch functions that read each tensor; looking at its shape does not count."""

    def __init__(self) -> None:
        super().__init__()
        self.count: dict[int, int] = {}
        """{id of a tensor: how many functions read it}; the tensors are kept, so that none takes another's id."""
        self.kept: list[Tensor] = []

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if not (resolve_name(func) or "").endswith((".__get__", ".size", ".dim")):
            for value in _tensors((args, kwargs)):
                self.count[id(value)] = self.count.get(id(value), 0) + 1
                self.kept.append(value)
        return func(*args, **kwargs)


def _tensors(value: Any) -> list[Tensor]:
    if isinstance(value, Tensor):
        return [value]
    if isinstance(value, dict):
        value = list(value.values())
    return [tensor for item in value for tensor in _tensors(item)] if isinstance(value, list | tuple) else []


def _fold(network: Network, convolution: str, norm: str) -> None:
    conv, bn = network.get_submodule(convolution), network.get_submodule(norm)
    assert isinstance(conv, nn.Conv2d) and isinstance(bn, nn.BatchNorm2d)
    network.set_submodule(convolution, fuse_conv_bn_eval(conv, bn).requires_grad_(False))
    network.set_submodule(norm, nn.Identity())
