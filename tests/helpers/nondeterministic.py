"""What torch does not do the same way twice on a GPU, by the list of `torch.use_deterministic_algorithms`."""

import re

import torch
from torch.utils._python_dispatch import TorchDispatchMode

LISTED = {
    "torch.nn.AvgPool3d": ("avg_pool3d_backward",),
    "torch.nn.AdaptiveAvgPool2d": ("_adaptive_avg_pool2d_backward",),
    "torch.nn.AdaptiveAvgPool3d": ("_adaptive_avg_pool3d_backward",),
    "torch.nn.MaxPool3d": ("max_pool3d_with_indices_backward",),
    "torch.nn.AdaptiveMaxPool2d": ("adaptive_max_pool2d_backward",),
    "torch.nn.FractionalMaxPool2d": ("fractional_max_pool2d_backward",),
    "torch.nn.FractionalMaxPool3d": ("fractional_max_pool3d_backward",),
    "torch.nn.MaxUnpool1d": ("max_unpool2d",),
    "torch.nn.MaxUnpool2d": ("max_unpool2d",),
    "torch.nn.MaxUnpool3d": ("max_unpool3d",),
    "torch.nn.functional.interpolate": (
        "upsample_linear1d_backward",
        "upsample_bilinear2d_backward",
        "upsample_bicubic2d_backward",
        "upsample_trilinear3d_backward",
        "_upsample_bilinear2d_aa_backward",
        "_upsample_bicubic2d_aa_backward",
    ),
    "torch.nn.ReflectionPad1d": ("reflection_pad1d_backward",),
    "torch.nn.ReflectionPad2d": ("reflection_pad2d_backward",),
    "torch.nn.ReflectionPad3d": ("reflection_pad3d_backward",),
    "torch.nn.NLLLoss": ("nll_loss2d_forward",),  # that of rows is not meant: it has no atomic addition
    "torch.nn.CTCLoss": ("_ctc_loss_backward",),
    "torch.nn.EmbeddingBag": ("_embedding_bag_dense_backward", "_embedding_bag_backward"),
    "torch.Tensor.put_": ("put", "put_"),
    "torch.histc": ("histc",),
    "torch.bincount": ("bincount",),
    "torch.median": ("median.dim", "nanmedian.dim"),
    "torch.nn.functional.grid_sample": ("grid_sampler_2d_backward", "grid_sampler_3d_backward"),
    "torch.cumsum": ("cumsum", "cumsum_"),
    "torch.Tensor.scatter_reduce": ("scatter_reduce", "scatter_reduce_"),
    "torch.Tensor.resize_": (),  # of quantised tensors
}
"""{what torch's documentation names: the operations that a step calls for it, by packet or by overload}."""
OPERATIONS = {name for names in LISTED.values() for name in names}
FLOATING_ALONE = ("cumsum", "cumsum_")


def documented() -> list[str]:
    """The operations that torch says to refuse, without repetitions."""
    text = (
        (torch.use_deterministic_algorithms.__doc__ or "")
        .partition("operations will throw a")[2]
        .partition("In addition")[0]
    )
    return list(dict.fromkeys(re.findall(r"^ +\* :(?:class|func):`([\w.]+)`", text, re.MULTILINE)))


class NothingNondeterministic(TorchDispatchMode):
    """Refuses those operations, also where they are carried out on a CPU."""

    def __torch_dispatch__(self, operation, types, arguments=(), options=None):
        packet = operation.overloadpacket.__name__
        if packet in OPERATIONS or f"{packet}.{operation._overloadname}" in OPERATIONS:
            assert packet in FLOATING_ALONE and not arguments[0].is_floating_point(), (
                f"{operation} is not deterministic"
            )
        return operation(*arguments, **(options or {}))
