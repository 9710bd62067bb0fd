"""Code outside of fastkd that a run names: imported only for somebody who trusts it, who is told what it is."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from fastkd import networks
from fastkd.data import is_import_path, named_by_a_person
from fastkd.methods import import_method, is_known, outside
from fastkd.run.description import metadata_in
from fastkd.run.folder import seed_folders
from fastkd.support.errors import UserError
from fastkd.support.files import read_bytes, read_json
from fastkd.support.paths import inside, is_file, is_there

Named = tuple[str, Callable[[str], object]]
"""(a name, what imports it)"""


def trust(place: Path, tell: Callable[[str], None]) -> None:
    """Imports the methods, networks and data sets outside of fastkd that a run folder or a weights file names.

    Tells what, before it does.
    """
    if not is_there(place):
        raise UserError(f"--trust {place}: there is nothing")
    for file in _files(place):
        for name, import_it in dict.fromkeys(_named(file)):
            if not is_known(name) and not networks.is_known(name):
                tell(f"imports {name}, which {file} names")
                import_it(name)
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


def _named(file: Path) -> Iterator[Named]:
    """What a recipe or the metadata of a weights file names of code outside."""
    if file.suffix == ".json":
        plain = read_json(file)
        stages = plain.get("stages") if isinstance(plain, dict) else None
        for stage in stages if isinstance(stages, list) else ():
            yield from _of_stage(stage) if isinstance(stage, dict) else ()
    else:
        yield from _of_metadata(metadata_in(read_bytes(file), file) or {})


def _of_stage(stage: dict[str, Any]) -> Iterator[Named]:
    method, branches = stage.get("method"), stage.get("sftn")
    yield from ((name, import_method) for name in (outside(method) if isinstance(method, str) else ()))
    for owner in (stage, branches if isinstance(branches, dict) else {}):
        yield from _of_network(owner.get("network"))


def _of_metadata(plain: dict[str, Any]) -> Iterator[Named]:
    deployment = plain.get("deployment", {"methods": {}, "teachers": []})
    yield from _of_network(plain.get("network"))
    yield from ((name, import_method) for name in deployment["methods"] if ":" in name)
    for teacher in deployment["teachers"]:
        yield from _of_metadata(teacher)


def _of_network(name: Any) -> Iterator[Named]:
    if isinstance(name, str) and networks.is_outside(name):
        yield name, networks.admit
