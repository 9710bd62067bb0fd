"""What the help of `python -m fastkd.train` says of the tables, and of the recipe that is named."""

from collections.abc import Iterable
from typing import Any

from fastkd import networks
from fastkd.data import DATASETS
from fastkd.methods import METHODS, find_method, short_name
from fastkd.recipes import RECIPES
from fastkd.recipes.digits import digits
from fastkd.recipes.recipe import GTNSettings, SFTNSettings
from fastkd.support.help import columns


def described(*, whole: bool) -> str:
    """What stands above the options: examples, recipes, data sets, methods and networks; whole: every network."""
    about = [f"  {name}: {(make.__doc__ or '').strip().splitlines()[0]}" for name, make in RECIPES.items()]
    recipes = "\n".join(about) if whole else f"  {', '.join(RECIPES)}; --help-all says what each is"
    shown = networks.NETWORKS if whole else ("resnet8x4", "wrn_40_2", "vgg13", "MobileNetV2", "torchvision_resnet50")
    more = "" if whole else f" and {len(networks.NETWORKS) - len(shown)} others, which --help-all names"
    methods = columns({name: method.about for name, method in METHODS.items()})
    return (
        "Trains a teacher, by default a student-friendly one, and distils a student from it.\n\n"
        "Examples:\n"
        "  python -m fastkd.train\n"
        "  python -m fastkd.train cifar100-sftn --data cifar100:PATH --pair wrn_40_2/wrn_16_2 --method kd+at\n"
        "  python -m fastkd.train --method at --help      (shows the settings of at)\n\n"
        f"Recipes:\n{recipes}\n\n"
        f"Data sets: {', '.join(DATASETS)}\n\n"
        f"Methods, of which several are joined by +:\n{methods}\n\n"
        f"Networks: {', '.join(shown)}{more}; timm:NAME, torchvision:NAME, package.module:factory\n\n"
        "An option that is not given leaves the recipe's value, which stands in brackets."
    )


def values(name: str, methods: Iterable[str]) -> dict[str, Any]:
    """What a recipe has in place of what is not given, by the groups of options; of one that is none, the first's."""
    recipe = RECIPES.get(name, digits)()
    teacher, student = recipe.stage("teacher"), recipe.stage("student")
    assert student is not None
    own = {short_name(method): student.settings.get(method, find_method(method).Settings()) for method in methods}
    sftn = teacher.sftn if teacher is not None and teacher.sftn is not None else SFTNSettings(network="")
    gtn = teacher.gtn if teacher is not None and teacher.gtn is not None else GTNSettings()
    shared = {"augmentation": recipe.augmentation, "reading": recipe.reading, "execution": recipe.execution}
    return own | shared | {"training": student.training, "sftn": sftn, "gtn": gtn, "common": recipe}
