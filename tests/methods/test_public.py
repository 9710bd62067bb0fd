"""What a method computes is a loss for other projects, too, out of the same code; or it is said why not."""

import ast
import inspect

import pytest

from fastkd import losses
from fastkd.methods import METHODS, rco

PUBLIC = {
    "ab": "ABLoss",
    "abkd": "ABDivergenceLoss",
    "aekd": "AEKDLoss",
    "aekd_f": "FitNetLoss",
    "at": "ATLoss",
    "aveg": "MultiTeacherLoss",
    "catkd": "CATLoss",
    "cc": "CCLoss",
    "ce": "ce_loss",
    "crd": "CRDLoss",
    "crld": "CRLDLoss",
    "ctkd": "CTKDLoss",
    "dist": "DISTLoss",
    "dkd": "DKDLoss",
    "dml": "MultiTeacherLoss",
    "fitnet": "FitNetLoss",
    "fsp": "FSPLoss",
    "ft": "FTLoss",
    "jsd": "JSDLoss",
    "kd": "KDLoss",
    "kdcl": "KDLoss",
    "ls": "LabelSmoothingLoss",
    "mlld": "MLLDLoss",
    "nkd": "NKDLoss",
    "none": "ce_loss",
    "nst": "NSTLoss",
    "oh": "OHLoss",
    "pkt": "PKTLoss",
    "rco": "KDLoss",
    "reviewkd": "ReviewKDLoss",
    "rkd": "RKDLoss",
    "rld": "RLDLoss",
    "sckd": "KDLoss",
    "sdd": "SDDLoss",
    "semckd": "SemCKDLoss",
    "simkd": "FitNetLoss",
    "sp": "SPLoss",
    "srd": "SRDLoss",
    "srrl": "SRRLLoss",
    "sskd": "SSKDLoss",
    "tfkd_reg": "VirtualTeacherLoss",
    "tfkd_self": "KDLoss",
    "ttm": "TTMLoss",
    "uskd": "USKDLoss",
    "vid": "VIDLoss",
    "vkd": "VkDLoss",
    "wttm": "TTMLoss",
}
UNDER_ANOTHER_NAME = {
    "aekd_f": "A hint to each teacher is FitNet's; the weights are made of gradients behind regressors of their own.",
    "aveg": "The paper averages what KDLoss gives for each teacher.",
    "dml": "The loss is KD from each peer; what is mutual is the training.",
    "kdcl": "The loss is KD; the target is made of all peers' logits.",
    "none": "It only counts hits.",
    "rco": "The loss is KD; the teachers are points of a training.",
    "sckd": "The loss is KD; whether it counts is asked of gradients, which a loss does not have.",
    "simkd": "The loss is the error of one map; the method is the student's other head.",
    "tfkd_reg": "The name says what the teacher is.",
    "tfkd_self": "The loss is KD; the teacher is the student's earlier self.",
    "wttm": "It is TTMLoss(weighted=True).",
    "abkd": "The name says what is computed.",
    "catkd": "The name is that of what is transferred.",
}
"""Why a loss does not have the name of its method."""


def test_every_method_has_one():
    assert PUBLIC.keys() == METHODS.keys()
    assert set(PUBLIC.values()) <= set(losses.__all__)
    own = {name for name, loss in PUBLIC.items() if loss.lower().removesuffix("loss").strip("_") == name}
    others = {"ls": "LabelSmoothingLoss"}  # what the letters stand for
    assert PUBLIC.keys() - own - others.keys() == UNDER_ANOTHER_NAME.keys()
    assert all(reason.endswith(".") for reason in UNDER_ANOTHER_NAME.values())


@pytest.mark.parametrize("name", METHODS)
def test_both_are_the_same_code(name):
    """The method's module takes the loss, or functions from where the loss is defined."""
    kind = METHODS[name].__mro__[1] if METHODS[name] is rco.RCO else METHODS[name]
    public = getattr(losses, PUBLIC[name])
    tree = ast.parse(inspect.getsource(inspect.getmodule(kind)))
    imports = [node for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)]
    taken = {node.module for node in imports} | {f"{node.module}.{one.name}" for node in imports for one in node.names}
    assert {public.__module__, f"fastkd.losses.{PUBLIC[name]}"} & taken


@pytest.mark.parametrize("name", sorted({*PUBLIC.values()}))
def test_it_says_what_it_is(name):
    assert inspect.getdoc(getattr(losses, name))
