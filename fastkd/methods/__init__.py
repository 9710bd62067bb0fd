"""What a student learns from its teachers: one paper, one file, one row of this table."""

import importlib

from fastkd.errors import UserError, nearest
from fastkd.methods.base import Context, Method, MethodLoss
from fastkd.methods.ce import CE
from fastkd.methods.kd import KD

__all__ = ["METHODS", "Context", "Method", "MethodLoss", "find_method", "split_methods"]

METHODS: dict[str, type[Method]] = {
    "ce": CE,
    "kd": KD,
}


def split_methods(names: str) -> tuple[str, ...]:
    """`kd+at` as ("kd", "at"), each known, exactly one of them a logit method."""
    parts = tuple(names.split("+"))
    if len(set(parts)) != len(parts):
        raise UserError(f"a method stands twice in {names!r}")
    logit_methods = [name for name in parts if find_method(name).is_logit_method]
    if len(logit_methods) != 1:
        known = ", ".join(name for name, method in METHODS.items() if method.is_logit_method)
        raise UserError(f"--method {names}: expected exactly one method that owns the cross-entropy ({known})")
    return parts


def find_method(name: str) -> type[Method]:
    """A row of `METHODS`, or the class at the import path `package.module:Class`."""
    if ":" not in name:
        if name not in METHODS:
            raise UserError(f"no method {name!r}{nearest(name, METHODS)}")
        return METHODS[name]
    module_name, _, class_name = name.partition(":")
    try:
        method = getattr(importlib.import_module(module_name), class_name)
    except (ImportError, AttributeError) as error:
        raise UserError(f"cannot import the method {name!r}: {error}") from error
    if not (isinstance(method, type) and issubclass(method, Method)):
        raise UserError(f"{name!r} is not a class derived from fastkd.methods.Method")
    return method
