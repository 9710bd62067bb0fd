"""Loss arithmetic is float32 (or float64), whatever the networks computed in."""

from fastkd.losses.precision import full_precision

__all__ = ["full_precision"]
