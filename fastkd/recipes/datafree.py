"""The recipes of data-free distillation that Table 7 of SimKD (Chen et al. 2022) compares: ZSKT, DAFL and CMI as the
library DataFree (9e79fa9) has them."""

from dataclasses import replace
from typing import Any

from fastkd.methods.kd import KDSettings
from fastkd.recipes.choice import Choice, stages_of
from fastkd.recipes.recipe import Recipe
from fastkd.recipes.sftn import cifar_training
from fastkd.synthesis.settings import SynthesisSettings
from fastkd.training.optimisation import Training

_CHOICE = Choice(data="cifar100", teacher_net="resnet38x2", student="resnet38", method="kd")
_TRAINING = Training(epochs=200, batch_size=256, lr=0.1, weight_decay=1e-4, schedule="cosine_by_epoch")


def cifar100_zskt(**chosen: Any) -> Recipe:
    """ZSKT (Micaelli and Storkey 2019) as DataFree has it: a generator raises what the student learns to lower.

    200 epochs of 400 steps of 256 images that are made for the step; one step of the generator before every five, by
    the negative KL of teacher and student. KL alone at T = 1: DataFree's scripts say 20, its code does not use it.

    Choices, where DataFree has scripts for CIFAR-10 alone and SimKD prints "default model hyper-parameters": the
    numbers are those of CIFAR-10; the teacher is Table 1's resnet38x2, whose accuracy is the one printed.
    """
    synthesis = SynthesisSettings(kind="zskt")
    return _recipe("cifar100-zskt", chosen, synthesis, _TRAINING, temperature=1.0)


def cifar100_dafl(**chosen: Any) -> Recipe:
    """DAFL (Chen et al. 2019) as DataFree has it: a generator of images that the teacher is sure of, in all classes.

    As `cifar100-zskt`, with latent vectors of 512; the generator learns by the cross-entropy of the teacher and the
    class that it names, 20 times the negative entropy of a batch's mean probabilities, and -0.001 times the size of
    the embeddings. Choices: as there.
    """
    synthesis = SynthesisSettings(kind="dafl", latent=512)
    return _recipe("cifar100-dafl", chosen, synthesis, _TRAINING, temperature=1.0)


def cifar100_cmi(**chosen: Any) -> Recipe:
    """CMI (Fang et al. 2021) as DataFree has it, from scratch: rounds of images that join a pool, with contrast.

    Before each of 200 epochs a generator learns for 200 steps; its 256 best images join the pool. The student takes 400
    steps of 128 of them, cropped and flipped. KL alone at T = 20. With `--method simkd` it is CMI+SimKD: the student
    whose logits a round contrasts with the teacher's is the one with the reused classifier.

    Choices: as in `cifar100-zskt`; for SimKD its own default of r = 2; a round on a bank that was filled exactly draws
    from all of it, where DataFree's sees nothing and keeps the images of its first step.
    """
    synthesis = SynthesisSettings(kind="cmi", generator="small", adversarial=0.5)
    return _recipe("cifar100-cmi", chosen, synthesis, replace(_TRAINING, batch_size=128), temperature=20.0)


def _recipe(
    name: str, chosen: dict[str, Any], synthesis: SynthesisSettings, training: Training, *, temperature: float
) -> Recipe:
    """A teacher that learns from data, a student that does not, and as control a student as `cifar100-simkd` has it."""
    choice = replace(_CHOICE, **chosen)
    settings = {"kd": KDSettings(ce_weight=0.0, kl_weight=1.0, temperature=temperature)}
    stages = stages_of(choice, cifar_training(choice.teacher_net), cifar_training(choice.student), settings)
    made = {"training": training, "synthesis": synthesis}
    stages = tuple(replace(stage, **made) if stage.role == "student" else stage for stage in stages)
    return Recipe(
        name=name,
        data=choice.data,
        image_size=32,
        stages=stages,
        published_classes=100,
        deviations=tuple(f"the paper does not print {what}" for what, so in _unprinted(choice.method).items() if so),
    )


def _unprinted(method: str) -> dict[str, bool]:
    """What a table says beside its figures, and whether it is so."""
    return {
        "the numbers of the synthesis: they are DataFree's for CIFAR-10": True,
        "which network WRN-40-2 is there: it is Table 1's": True,
        "SimKD's settings on made images: they are those on data": "simkd" in method,
    }
