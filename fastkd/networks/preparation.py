"""Images as another network wants them: its size and normalisation, from the images of a run."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

Triple = tuple[float, float, float]


class Preparation(nn.Module):
    """Images [B,3,S,S] of one normalisation, at another size and in another normalisation; the crop stays the same.

    The resizing is bilinear, with antialiasing where it makes them smaller. It has no weights and is in no state.
    """

    factor: Tensor
    shift: Tensor

    def __init__(self, image_size: int, mean: Triple, std: Triple, from_mean: Triple, from_std: Triple):
        """from_mean, from_std: what the images that come in are normalised by; white is 1."""
        super().__init__()
        self.image_size = image_size
        then, now = (torch.tensor([a, b], dtype=torch.float64) for a, b in ((from_mean, from_std), (mean, std)))
        self.register_buffer("factor", (then[1] / now[1]).float()[:, None, None], persistent=False)
        self.register_buffer("shift", ((then[0] - now[0]) / now[1]).float()[:, None, None], persistent=False)

    def forward(self, images_BCHW: Tensor) -> Tensor:
        x = images_BCHW * self.factor + self.shift
        if x.shape[-1] == self.image_size:
            return x
        size = (self.image_size, self.image_size)
        return F.interpolate(x, size, mode="bilinear", antialias=True, align_corners=False)
