"""Cells as runs: folders that `report` and `evaluate` read, made of what the nodes left."""

from dataclasses import replace
from pathlib import Path
from typing import Any

from fastkd.plan.cells import Cell, Plan
from fastkd.plan.nodes import Node
from fastkd.recipes.recipe import recipe_to_plain
from fastkd.support.files import make_folder, read_bytes, second_name, write_bytes, write_json


def show_as_run(plan: Plan, cell: Cell) -> Path:
    """Makes or renews the run folder of a cell; weights are the nodes' own files, by a second name where that works."""
    folder = plan.root / "cells" / f"{cell.name}-{cell.digest[:8]}"
    make_folder(folder)
    write_json(folder / "recipe.json", recipe_to_plain(cell.recipe))
    for number, nodes in enumerate(cell.nodes):
        seed = cell.recipe.seed + number
        own = folder if cell.recipe.seeds == 1 else folder / f"seed-{seed}"
        make_folder(own)
        if own is not folder:
            write_json(own / "recipe.json", recipe_to_plain(replace(cell.recipe, seed=seed, seeds=1)))
        _show_seed(plan, nodes, seed, own)
    return folder


def results_of(plan: Plan, nodes: dict[str, Node], seed: int) -> dict[str, Any]:
    """The results of one seed of a cell, see `Run.results`: those of its nodes that are finished, put together."""
    found: dict[str, Any] = {"seed": seed, "stages": {}, "similarity": {}}
    for name, node in nodes.items():
        if (result := plan.result(node)) is None:
            continue
        loaded = {one.stage for one in node.taught}
        found["stages"] |= {stage: one for stage, one in result["stages"].items() if stage not in loaded}
        found["similarity"] |= {stage: one for stage, one in result["similarity"].items() if stage == name}
    return found


def _show_seed(plan: Plan, nodes: dict[str, Node], seed: int, folder: Path) -> None:
    results, metrics = results_of(plan, nodes, seed), b""
    for result in results["stages"].values():  # of which some are named by other nodes' folders
        result["files"] = {name: digest for name, digest in result.get("files", {}).items() if "/" not in name}
    for node in nodes.values():
        result = plan.result(node)
        if result is None:
            continue
        metrics += read_bytes(plan.folder(node) / "metrics.jsonl")
        for name in result["stages"][node.own.name].get("files", {}):
            if "/" not in name:
                second_name(plan.folder(node) / name, folder / name)
        write_bytes(folder / "env.json", read_bytes(plan.folder(node) / "env.json"))
    write_bytes(folder / "metrics.jsonl", metrics)
    write_json(folder / "results.json", results | {"metrics_bytes": len(metrics)})
