"""BatchNorm whose statistics are those of the whole batch, over all processes (`--sync-batchnorm`)."""

from typing import Any

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from fastkd.support.distributed import world_size
from fastkd.support.errors import UserError

BatchNorm = nn.BatchNorm1d | nn.BatchNorm2d


class _OfAllProcesses(torch.autograd.Function):
    """Normalises the channels of a batch whose rows are spread over the processes.

    Forward sends mean, variance and count of the own rows, backward two sums of gradients: one message of about 2C
    numbers each. All processes combine the same numbers in the order of the ranks: their statistics are the same bits.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor | None, bias: Tensor | None, eps: float) -> tuple[Tensor, ...]:
        """x: [B,C,…]. Returns it normalised, and mean [C], variance [C] (by the count) and count [1] of all rows."""
        # BatchNorm's own pass, in a fifth of the time that `var_mean` takes over these dimensions of a CPU's tensor.
        wide = x.to(torch.promote_types(x.dtype, torch.float32))
        mean, variance = torch.ops.aten.batch_norm_update_stats(wide, None, None, 0.0)
        own = torch.cat((mean, variance, mean.new_full((1,), x.numel() // x.shape[1])))
        every = [torch.empty_like(own) for _ in range(dist.get_world_size())]
        dist.all_gather(every, own)
        means, variances, counts = torch.stack(every).split((len(mean), len(mean), 1), dim=1)
        count = counts.sum(0)
        share = counts / count
        mean = (share * means).sum(0)
        variance = (share * (variances + (means - mean).square())).sum(0)
        ctx.eps = eps
        ctx.save_for_backward(x, weight, mean, variance, count)
        ctx.mark_non_differentiable(mean, variance, count)
        return F.batch_norm(x, mean, variance, weight, bias, training=False, eps=eps), mean, variance, count

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor, *_: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, mean, variance, count = ctx.saved_tensors
        # As if the statistics were constants, in one pass: how they follow x is added behind.
        of_x, of_weight, of_bias = torch.ops.aten.native_batch_norm_backward(
            grad, x, weight, mean, variance, None, None, False, ctx.eps, [True, True, True]
        )
        sums = torch.cat((of_bias, of_weight))
        dist.all_reduce(sums)
        over_all, against = (sums / count).chunk(2)
        inverse = (variance + ctx.eps).rsqrt()
        factor = inverse if weight is None else inverse * weight
        slope = factor * inverse * against
        offset = factor * over_all - slope * mean
        shape = [1, -1, *[1] * (x.dim() - 2)]
        of_x.addcmul_(x, slope.view(shape), value=-1).sub_(offset.view(shape))
        # Those of weight and bias are of the own rows, as every parameter's: whoever averages these averages them.
        return of_x, None if weight is None else of_weight, None if weight is None else of_bias, None


class _OnCPU(nn.modules.batchnorm._BatchNorm):
    """What torch's SyncBatchNorm, which is for GPUs, does by gloo."""

    def forward(self, input: Tensor) -> Tensor:
        if not self.training or world_size() == 1:
            return super().forward(input)
        self._check_input_dim(input)
        normalised, mean, variance, count = _OfAllProcesses.apply(input, self.weight, self.bias, self.eps)  # pyright: ignore
        if self.running_mean is not None and self.running_var is not None:
            if self.num_batches_tracked is not None:
                self.num_batches_tracked.add_(1)
            with torch.no_grad():
                self.running_mean.lerp_(mean.to(self.running_mean.dtype), self._pace())
                unbiased = variance * (count / (count - 1))
                self.running_var.lerp_(unbiased.to(self.running_var.dtype), self._pace())
        return normalised

    def _pace(self) -> float:
        """How far running statistics move towards those of a batch; a plain mean where there is no momentum."""
        if self.momentum is not None:
            return self.momentum
        assert self.num_batches_tracked is not None
        return 1 / self.num_batches_tracked.item()


class _OnCPU1d(_OnCPU, nn.BatchNorm1d):
    pass


class _OnCPU2d(_OnCPU, nn.BatchNorm2d):
    pass


class _OnGPU1d(nn.SyncBatchNorm, nn.BatchNorm1d):
    process_group = None


class _OnGPU2d(nn.SyncBatchNorm, nn.BatchNorm2d):
    process_group = None


_KINDS: dict[str, dict[type[BatchNorm], type[BatchNorm]]] = {
    "cpu": {nn.BatchNorm1d: _OnCPU1d, nn.BatchNorm2d: _OnCPU2d},
    "cuda": {nn.BatchNorm1d: _OnGPU1d, nn.BatchNorm2d: _OnGPU2d},
}
_PLAIN = {ours: plain for kinds in _KINDS.values() for plain, ours in kinds.items()}


def synchronise(module: nn.Module, device: torch.device) -> None:
    """Makes the statistics of a module's BatchNorms, in place, those of all processes.

    Each stays the object that it was, of another class, so that whoever holds one holds it still. Raises UserError for
    a BatchNorm with a forward pass of its own, such as timm's with an activation inside.
    """
    kinds = _KINDS[device.type]
    for name, norm in module.named_modules():
        if type(norm) in kinds:
            norm.__class__ = kinds[type(norm)]  # pyright: ignore[reportArgumentType]
        elif isinstance(norm, nn.modules.batchnorm._BatchNorm) and type(norm) not in _PLAIN:
            raise UserError(f"--sync-batchnorm: {name} is a {type(norm).__name__}, which is more than a BatchNorm")


def unsynchronise(module: nn.Module) -> None:
    """Makes them torch's own again, for what looks for those (folding, bfloat16, batch statistics)."""
    for norm in module.modules():
        if type(norm) in _PLAIN:
            norm.__class__ = _PLAIN[type(norm)]  # pyright: ignore[reportArgumentType]


def is_synchronised(module: nn.Module) -> bool:
    """Whether a forward pass in training sends messages."""
    return any(type(norm) in _PLAIN for norm in module.modules())
