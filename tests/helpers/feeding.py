"""Sources of batches, with how they are fed and what they are made of in one call."""

from dataclasses import fields
from typing import Any

from fastkd.data import DataSet, Feeding, Source, evaluation_source, training_source

_OF_FEEDING = {field.name for field in fields(Feeding)}


def _divided(options: dict[str, Any]) -> tuple[Feeding, dict[str, Any]]:
    feeding = Feeding(**{name: value for name, value in options.items() if name in _OF_FEEDING})
    return feeding, {name: value for name, value in options.items() if name not in _OF_FEEDING}


def training_of(data: DataSet, **options: Any) -> Source:
    feeding, rest = _divided(options)
    return training_source(data, feeding, **rest)


def evaluation_of(data: DataSet, **options: Any) -> Source:
    feeding, rest = _divided(options)
    return evaluation_source(data, feeding, **rest)
