"""Stages of every method on several pairs of small networks."""

import torch

from fastkd import networks
from fastkd.data import Batch
from fastkd.methods import METHODS, Context, split_methods
from fastkd.networks.base import output_shapes
from fastkd.networks.mobilenet_v2 import MobileNetV2
from fastkd.networks.resnet import BasicUnit, Bottleneck, KuangliuResNet
from fastkd.networks.vgg import VGG
from fastkd.training.stages import Distill

CLASSES, SIZE, COUNT = 10, 32, 4


SMALL = {
    "four": lambda num_classes: KuangliuResNet(
        BasicUnit, depths=(1, 1, 1, 1), widths=(8, 12, 16, 24), num_classes=num_classes
    ),
    "bottlenecks": lambda num_classes: KuangliuResNet(
        Bottleneck, depths=(1, 1, 1, 1), widths=(16, 24, 32, 48), num_classes=num_classes
    ),
    "vgg": lambda num_classes: VGG((1, 1, 1, 1, 1), widths=(8, 8, 12, 16, 24), num_classes=num_classes),
    "mobile": lambda num_classes: MobileNetV2(width=0.25, num_classes=num_classes),
}


PAIRS = {
    "same depth": ("resnet8x2", "resnet8"),
    "wrn to shuffle": ("wrn_16_1", "ShuffleV2_0_2"),
    "resnet to vgg": ("bottlenecks", "vgg"),
    "mobile": ("four", "mobile"),
    "fewer blocks": ("four", "resnet8"),
    "more blocks": ("wrn_16_1", "vgg"),
}


ON_LOGITS = ("abkd", "crld", "ctkd", "dist", "jsd", "mlld", "nkd", "rld", "sckd", "ttm", "wttm")
"""Methods that look at logits alone: one pair of networks is as good as any."""


UNEQUAL = ("fewer blocks", "more blocks")


REFUSED = {
    "fsp": (tuple(PAIRS), "need the same channels"),
    "ab": (UNEQUAL, "need the same number of blocks"),
    "reviewkd": (UNEQUAL, "need the same number of blocks"),
}


TRUNCATED = ("at", "vid", "nst", "oh")


VARIANTS = {
    "ab": {"weight": 1.0},
    "fsp": {"weight": 1.0},
    "kdcl linear": {"target": "linear"},
    "kdcl min_logit": {"target": "min_logit"},
    "kdcl general": {"target": "general"},
    "simkd joint": {"ce_weight": 0.5, "kl_weight": 0.5},
    "simkd vector": {"projector": "vector"},
    "simkd normalised": {"projector": "normalised"},
    "simkd orthogonal": {"projector": "orthogonal"},
    "fitnet normalised": {"projector": "normalised"},
    "fitnet orthogonal": {"projector": "orthogonal"},
    "simkd +": {"reused_blocks": 1},
    "sdd nkd": {"base": "nkd"},
    "srd correlations": {"form": "correlations"},
    "vkd places": {"form": "places"},
    "kd standardised": {"standardise": True},
    "ctkd standardised": {"standardise": True},
    "tfkd_reg code": {"arithmetic": "code", "multiplier": 50.0},
}


SETTINGS = {"crd": {"negatives": 8}}


def build(name):
    make = SMALL.get(name)
    return networks.build(name, num_classes=CLASSES) if make is None else make(CLASSES)


def batch(seed=0, size=SIZE):
    generator = torch.Generator().manual_seed(seed)
    images = torch.randn(4, COUNT, 3, size, size, generator=generator)
    labels = torch.randint(CLASSES, (COUNT,), generator=generator)
    return Batch(images, labels, torch.arange(COUNT), torch.tensor(0), torch.tensor(0))


def context(student, *teachers):
    return Context(
        student=student,
        teachers=teachers,
        student_shapes=output_shapes(student, SIZE),
        teacher_shapes=tuple(output_shapes(teacher, SIZE) for teacher in teachers),
        classes=CLASSES,
        samples=40,
        labels=torch.arange(40) % CLASSES,
        batch_size=COUNT,
        steps_per_epoch=10,
        seed=0,
    )


def distill(name, student_name, *teacher_names, seed=0, **settings):
    torch.manual_seed(seed)
    student, *teachers = (build(network) for network in (student_name, *teacher_names))
    given = context(student, *teachers)
    methods = {}
    for part in split_methods("none+at" if name == "none" else name):
        kind, own = METHODS[part], settings if part == name else settings.get(part, {})
        methods[part] = kind(kind.Settings(**(SETTINGS.get(part, {}) | own)), given)
    return Distill(student, teachers, methods)


def step(stage, optimizer, data):
    """Trains once, and says which parameters that should have got a gradient did not."""
    stage(data).total.backward()
    missing = [
        name
        for name, p in stage.named_parameters()
        if p.requires_grad and (p.grad is None or not p.grad.isfinite().all())
    ]
    optimizer.step()
    optimizer.zero_grad()
    return missing


def trained(stage):
    return [parameter for parameter in stage.parameters() if parameter.requires_grad]


def refused(name, pair):
    return pair in REFUSED.get(name, ((), ""))[0]


def has_a_prestage(name):
    return METHODS[name].prestage_training(METHODS[name].Settings()) is not None


EACH = list(dict.fromkeys([*METHODS, *VARIANTS]))


def with_a_weight(variant):
    """A stage in which every method has a loss, also those that as published have none."""
    name = variant.split()[0]
    pair = ("resnet14", "resnet8") if name == "fsp" else PAIRS["same depth"]
    return distill(name, pair[1], pair[0], **VARIANTS.get(variant, {}))
