"""The kernel as an operation of PyTorch: schema and shape for `torch.compile`. Imports Triton."""

import torch
from torch import Tensor

from fastkd.ops.augment import kernel
from fastkd.ops.augment.inputs import Inputs
from fastkd.ops.schema import nested, schema


@torch.library.custom_op("fastkd::augment", mutates_args=(), schema=f"({schema(Inputs)}) -> Tensor")
def augment(*arguments) -> Tensor:
    """[V,B,H,W,3], see `reference.augment`; bytes have no gradient."""
    inputs = nested(Inputs, iter(arguments))
    return kernel.augment(inputs._replace(rows_VB=inputs.rows_VB.contiguous(), index_B=inputs.index_B.contiguous()))


@augment.register_fake
def _(*arguments):
    return kernel.empty_output(nested(Inputs, iter(arguments)))
