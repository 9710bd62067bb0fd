"""The initialisations in the authors' code of the families, for one leaf module at a time.

BatchNorm needs no rule: all of them start it at weight 1 and bias 0, as PyTorch does.
"""

from torch import nn


def he_normal(module: nn.Module) -> None:
    """Makes a convolution's weights normal with variance 2 / (k² C_out) and its bias 0 (He et al. 2015, "fan out")."""
    if isinstance(module, nn.Conv2d):
        nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
        if module.bias is not None:
            nn.init.zeros_(module.bias)


def small_linear(module: nn.Module) -> None:
    """Makes a linear layer's weights normal with standard deviation 0.01 and its bias 0."""
    if isinstance(module, nn.Linear):
        nn.init.normal_(module.weight, std=0.01)
        nn.init.zeros_(module.bias)


def zero_linear_bias(module: nn.Module) -> None:
    """Makes a linear layer's bias 0 and leaves its weights as PyTorch initialises them."""
    if isinstance(module, nn.Linear):
        nn.init.zeros_(module.bias)
