"""Code outside of fastkd that a run names: imported only for somebody who trusts it, who is told what it is."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from fastkd.data import is_import_path, named_by_a_person
from fastkd.methods import import_method, is_known, outside
from fastkd.run.description import metadata_in
from fastkd.run.folder import seed_folders
from fastkd.support.errors import UserError
from fastkd.support.files import read_bytes, read_json
from fastkd.support.paths import inside, is_file, is_there


def trust(place: Path, tell: Callable[[str], None]) -> None:
    """Imports the methods and data sets outside of fastkd that a run folder or a weights file names.

    Tells what, before it does.
    """
    if not is_there(place):
        raise UserError(f"--trust {place}: there is nothing")
    for file in _files(place):
        for name in dict.fromkeys(_named(file)):
            if not is_known(name):
                tell(f"imports {name}, which {file} names")
                import_method(name)
        for name in _data_named(file):
            tell(f"imports {name}, which {file} names")
            named_by_a_person(name)


def _files(place: Path) -> list[Path]:
    if is_file(place):
        return [place]
    folders = [place, *seed_folders(place)]
    weights = [file for folder in folders for file in inside(folder, "*.safetensors")]
    return [*(folder / "recipe.json" for folder in folders if is_file(folder / "recipe.json")), *weights]


def _data_named(file: Path) -> Iterator[str]:
    """The import path of a data set that a recipe names."""
    plain = read_json(file) if file.suffix == ".json" else None
    name = plain.get("data") if isinstance(plain, dict) else None
    if isinstance(name, str) and is_import_path(name):
        yield name


def _named(file: Path) -> Iterator[str]:
    """The import paths that a recipe or the metadata of a weights file names."""
    if file.suffix == ".json":
        plain = read_json(file)
        stages = plain.get("stages") if isinstance(plain, dict) else None
        for stage in stages if isinstance(stages, list) else ():
            method = stage.get("method") if isinstance(stage, dict) else None
            yield from outside(method) if isinstance(method, str) else ()
    else:
        yield from _of_metadata(metadata_in(read_bytes(file), file) or {})


def _of_metadata(plain: dict[str, Any]) -> Iterator[str]:
    deployment = plain.get("deployment", {"methods": {}, "teachers": []})
    yield from (name for name in deployment["methods"] if ":" in name)
    for teacher in deployment["teachers"]:
        yield from _of_metadata(teacher)
