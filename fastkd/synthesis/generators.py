"""Networks that make images of latent vectors, as ZSKT, DAFL and CMI have them."""

from typing import Any, Literal

from torch import Tensor, nn


class Generator(nn.Module):
    """A linear layer to a map of a quarter of the image's side, and three convolutions, the map doubled before two.

    Layers: Linear, BatchNorm, x2, convolution, BatchNorm, LeakyReLU 0.2, x2, convolution, BatchNorm, LeakyReLU 0.2,
    convolution, and what makes an image of that. Doubling takes the nearest pixel.

    ends: "sigmoid", for images in [0, 1] (DataFree, 9e79fa9); "norm", a BatchNorm, for images that are normalised
        already, with a bias in every convolution (ZeroShotKnowledgeTransfer, e24915d).
    """

    def __init__(
        self,
        latent: int,
        *,
        image_size: int = 32,
        channels: int = 64,
        width: int = 2,
        ends: Literal["sigmoid", "norm"] = "sigmoid",
    ):
        """channels: those in front of the last convolution; width: how many times as many the first map has."""
        super().__init__()
        if image_size % 4 or image_size < 4:
            raise ValueError(f"a generator makes images whose side is a multiple of 4, got {image_size}")
        if ends not in ("sigmoid", "norm"):
            raise ValueError(f"ends is 'sigmoid' or 'norm', got {ends!r}")
        side, bias = image_size // 4, ends == "norm"
        self.latent, self.map_shape = latent, (width * channels, side, side)
        self.linear = nn.Linear(latent, width * channels * side**2)
        self.layers = nn.Sequential(
            nn.BatchNorm2d(width * channels),
            nn.Upsample(scale_factor=2),
            nn.Conv2d(width * channels, 2 * channels, 3, padding=1, bias=bias),
            nn.BatchNorm2d(2 * channels),
            nn.LeakyReLU(0.2, inplace=True),
            nn.Upsample(scale_factor=2),
            nn.Conv2d(2 * channels, channels, 3, padding=1, bias=bias),
            nn.BatchNorm2d(channels),
            nn.LeakyReLU(0.2, inplace=True),
            nn.Conv2d(channels, 3, 3, padding=1),
            nn.Sigmoid() if ends == "sigmoid" else nn.BatchNorm2d(3),
        )

    def forward(self, latents_BZ: Tensor) -> Tensor:
        """[B,3,H,W]: an image of each latent vector."""
        return self.layers(self.linear(latents_BZ).unflatten(1, self.map_shape))


GENERATORS: dict[str, dict[str, Any]] = {
    "small": {"width": 2},
    "large": {"width": 4},
    "zskt": {"width": 2, "ends": "norm"},
}
"""CMI's generator, that of DataFree's ZSKT and DAFL, and that of ZSKT's authors."""


def begin_anew(generator: nn.Module) -> None:
    """Draws the weights of a generator as CMI does before each round: N(0, 0.02), for BatchNorm N(1, 0.02); no bias.

    Running statistics stay as they are.
    """
    for module in generator.modules():
        if isinstance(module, nn.Conv2d | nn.Linear | nn.BatchNorm2d):
            nn.init.normal_(module.weight, 1.0 if isinstance(module, nn.BatchNorm2d) else 0.0, 0.02)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
