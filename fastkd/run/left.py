"""What a run has left in its folder: the folders of its seeds, its results, and what its weights files have to be."""

import re
from pathlib import Path
from typing import Any

from fastkd.support.files import read_json
from fastkd.support.paths import inside, is_file, is_folder
from fastkd.support.schemas import Results, checked

_SEED_FOLDER = re.compile(r"seed-(0|[1-9][0-9]{0,18})")
"""Copies and backups of such a folder have other names."""


def seed_folders(folder: Path) -> list[Path]:
    """The folder of each seed of a run with several seeds, in their order; else none."""
    named = (path for path in inside(folder, "seed-*") if _SEED_FOLDER.fullmatch(path.name) and is_folder(path))
    return sorted(named, key=lambda path: int(path.name.partition("-")[2]))


def read_results(path: Path) -> dict[str, Any]:
    """The results that a run wrote, see `Run.results`."""
    return checked(Results, read_json(path), str(path))


def known_digest(file: Path) -> str | None:
    """The SHA-256 that a weights file had when its run wrote it; None where no run says so."""
    folder = file.parent.parent if file.parent.name == "checkpoints" else file.parent
    if not is_file(folder / "results.json") or not is_file(folder / "recipe.json"):
        return None
    stages = read_results(folder / "results.json")["stages"].values()
    digests = {name: digest for stage in stages for name, digest in stage.get("files", {}).items()}
    return digests.get(below(folder, file))


def below(folder: Path, file: Path) -> str:
    """The name of a file as results.json has it."""
    return file.relative_to(folder).as_posix()
