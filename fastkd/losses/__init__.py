"""The distillation losses for use in any project; needs torch and numpy alone.

    from fastkd.losses import KDLoss
    loss = KDLoss(temperature=4.0, kl_weight=0.9, ce_weight=0.1)
    loss(student_logits, teacher_logits, labels).total.backward()

Logits are [B,K], [B,T,K] or [B,K,H,W], floating point, of one device; labels int64 on it, one a row. Every function
returns a small named tuple: `total`, the one differentiable value, its parts detached, and the hit counts; all stay on
that device and nothing waits for it. Temperatures and weights are numbers, or tensors of one number on that device, to
which no gradient goes.

The losses of feature maps and of relations (`ATLoss`, `RKDLoss` …) take the tensors of student and teacher and return
one value, without its weight. Some have parameters (`VIDLoss`, `SRDLoss` …), which are for your optimiser.

The modules of logits take numbers, and those may be set by their names at any time: `loss.temperature = 2.0`. A
captured graph and a compiled one follow.
"""

from fastkd.losses.ab_divergence import ABDivergenceLoss, ABDivergenceTerms, ab_divergence_loss
from fastkd.losses.aekd import AEKDLoss
from fastkd.losses.correlation import DISTLoss
from fastkd.losses.crd import CRDLoss
from fastkd.losses.crld import CRLDLoss
from fastkd.losses.ctkd import CTKDLoss
from fastkd.losses.dkd import DKDLoss, DKDTerms, dkd_loss
from fastkd.losses.features import ATLoss, CATLoss, FitNetLoss, FSPLoss, FTLoss, HCLLoss, NSTLoss
from fastkd.losses.jsd import JSDLoss, JSDTerms, jsd_loss
from fastkd.losses.kd import CETerms, KDLoss, KDTerms, MultiTeacherLoss, ce_loss, kd_loss, multi_teacher_loss
from fastkd.losses.likelihood import VIDLoss
from fastkd.losses.linear import LinearJSDLoss, LinearKDLoss, linear_jsd_loss, linear_kd_loss
from fastkd.losses.mlld import MLLDLoss, MLLDTerms
from fastkd.losses.nkd import NKDLoss, NKDTerms, nkd_loss
from fastkd.losses.preacts import ABLoss, OHLoss
from fastkd.losses.projected import SRDLoss, VkDLoss
from fastkd.losses.relations import CCLoss, PKTLoss, RKDLoss, SPLoss
from fastkd.losses.reviewkd import ReviewKDLoss
from fastkd.losses.rld import RLDLoss, RLDTerms, rld_loss
from fastkd.losses.sdd import SDDLoss
from fastkd.losses.semckd import SemCKDLoss
from fastkd.losses.sftn import SFTNLoss, SFTNTerms, sftn_loss
from fastkd.losses.smoothing import LabelSmoothingLoss, VirtualTeacherLoss, label_smoothing_loss, virtual_teacher_loss
from fastkd.losses.srrl import SRRLLoss
from fastkd.losses.sskd import SSKDLoss
from fastkd.losses.teachers import LinearTeacher, TeacherProbabilities, keep_draws, keep_top
from fastkd.losses.ttm import TTMLoss, TTMTerms, ttm_loss
from fastkd.losses.uskd import USKDLoss
from fastkd.ops.crd import CRDTerms
from fastkd.ops.distill_loss.reference_parts import standardised_logits
from fastkd.ops.sparse import SparseTeacher

__all__ = [
    "ABDivergenceLoss",
    "ABDivergenceTerms",
    "ABLoss",
    "AEKDLoss",
    "ATLoss",
    "CATLoss",
    "CCLoss",
    "CETerms",
    "CRDLoss",
    "CRDTerms",
    "CRLDLoss",
    "CTKDLoss",
    "DISTLoss",
    "DKDLoss",
    "DKDTerms",
    "FSPLoss",
    "FTLoss",
    "FitNetLoss",
    "HCLLoss",
    "JSDLoss",
    "JSDTerms",
    "KDLoss",
    "KDTerms",
    "LabelSmoothingLoss",
    "LinearJSDLoss",
    "LinearKDLoss",
    "LinearTeacher",
    "MLLDLoss",
    "MLLDTerms",
    "MultiTeacherLoss",
    "NKDLoss",
    "NKDTerms",
    "NSTLoss",
    "OHLoss",
    "PKTLoss",
    "RKDLoss",
    "RLDLoss",
    "RLDTerms",
    "ReviewKDLoss",
    "SDDLoss",
    "SFTNLoss",
    "SFTNTerms",
    "SPLoss",
    "SRDLoss",
    "SRRLLoss",
    "SSKDLoss",
    "SemCKDLoss",
    "SparseTeacher",
    "TTMLoss",
    "TTMTerms",
    "TeacherProbabilities",
    "USKDLoss",
    "VIDLoss",
    "VirtualTeacherLoss",
    "VkDLoss",
    "ab_divergence_loss",
    "ce_loss",
    "dkd_loss",
    "jsd_loss",
    "kd_loss",
    "keep_draws",
    "keep_top",
    "label_smoothing_loss",
    "linear_jsd_loss",
    "linear_kd_loss",
    "multi_teacher_loss",
    "nkd_loss",
    "rld_loss",
    "sftn_loss",
    "standardised_logits",
    "ttm_loss",
    "virtual_teacher_loss",
]
