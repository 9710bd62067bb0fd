"""What is trained and how: recipes, the papers' tables beside them, and every training that follows from one.

A row of `RECIPES` is a function that takes the fields of `Choice` as keywords (what is trained, not how) and returns a
`Recipe`. The papers' tables, cell by cell, are in `tables/`.
"""

from collections.abc import Callable

from fastkd.recipes.datafree import cifar100_cmi, cifar100_dafl, cifar100_zskt
from fastkd.recipes.digits import digits
from fastkd.recipes.modern import cifar100_modern, imagenet_modern, imagenet_vanillakd
from fastkd.recipes.recipe import Recipe
from fastkd.recipes.sftn import cifar100_sftn, imagenet_sftn
from fastkd.recipes.simkd import cifar100_simkd, imagenet_simkd
from fastkd.recipes.tfkd import cifar10_tfkd, cifar100_dekd, cifar100_tfkd, imagenet_tfkd, tiny_dekd, tiny_tfkd

__all__ = [
    "RECIPES",
    "Recipe",
    "cifar10_tfkd",
    "cifar100_cmi",
    "cifar100_dafl",
    "cifar100_dekd",
    "cifar100_modern",
    "cifar100_sftn",
    "cifar100_simkd",
    "cifar100_tfkd",
    "cifar100_zskt",
    "digits",
    "imagenet_modern",
    "imagenet_sftn",
    "imagenet_simkd",
    "imagenet_tfkd",
    "imagenet_vanillakd",
    "tiny_dekd",
    "tiny_tfkd",
]

RECIPES: dict[str, Callable[..., Recipe]] = {
    "digits": digits,
    "cifar100-sftn": cifar100_sftn,
    "imagenet-sftn": imagenet_sftn,
    "cifar100-simkd": cifar100_simkd,
    "imagenet-simkd": imagenet_simkd,
    "cifar100-zskt": cifar100_zskt,
    "cifar100-dafl": cifar100_dafl,
    "cifar100-cmi": cifar100_cmi,
    "cifar100-tfkd": cifar100_tfkd,
    "cifar100-dekd": cifar100_dekd,
    "cifar10-tfkd": cifar10_tfkd,
    "tiny-tfkd": tiny_tfkd,
    "tiny-dekd": tiny_dekd,
    "imagenet-tfkd": imagenet_tfkd,
    "cifar100-modern": cifar100_modern,
    "imagenet-modern": imagenet_modern,
    "imagenet-vanillakd": imagenet_vanillakd,
}
