"""What a student learns from its teachers: one paper, one file, one row of this table."""

import importlib

from fastkd.methods.ab import AB
from fastkd.methods.aekd import AEKD, AEKDF
from fastkd.methods.at import AT
from fastkd.methods.aveg import AVEG
from fastkd.methods.base import Context, Method, MethodLoss
from fastkd.methods.cc import CC
from fastkd.methods.ce import CE
from fastkd.methods.crd import CRD
from fastkd.methods.dkd import DKD
from fastkd.methods.dml import DML
from fastkd.methods.fitnet import FitNet
from fastkd.methods.fsp import FSP
from fastkd.methods.ft import FT
from fastkd.methods.kd import KD
from fastkd.methods.kdcl import KDCL
from fastkd.methods.ls import LS
from fastkd.methods.none import NoLogitLoss
from fastkd.methods.nst import NST
from fastkd.methods.oh import OH
from fastkd.methods.pkt import PKT
from fastkd.methods.rco import RCO
from fastkd.methods.reviewkd import ReviewKD
from fastkd.methods.rkd import RKD
from fastkd.methods.semckd import SemCKD
from fastkd.methods.simkd import SimKD
from fastkd.methods.sp import SP
from fastkd.methods.srrl import SRRL
from fastkd.methods.sskd import SSKD
from fastkd.methods.tfkd import TfKDReg, TfKDSelf
from fastkd.methods.vid import VID
from fastkd.support.errors import UserError, nearest

__all__ = ["METHODS", "Context", "Method", "MethodLoss", "find_method", "split_methods"]

METHODS: dict[str, type[Method]] = {
    "ab": AB,
    "aekd": AEKD,
    "aekd_f": AEKDF,
    "at": AT,
    "aveg": AVEG,
    "cc": CC,
    "ce": CE,
    "crd": CRD,
    "dkd": DKD,
    "dml": DML,
    "fitnet": FitNet,
    "fsp": FSP,
    "ft": FT,
    "kd": KD,
    "kdcl": KDCL,
    "ls": LS,
    "none": NoLogitLoss,
    "nst": NST,
    "oh": OH,
    "pkt": PKT,
    "rco": RCO,
    "reviewkd": ReviewKD,
    "rkd": RKD,
    "semckd": SemCKD,
    "simkd": SimKD,
    "sp": SP,
    "srrl": SRRL,
    "sskd": SSKD,
    "tfkd_reg": TfKDReg,
    "tfkd_self": TfKDSelf,
    "vid": VID,
}


def split_methods(names: str) -> tuple[str, ...]:
    """Splits `kd+at` into ("kd", "at"). Exactly one of them is a logit method; `ce` is added where none is named.

    Raises UserError for a method that is not known and for methods that do not go together.
    """
    parts = tuple(names.split("+"))
    if len(set(parts)) != len(parts):
        raise UserError(f"a method stands twice in {names!r}")
    logit_methods = [name for name in parts if find_method(name).is_logit_method]
    if not logit_methods:
        return ("ce", *parts)
    if parts == ("none",):
        raise UserError("--method none trains nothing: join a method to it, as in none+fitnet")
    if len(logit_methods) != 1:
        known = ", ".join(name for name, method in METHODS.items() if method.is_logit_method)
        raise UserError(f"--method {names}: expected exactly one method that owns the cross-entropy ({known})")
    if len(parts) > 1:
        for name in parts:
            if find_method(name).among_peers:
                raise UserError(f"--method {names}: {name} trains several networks together, nothing joins it")
    return parts


def find_method(name: str) -> type[Method]:
    """A row of `METHODS`, or the class at the import path `package.module:Class`; raises UserError without one."""
    if ":" not in name:
        if name not in METHODS:
            raise UserError(f"no method {name!r}{nearest(name, METHODS)}")
        return METHODS[name]
    module_name, _, class_name = name.partition(":")
    try:
        method = getattr(importlib.import_module(module_name), class_name)
    except (ImportError, AttributeError, ValueError) as error:  # a ValueError is that of an empty name
        raise UserError(f"cannot import the method {name!r}: {error}") from error
    if not (isinstance(method, type) and issubclass(method, Method)):
        raise UserError(f"{name!r} is not a class derived from fastkd.methods.Method")
    return method
