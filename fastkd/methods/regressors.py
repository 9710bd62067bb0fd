"""Convolutions from a student's map to the shape of a teacher's."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
import torch.nn.grad
from torch import Tensor, nn

from fastkd.support.pooling import pooled_to


class Regressor(nn.Module):
    """Convolution with bias, BatchNorm and, unless `activation` is off, ReLU: RepDistiller's `ConvReg`.

    The heights of the maps decide on the convolution. It is a 3x3 with stride 2 to half the student's height, a
    transposed 4x4 with stride 2 to twice its height, and to any other smaller or equal height the unpadded kernel that
    leaves the teacher's size (1x1 for equal maps). In what is left the teacher's map is larger: RepDistiller stops
    there; SimKD's rule is a 3x3 at the student's size, to which the teacher's map is pooled (`target`).
    """

    def __init__(self, student: Sequence[int], teacher: Sequence[int], *, activation: bool = True):
        """student, teacher: the shapes (C,H,W) of their maps."""
        super().__init__()
        (channels_in, height, width), (channels_out, goal_height, goal_width) = student, teacher
        self.size = (goal_height, goal_width)
        if height == 2 * goal_height:
            self.conv = nn.Conv2d(channels_in, channels_out, 3, stride=2, padding=1)
        elif 2 * height == goal_height:
            self.conv = nn.ConvTranspose2d(channels_in, channels_out, 4, stride=2, padding=1)
        elif height >= goal_height:
            self.conv = nn.Conv2d(channels_in, channels_out, (1 + height - goal_height, 1 + width - goal_width))
        else:
            self.conv = nn.Conv2d(channels_in, channels_out, 3, padding=1)
            self.size = (height, width)
        self.bn = nn.BatchNorm2d(channels_out)
        self.activation = activation

    def forward(self, student_BCHW: Tensor) -> Tensor:
        x = self.bn(self.conv(student_BCHW))
        return x.relu() if self.activation else x

    def target(self, teacher_BCHW: Tensor) -> Tensor:
        """The teacher's map at the size of what `forward` returns."""
        return pooled_to(teacher_BCHW, self.size)

    @torch.no_grad()
    def mse_gradient(self, student_BCHW: Tensor, target_BCHW: Tensor) -> Tensor:
        """The gradient of the mean squared error with respect to the student's map, in closed form.

        `torch.autograd.grad` inside a loss cannot be traced. BatchNorm uses the batch's statistics and updates none.
        """
        with torch.autocast(student_BCHW.device.type, enabled=False):
            return self._mse_gradient(student_BCHW.to(self.conv.weight.dtype), target_BCHW)

    def _mse_gradient(self, student_BCHW: Tensor, target_BCHW: Tensor) -> Tensor:
        x = self.conv(student_BCHW)
        axes = (0, 2, 3)
        variance, mean = torch.var_mean(x, axes, correction=0, keepdim=True)
        deviation = (variance + self.bn.eps).sqrt()
        normal = (x - mean) / deviation
        scale, shift = self.bn.weight[:, None, None], self.bn.bias[:, None, None]
        y = normal * scale + shift
        gradient = 2 / y.numel() * (y.relu() - target_BCHW) * (y > 0)
        centred = gradient - gradient.mean(axes, keepdim=True)
        gradient = (centred - normal * (gradient * normal).mean(axes, keepdim=True)) * scale / deviation
        options = {"stride": self.conv.stride, "padding": self.conv.padding}
        if isinstance(self.conv, nn.ConvTranspose2d):
            return F.conv2d(gradient, self.conv.weight, **options)  # the transpose of a transposed convolution
        return torch.nn.grad.conv2d_input(student_BCHW.shape, self.conv.weight, gradient, **options)
