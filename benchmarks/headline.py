"""SFTN's first table cell on real data: python -m benchmarks.headline --data cifar100:PATH [--minutes 9]

CIFAR-100, WRN-40-2 → WRN-16-2 by KD, from a standard teacher and from a student-friendly one, each with the paper's
recipe (240 epochs, batch 64). After `--minutes` the training that runs is stopped as SIGTERM stops it; called again,
the program goes on where it was. Logs, and a summary beside the paper's figures, go to --out. Further options are those
of fastkd.train.
"""

import argparse
import json
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from benchmarks.timing import RESULTS, commit, record_file
from fastkd.recipes.recipe import read_recipe

TEACHERS = ("sftn", "standard")
WALL = "wall_seconds.json"
"""In a run's folder: of the whole process, in all slices; starting, compiling and capturing included."""
STOPPED = 130
"""What fastkd.train exits with when a signal stopped it."""


def train(data: str, teacher: str, folder: Path, options: list[str], seconds: float) -> int:
    """Begins or continues one pair; its exit code."""
    begin = ["cifar100-sftn", "--data", data, "--teacher-training", teacher, "--run", str(folder), *options]
    arguments = ["--resume", str(folder)] if (folder / "recipe.json").exists() else begin
    started = time.monotonic()
    process = subprocess.Popen([sys.executable, "-m", "fastkd.train", *arguments])
    try:
        return process.wait(timeout=max(seconds, 1))
    except subprocess.TimeoutExpired:
        process.send_signal(signal.SIGTERM)
        return process.wait()
    except KeyboardInterrupt:
        process.wait()  # it got the signal too, and writes
        raise
    finally:
        if folder.exists():
            wall = folder / WALL
            before = json.loads(wall.read_text()) if wall.exists() else 0.0
            wall.write_text(json.dumps(before + time.monotonic() - started))


def summary(folder: Path) -> dict[str, Any]:
    """Of one pair, as far as it is: accuracies in percent, seconds, and the paper's figures."""
    recipe = read_recipe(folder / "recipe.json")
    results = json.loads((folder / "results.json").read_text()) if (folder / "results.json").exists() else {}
    environment = json.loads((folder / "env.json").read_text())
    stages = {}
    for stage in recipe.stages:
        found = results.get("stages", {}).get(stage.name)
        if found is None:
            continue
        counts = found["test"][stage.name]
        stages[stage.name] = {
            "network": stage.network,
            "epochs": found["epochs"],
            "top1": 100 * counts["top1"] / counts["samples"],
            "seconds": found["seconds"],
            "starting_seconds": found["starting_seconds"],
            "paper": stage.published.top1 if stage.published else None,
        }
    wall_s = json.loads((folder / WALL).read_text())
    return {
        "stages": stages,
        "wall_seconds": wall_s,
        "environment": environment,
        "commit": commit(),
        "deviations": list(recipe.deviations),
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default="cifar100", help="NAME:PATH, as fastkd.train takes it")
    parser.add_argument("--runs", type=Path, default=Path("runs"), help="folder of the two runs")
    parser.add_argument("--out", type=record_file, default=str(RESULTS), help="folder of logs and summary")
    parser.add_argument("--minutes", type=float, default=1e6, help="stop after so many")
    options, others = parser.parse_known_args()
    end = time.monotonic() + 60 * options.minutes
    options.out.mkdir(parents=True, exist_ok=True)
    found, code = {}, 0
    for teacher in TEACHERS:
        folder = options.runs / f"headline-{teacher}"
        if time.monotonic() < end:
            code = train(options.data, teacher, folder, others, end - time.monotonic())
        if (folder / "metrics.jsonl").exists():
            found[teacher] = summary(folder)
            shutil.copy(folder / "metrics.jsonl", options.out / f"headline-{teacher}.jsonl")
        if code:
            break
    (options.out / "headline.json").write_text(json.dumps(found, indent=1) + "\n")
    for teacher, pair in found.items():
        print(f"{teacher:9} {pair['wall_seconds'] / 60:.1f} min in all")
        for name, stage in pair["stages"].items():
            beside = f" (paper {stage['paper']:.2f})" if stage["paper"] else ""
            took = f"{stage['epochs']} epochs in {stage['seconds'] / 60:.1f} min"
            took += f" and {stage['starting_seconds']:.0f} s to start"
            print(f"{teacher:9} {name:8} {stage['network']:9} {stage['top1']:.2f}%{beside}  {took}")
    return 0 if code == STOPPED else code


if __name__ == "__main__":
    sys.exit(main())
