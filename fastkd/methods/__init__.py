"""What a student learns from its teachers: one paper, one file, one row of this table."""

import dataclasses
import importlib

from fastkd.methods.ab import AB
from fastkd.methods.abkd import ABKD
from fastkd.methods.aekd import AEKD, AEKDF
from fastkd.methods.at import AT
from fastkd.methods.aveg import AVEG
from fastkd.methods.base import Context, Method, MethodLoss
from fastkd.methods.catkd import CATKD
from fastkd.methods.cc import CC
from fastkd.methods.ce import CE
from fastkd.methods.crd import CRD
from fastkd.methods.crld import CRLD
from fastkd.methods.ctkd import CTKD
from fastkd.methods.dist import DIST
from fastkd.methods.dkd import DKD
from fastkd.methods.dml import DML
from fastkd.methods.fitnet import FitNet
from fastkd.methods.fsp import FSP
from fastkd.methods.ft import FT
from fastkd.methods.jsd import JSD
from fastkd.methods.kd import KD
from fastkd.methods.kdcl import KDCL
from fastkd.methods.ls import LS
from fastkd.methods.mlld import MLLD
from fastkd.methods.nkd import NKD
from fastkd.methods.none import NoLogitLoss
from fastkd.methods.nst import NST
from fastkd.methods.oh import OH
from fastkd.methods.pkt import PKT
from fastkd.methods.rco import RCO
from fastkd.methods.reviewkd import ReviewKD
from fastkd.methods.rkd import RKD
from fastkd.methods.rld import RLD
from fastkd.methods.sckd import SCKD
from fastkd.methods.sdd import SDD
from fastkd.methods.semckd import SemCKD
from fastkd.methods.simkd import SimKD
from fastkd.methods.sp import SP
from fastkd.methods.srd import SRD
from fastkd.methods.srrl import SRRL
from fastkd.methods.sskd import SSKD
from fastkd.methods.tfkd import TfKDReg, TfKDSelf
from fastkd.methods.ttm import TTM, WTTM
from fastkd.methods.uskd import USKD
from fastkd.methods.vid import VID
from fastkd.methods.vkd import VkD
from fastkd.support.errors import UserError, nearest

__all__ = [
    "METHODS",
    "Context",
    "Method",
    "MethodLoss",
    "find_method",
    "import_method",
    "is_known",
    "outside",
    "short_name",
    "split_methods",
]

METHODS: dict[str, type[Method]] = {
    "ab": AB,
    "abkd": ABKD,
    "aekd": AEKD,
    "aekd_f": AEKDF,
    "at": AT,
    "aveg": AVEG,
    "catkd": CATKD,
    "cc": CC,
    "ce": CE,
    "crd": CRD,
    "crld": CRLD,
    "ctkd": CTKD,
    "dist": DIST,
    "dkd": DKD,
    "dml": DML,
    "fitnet": FitNet,
    "fsp": FSP,
    "ft": FT,
    "jsd": JSD,
    "kd": KD,
    "kdcl": KDCL,
    "ls": LS,
    "mlld": MLLD,
    "nkd": NKD,
    "none": NoLogitLoss,
    "nst": NST,
    "oh": OH,
    "pkt": PKT,
    "rco": RCO,
    "reviewkd": ReviewKD,
    "rkd": RKD,
    "rld": RLD,
    "sckd": SCKD,
    "sdd": SDD,
    "semckd": SemCKD,
    "simkd": SimKD,
    "sp": SP,
    "srd": SRD,
    "srrl": SRRL,
    "sskd": SSKD,
    "tfkd_reg": TfKDReg,
    "tfkd_self": TfKDSelf,
    "ttm": TTM,
    "uskd": USKD,
    "vid": VID,
    "vkd": VkD,
    "wttm": WTTM,
}


def split_methods(names: str) -> tuple[str, ...]:
    """Splits `kd+at` into ("kd", "at"). Exactly one of them is a logit method; `ce` is added where none is named.

    Raises UserError for a method that is not known and for methods that do not go together.
    """
    parts = tuple(names.split("+"))
    if len({short_name(part) for part in parts}) != len(parts):
        raise UserError(f"a method, or its name in options and logs, stands twice in {names!r}")
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


def short_name(method: str) -> str:
    """The name of a method in its options, in logs and in names of stages.

    `at`, or `logitmatch` for the import path `package.module:LogitMatch`.
    """
    return (method.partition(":")[2] or method).lower()


def find_method(name: str) -> type[Method]:
    """A row of `METHODS`, or a class that `import_method` has imported; raises UserError without one.

    Nothing is imported here: the name may come out of a file.
    """
    found = METHODS.get(name) or _IMPORTED.get(name)
    if found is not None:
        return found
    if ":" in name:
        raise UserError(
            f"the method {name!r} is code outside of fastkd: nothing that a file names is imported; name it on the "
            "command line, by --method, or trust the run by --trust RUN"
        )
    raise UserError(f"no method {name!r}{nearest(name, METHODS)}")


_IMPORTED: dict[str, type[Method]] = {}


def import_method(name: str) -> type[Method]:
    """Imports the class at `package.module:Class`, which runs its module's code, for `find_method` to find.

    Only for a name that a person has given, on the command line or in a program. Raises UserError.
    """
    module_name, _, class_name = name.partition(":")
    try:
        method = getattr(importlib.import_module(module_name), class_name)
    except (ImportError, AttributeError, ValueError) as error:
        raise UserError(f"cannot import the method {name!r}: {error}") from error
    _refuse_what_is_no_method(method, repr(name))
    _IMPORTED[name] = method
    return method


def give_method(method: type[Method]) -> str:
    """Keeps a class of this program for `find_method`; returns the name that a recipe calls it by."""
    _refuse_what_is_no_method(method, repr(method))
    name = f"given:{method.__name__}"
    _IMPORTED[name] = method
    return name


def _refuse_what_is_no_method(method: object, name: str) -> None:
    if not (isinstance(method, type) and issubclass(method, Method)):
        raise UserError(f"{name} is not a class derived from fastkd.methods.Method")
    if not dataclasses.is_dataclass(getattr(method, "Settings", None)):
        raise UserError(f"{name} has no Settings: a dataclass of its options, which may be empty")


def is_known(name: str) -> bool:
    """Whether `find_method` finds it."""
    return name in METHODS or name in _IMPORTED


def outside(names: str) -> list[str]:
    """The import paths in `kd+package.module:Class`."""
    return [name for name in names.split("+") if ":" in name]
