"""The initialisations that the families' reference code publishes, for one leaf module at a time.

BatchNorm needs no rule: all of them start it at weight 1 and bias 0, as PyTorch does.
"""

from torch import nn


def he_normal(module: nn.Module) -> None:
    """Convolutions normal with variance 2 / (k² C_out), their biases 0 (He et al. 2015, "fan out")."""
    if isinstance(module, nn.Conv2d):
        nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
        if module.bias is not None:
            nn.init.zeros_(module.bias)


def small_linear(module: nn.Module) -> None:
    """Linear layers normal with standard deviation 0.01, their biases 0."""
    if isinstance(module, nn.Linear):
        nn.init.normal_(module.weight, std=0.01)
        nn.init.zeros_(module.bias)


def zero_linear_bias(module: nn.Module) -> None:
    """Linear layers keep PyTorch's weights; their biases are 0."""
    if isinstance(module, nn.Linear):
        nn.init.zeros_(module.bias)
