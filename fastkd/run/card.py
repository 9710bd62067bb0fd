"""A student as a folder that users of Hugging Face's hub know: weights, config.json, a card that says what it is."""

import json
from pathlib import Path
from typing import Any

from fastkd.data.boxes import evaluation_size
from fastkd.networks import is_given, is_outside
from fastkd.networks.base import Network
from fastkd.networks.timm_config import is_timms, timm_config
from fastkd.recipes.recipe import Recipe
from fastkd.run.description import Description
from fastkd.run.weights import save_network
from fastkd.support.files import make_folder, write_text

_MOST_CLASSES = 1000
"""Classes whose names the card spells out."""


def write_card(
    folder: Path, network: Network, description: Description, recipe: Recipe, results: dict[str, Any]
) -> None:
    """Writes model.safetensors, config.json and README.md; nothing is pickled. results: those of the run's seed."""
    make_folder(folder)
    save_network(folder / "model.safetensors", network, description)
    write_text(folder / "config.json", json.dumps(_config(description), indent=2) + "\n")
    write_text(folder / "README.md", _card(folder, network, description, recipe, results))


def _config(description: Description) -> dict[str, Any]:
    """What timm, and whoever reads its folders, reads: of a network of timm's enough to make it again."""
    plain = {"architecture": description.network, "pretrained_cfg": {}}
    known = timm_config(description.network, description.image_size) if _is_timms(description) else plain
    labels = {"label_names": list(description.classes)} if description.classes else {}
    of_images = _images(description) | {"num_classes": description.num_classes}
    return known | {
        "library": "fastkd",
        "num_classes": description.num_classes,
        **labels,
        "pretrained_cfg": known["pretrained_cfg"] | of_images,
    }


def _is_timms(description: Description) -> bool:
    """Whether the network is one that timm makes, as it makes it."""
    return is_timms(description.network) and description.deployment is None and description.front is None


def _images(description: Description) -> dict[str, Any]:
    """How images are prepared, in timm's words."""
    side, crop = description.image_size, description.crop or "resized"
    normalised = {"mean": description.mean, "std": description.std}
    return {
        "input_size": (3, side, side),
        "interpolation": "bilinear",
        "crop_pct": _share(side, evaluation_size(crop, side)),
        "crop_mode": "squash" if crop == "squeezed" else "center",
        **{name: values for name, values in normalised.items() if values is not None},
    }


def _share(side: int, resized: int) -> float:
    """The `crop_pct` that makes timm resize to so many pixels: it divides the side by that, and rounds down."""
    return next(share for share in (1.0, 0.875, side / (resized + 0.25)) if int(side / share) == resized)


def _card(folder: Path, network: Network, description: Description, recipe: Recipe, results: dict[str, Any]) -> str:
    stage = recipe.stage("student")
    own, teacher = results["stages"]["student"], results["stages"].get("teacher")
    millions = sum(parameter.numel() for parameter in network.parameters()) / 1e6
    rows = [
        ("network", f"{description.network}, {millions:.2f} million parameters"),
        ("classes", str(description.num_classes)),
        (
            "images",
            f"RGB, {description.image_size} pixels, mean {description.mean}, deviation {description.std}",
        ),
        ("data", recipe.data.partition(":")[0]),
        ("method", stage.method if stage is not None else "none"),
        ("top-1 on the test set", _accuracy(own, "student")),
    ]
    if teacher is not None:
        told = f"{_words(teacher['network'])}, top-1 {_accuracy(teacher, 'teacher')}"
        rows.insert(5, ("teacher", told))
    library = "timm" if _is_timms(description) else "fastkd"
    lines = [
        "---",
        f"library_name: {library}",
        "tags:",
        "- image-classification",
        "- knowledge-distillation",
        "---",
        "",
    ]
    lines += [f"# {_words(description.network)}, distilled on {_words(recipe.data.partition(':')[0])}", ""]
    lines += ["| | |", "|---|---|", *(f"| {name} | {_words(what)} |" for name, what in rows), ""]
    lines += ["```python", *_loading(description, _words(folder.name)), "```", ""]
    if description.classes and len(description.classes) <= _MOST_CLASSES:
        lines += ["Classes, in the order of the logits: " + ", ".join(map(_words, description.classes)) + ".", ""]
    if recipe.deviations:
        lines += ["What differs from the published training: " + _words("; ".join(recipe.deviations)) + ".", ""]
    return "\n".join(lines)


def _loading(description: Description, folder: str) -> list[str]:
    """The program that loads the folder, in lines."""
    if _is_timms(description):
        return ["import timm", "", f'student = timm.create_model("local-dir:{folder}", pretrained=True)']
    if is_given(description.network) and description.deployment is None:
        weights = f'safetensors.torch.load_file("{folder}/model.safetensors")'
        made = "student = …  # the module of the program that trained it"
        return ["import safetensors.torch", "", made, f"student.load_state_dict({weights})"]
    trusted = ", trust=True" if is_outside(description.network) else ""
    return ["import fastkd", "", f'student = fastkd.load_student("{folder}"{trusted})']


def _accuracy(stage: dict[str, Any], name: str) -> str:
    test = stage["test"].get(name)
    return f"{100 * test['top1'] / test['samples']:.2f}%" if test else "unknown"


def _words(text: str) -> str:
    """Text that stays in its line and its column."""
    return " ".join(str(text).split()).replace("|", "\\|").replace("`", "'")
