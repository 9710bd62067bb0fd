"""Run folders that nobody trained: a recipe, and results and logs as somebody wants them."""

import json
from pathlib import Path

from fastkd.recipes.recipe import Recipe, recipe_to_plain

SAMPLES = 100


def write_run(folder: Path, recipe: Recipe, hits: dict[str, list[int]], *, epochs: int = 3, **environment) -> Path:
    """hits: {stage: of 100 test images, a number for each seed}; an epoch earlier each has ten hits less."""
    folder.mkdir(parents=True)
    seeds = len(next(iter(hits.values())))
    (folder / "recipe.json").write_text(json.dumps(recipe_to_plain(recipe)))
    told: dict = {"fastkd": "0.2.0", "python": "3.11.7", "packages": {"torch": "2.11.0"}}
    told |= {"date": "2026-11-26T04:05:06+00:00", "host": "machine", "command": "python -m fastkd.train", "gpus": []}
    (folder / "env.json").write_text(json.dumps(told | environment))
    for seed in range(seeds):
        own = folder if recipe.seeds == 1 else folder / f"seed-{seed}"
        own.mkdir(exist_ok=True)
        of_seed = {stage: values[seed] for stage, values in hits.items()}
        (own / "results.json").write_text(json.dumps(results(of_seed, seed, epochs)))
        lines = [
            json.dumps(record(stage, epoch, hit, epochs)) for stage, hit in of_seed.items() for epoch in range(epochs)
        ]
        (own / "metrics.jsonl").write_text("".join(f"{line}\n" for line in lines))
    return folder


def results(hits: dict[str, int], seed: int, epochs: int) -> dict:
    stages = {
        name: {"network": "resnet8", "parameters": 1, "epochs": epochs, "best": {"epoch": 1, "top1": hit / 100}}
        | {"seconds": 1.0, "test": {name: counts(hit)}, "identity": {}}
        for name, hit in hits.items()
    }
    alike = {name: {"kl": 0.5, "cka": 0.75, "agreement": 0.9} for name in hits if name != "teacher"}
    return {"seed": seed, "stages": stages, "similarity": alike, "metrics_bytes": 0}


def record(stage: str, epoch: int, hits: int, epochs: int) -> dict:
    now = max(0, hits - 10 * (epochs - 1 - epoch))
    train = {"loss": 3.0 - epoch, "ce": 1.0, "kl": 2.0 - epoch, "top1": now / 100, "top5": 1.0}
    place = {"stage": stage, "epoch": epoch + 1, "step": 4 * (epoch + 1), "lr": 0.1 / (epoch + 1)}
    return place | {"train": train, "test": {stage: counts(now)}, "images_per_second": 1.0, "seconds": 1.0}


def counts(hits: int) -> dict:
    return {"top1": hits, "top5": SAMPLES, "samples": SAMPLES}
