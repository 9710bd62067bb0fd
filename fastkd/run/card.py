"""A student as a folder that users of Hugging Face's hub know: weights, config.json, a card that says what it is."""

import json
from pathlib import Path
from typing import Any

from fastkd.networks.base import Network
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
    side = description.image_size
    return {
        "architecture": description.network,
        "library": "fastkd",
        "num_classes": description.num_classes,
        "label_names": list(description.classes or ()),
        "pretrained_cfg": {
            "input_size": [3, side, side],
            "mean": list(description.mean or ()),
            "std": list(description.std or ()),
            "crop_pct": 1.0 if description.crop == "pad" else 0.875,
            "interpolation": "bilinear",
            "num_classes": description.num_classes,
        },
    }


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
    lines = ["---", "library_name: fastkd", "tags:", "- image-classification", "- knowledge-distillation", "---", ""]
    lines += [f"# {_words(description.network)}, distilled on {_words(recipe.data.partition(':')[0])}", ""]
    lines += ["| | |", "|---|---|", *(f"| {name} | {_words(what)} |" for name, what in rows), ""]
    lines += ["```python", "import fastkd", "", f'student = fastkd.load_student("{_words(folder.name)}")', "```", ""]
    if description.classes and len(description.classes) <= _MOST_CLASSES:
        lines += ["Classes, in the order of the logits: " + ", ".join(map(_words, description.classes)) + ".", ""]
    if recipe.deviations:
        lines += ["What differs from the published training: " + _words("; ".join(recipe.deviations)) + ".", ""]
    return "\n".join(lines)


def _accuracy(stage: dict[str, Any], name: str) -> str:
    test = stage["test"].get(name)
    return f"{100 * test['top1'] / test['samples']:.2f}%" if test else "unknown"


def _words(text: str) -> str:
    """Text that stays in its line and its column."""
    return " ".join(str(text).split()).replace("|", "\\|").replace("`", "'")
