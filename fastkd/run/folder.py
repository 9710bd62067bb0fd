"""The folder of a run: how it is begun, held by one process, and what it says of what lies in it."""

import contextlib
import hashlib
import os
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from fastkd.recipes.recipe import Recipe, read_recipe, recipe_to_plain
from fastkd.support.distributed import on_main
from fastkd.support.errors import UserError
from fastkd.support.files import make_folder, read_json, write_json
from fastkd.support.locks import clear_aside, locked
from fastkd.support.paths import inside, is_file, is_folder, is_there
from fastkd.support.schemas import Environment, Results, checked
from fastkd.training.checkpoint_shares import remove_orphans


def create_folder(folder: Path, recipe: Recipe, *, unlocked: bool = False) -> None:
    """Makes a run folder with its recipe; one that holds a run already is refused. unlocked: see `locked`."""
    if holds_run(folder):
        raise UserError(f"{folder} holds a run already: go on with it by --resume {folder}, or give another --run")
    make_folder(folder)
    with locked(folder, unlocked=unlocked):
        if holds_run(folder):
            raise UserError(f"{folder} holds a run that another process has just begun: give another --run")
        write_json(folder / "recipe.json", recipe_to_plain(recipe))


def folder_of_job(arguments: Sequence[str], recipe: str) -> Path | None:
    """The folder of what a command trains in a job of SLURM's, the same when the job is queued again; None: in no job.

    Another command in the same job has another one: its name ends with a digest of the arguments.
    """
    job = os.environ.get("SLURM_JOB_ID", "")
    if "SLURM_ARRAY_TASK_ID" in os.environ:
        job = f"{os.environ.get('SLURM_ARRAY_JOB_ID', job)}_{os.environ['SLURM_ARRAY_TASK_ID']}"
    if not job:
        return None
    if not re.fullmatch(r"[\w-]{1,50}", job):
        raise UserError(f"the environment variable SLURM_JOB_ID is {job!r:.60}, expected a job's number; or give --run")
    digest = hashlib.sha256("\0".join(arguments).encode(errors="surrogateescape")).hexdigest()
    return Path("runs") / f"{Path(recipe).stem}-job-{job}-{digest[:6]}"


def holds_run(folder: Path) -> bool:
    return is_there(folder / "recipe.json")


def open_run(folder: Path) -> Recipe:
    """The recipe of a run folder."""
    if not is_folder(folder):
        raise UserError(f"no run folder {folder}")
    if not is_file(folder / "recipe.json"):
        raise UserError(f"{folder} is no run folder: it has no recipe.json")
    return read_recipe(folder / "recipe.json")


@contextlib.contextmanager
def held(folders: Sequence[Path], *, unlocked: bool) -> Iterator[None]:
    """Holds run folders before anything is written in one of them, and clears what killed processes left there.

    Rank 0 does; where it may not, no rank goes on.
    """
    with contextlib.ExitStack() as locks:

        def take() -> None:
            for folder in dict.fromkeys(folders):
                make_folder(folder, own=folder.parent in folders)
                locks.enter_context(locked(folder, unlocked=unlocked))
                clear_aside(folder)
                clear_aside(folder / "checkpoints")
                remove_orphans(folder / "checkpoints")

        on_main(take)
        yield


_SEED_FOLDER = re.compile(r"seed-(0|[1-9][0-9]{0,18})")
"""Copies and backups of such a folder have other names."""


def seed_folders(folder: Path) -> list[Path]:
    """The folder of each seed of a run with several seeds, in their order; else none."""
    named = (path for path in inside(folder, "seed-*") if _SEED_FOLDER.fullmatch(path.name) and is_folder(path))
    return sorted(named, key=lambda path: int(path.name.partition("-")[2]))


def read_results(path: Path) -> dict[str, Any]:
    """The results that a run wrote, see `Run.results`."""
    return checked(Results, read_json(path), str(path))


def read_environment(folder: Path) -> dict[str, Any]:
    """What the env.json of a run says it was made with; nothing where there is none."""
    path = folder / "env.json"
    return checked(Environment, read_json(path), str(path)) if is_there(path) else {}


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
