"""Self-supervision knowledge distillation (Xu, Liu, Li, Loy: "Knowledge distillation meets self-supervision", ECCV
2020, arXiv 2006.07114)."""

from dataclasses import dataclass
from typing import Annotated

from fastkd.data.base import FOUR_ROTATIONS, Batch
from fastkd.losses import SSKDLoss
from fastkd.methods.base import Context, Method, MethodLoss, PrestageTraining, PrestageWork
from fastkd.networks.base import Network, Output
from fastkd.support.fields import OnlyWith
from fastkd.support.plain import Checked
from fastkd.support.ranges import EpochsOrNone, Positive, Share, Temperature, Weight


@dataclass(frozen=True, kw_only=True)
class SSKDSettings(Checked):
    """tf_weight · KD on rotated images + ss_weight · KL between the similarities to the plain ones.

    The paper's losses on the plain images are those of kd: `--method kd+sskd`, with its CE 0.1 and KL 0.9.
    """

    tf_weight: Annotated[Weight, OnlyWith("tf_ratio")] = 2.7
    """Weight of KD on the rotated images."""
    ss_weight: Weight = 10.0
    """Weight of KL between the similarities."""
    tf_temperature: Annotated[Temperature, OnlyWith("tf_weight"), OnlyWith("tf_ratio")] = 4.0
    ss_temperature: Annotated[Temperature, OnlyWith("ss_weight")] = 0.5
    tf_ratio: Annotated[Share, OnlyWith("tf_weight")] = 1.0
    """The share that is kept of the rotated images that the teacher gets wrong: those it ranks best."""
    ss_ratio: Annotated[Share, OnlyWith("ss_weight")] = 0.75
    """The share that is kept of those whose plain image is not the most similar one to the teacher."""
    epochs: EpochsOrNone = 60
    """Epochs of the training of the teacher's head, which comes before the student's; 0 for none."""
    lr: Annotated[Positive, OnlyWith("epochs")] = 0.05
    """Learning rate of that training."""
    milestones: Annotated[tuple[EpochsOrNone, ...], OnlyWith("epochs")] = (30, 45)
    """Milestones of that training."""


class SSKD(Method):
    """Student and teacher see every image plain and turned by 90°, 180° and 270°.

    Each process compares the samples of its own batch.
    """

    Settings = SSKDSettings
    about = "self-supervision by rotated images"
    relates_samples = True
    teachers_needed = (1, 1)
    reads = ("embedding", "logits")
    views = FOUR_ROTATIONS

    def __init__(self, settings: SSKDSettings, context: Context):
        super().__init__(settings, context)
        widths = (shapes.embedding.shape[1] for shapes in (context.student_shapes, context.teacher_shapes[0]))
        self.loss = SSKDLoss(
            *widths,
            tf_weight=settings.tf_weight,
            ss_weight=settings.ss_weight,
            tf_temperature=settings.tf_temperature,
            ss_temperature=settings.ss_temperature,
            tf_ratio=settings.tf_ratio,
            ss_ratio=settings.ss_ratio,
        )

    def forward(self, student: Output, teachers: tuple[Output, ...], batch: Batch) -> MethodLoss:
        logits, embeddings = (student.logits, teachers[0].logits), (student.embedding, teachers[0].embedding)
        tf, ss = self.loss.parts(*logits, *embeddings, batch.labels)
        total = self.settings.tf_weight * tf + self.settings.ss_weight * ss
        return MethodLoss(total, {"tf": tf.detach(), "ss": ss.detach()})

    @classmethod
    def prestage_training(cls, settings: SSKDSettings) -> PrestageTraining | None:
        if not settings.epochs:
            return None
        return PrestageTraining(epochs=settings.epochs, lr=settings.lr, milestones=settings.milestones)

    def prestage(self, student: Network) -> PrestageWork:
        return PrestageWork(trained=(self.loss.teacher_head,), loss=self._contrast, student=False, views=FOUR_ROTATIONS)

    def _contrast(self, student: Output | None, teachers: tuple[Output, ...], batch: Batch) -> MethodLoss:
        loss = self.loss.contrast(teachers[0].embedding)
        return MethodLoss(loss.total, {"contrast": loss.ce, "right": loss.hits[0] / (3 * len(batch.labels))})
