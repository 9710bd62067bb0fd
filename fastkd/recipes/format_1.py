"""Reads what fastkd 0.1 wrote: recipes of format 1, whose stages named their kind and held what follows from it."""

from typing import Any

from fastkd.support.errors import UserError

FORMAT = 1
_KINDS = ("supervised", "student_aware", "distill", "loaded")
_DERIVED = ("prestage", "after", "peers")


def recipe(plain: dict[str, Any], where: str) -> dict[str, Any]:
    """The recipe in the format of today, whose reader finds what is wrong with the rest."""
    stages = plain.get("stages")
    if not isinstance(stages, list):
        return plain
    converted = []
    for number, stage in enumerate(stages):
        kind = stage.get("kind") if isinstance(stage, dict) else None
        if kind not in _KINDS:
            known = ", ".join(map(repr, _KINDS))
            raise UserError(f"{where}.stages[{number}].kind is {kind!r}, expected one of {known}")
        converted.append({name: value for name, value in _renamed(stage).items() if name not in (*_DERIVED, "kind")})
    return {**plain, "stages": converted}


def identity(plain: dict[str, Any]) -> dict[str, Any]:
    """What a checkpoint or a result says it was made with, in the format of today."""
    if "format" in plain:
        return plain
    stage, data = plain.get("stage"), plain.get("data")
    kind = stage.get("kind") if isinstance(stage, dict) else None
    if (
        not isinstance(kind, str)
        or kind not in _FIELDS
        or not isinstance(data, list | tuple)
        or len(data) != len(_DATA)
    ):
        raise UserError("what a checkpoint or a result was made with is in no format that fastkd has written")
    assert isinstance(stage, dict)
    stage = _renamed(stage)
    fields = {"kind", "name", "role", "network"} | _FIELDS[kind]
    return {
        **plain,
        "format": FORMAT + 1,
        "stage": {name: value for name, value in stage.items() if name in fields},
        "data": dict(zip(_DATA, plain["data"], strict=True)),
    }


_DATA = ("data", "image_size", "augmentation", "mean", "std", "limit_train")


_TRAINED = {"training"}
_LEARNING = _TRAINED | {"method", "settings"}
_FIELDS = {
    "loaded": {"file", "sha256"},
    "supervised": _TRAINED,
    "student_aware": _TRAINED | {"sftn"},
    "distill": _LEARNING | {"teachers", "after"},
    "prestage": _LEARNING | {"teachers", "after", "prestage"},
    "mutual": _LEARNING | {"peers"},
}


def _renamed(stage: dict[str, Any]) -> dict[str, Any]:
    name = str(stage.get("name", ""))
    role = "teacher" if name.startswith("teacher") else "control" if name == "control" else "student"
    renamed = {"branches": "sftn"}
    return {renamed.get(key, key): value for key, value in stage.items()} | {"role": role}
