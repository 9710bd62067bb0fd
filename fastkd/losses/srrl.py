"""Softmax regression representation learning (Yang, Martinez, Bulat, Tzimiropoulos: "Knowledge distillation via softmax
regression representation learning", ICLR 2021)."""

from typing import Literal

from torch import Tensor, nn

from fastkd.losses.checks import check_choice
from fastkd.losses.features import mean_squared_error
from fastkd.losses.frozen import Frozen
from fastkd.losses.module import TensorLoss
from fastkd.support.ranges import Width


class SRRLLoss(TensorLoss):
    """The MSE of a student's connected embedding and the teacher's, and that of what the teacher's classifier says.

    A connector, which is for your optimiser, brings the student's embedding to the teacher's width. The classifier is a
    frozen copy, through which gradients pass.

    classifier: the teacher's, from its embedding to its logits.
    source: what the connector works on, the pooled "embedding" (SimKD's code) or the "map" before pooling (the
        authors').
    """

    def __init__(
        self,
        student_dim: Width,
        teacher_dim: Width,
        classifier: nn.Module,
        *,
        source: Literal["embedding", "map"] = "embedding",
    ):
        check_choice("source", source, ("embedding", "map"))
        super().__init__(student_dim=student_dim, teacher_dim=teacher_dim)
        self.source = source
        if source == "map":
            convolution = nn.Conv2d(student_dim, teacher_dim, 1, bias=False)
            self.connector = nn.Sequential(convolution, nn.BatchNorm2d(teacher_dim), nn.ReLU())
        else:
            linear = nn.Linear(student_dim, teacher_dim, bias=False)
            self.connector = nn.Sequential(linear, nn.BatchNorm1d(teacher_dim), nn.ReLU())
        self.classifier = Frozen(classifier)

    def forward(self, student: Tensor, teacher: Tensor, teacher_logits: Tensor) -> Tensor:
        """student: [B,D], or the map [B,C,H,W]; teacher: its embedding [B,E]; teacher_logits: [B,K]."""
        feature, logit = self.parts(student, teacher.detach(), teacher_logits.detach())
        return feature + logit

    def parts(self, student: Tensor, teacher: Tensor, teacher_logits: Tensor) -> tuple[Tensor, Tensor]:
        """(of the embeddings, of the logits)."""
        connected = self.connector(student)
        connected = connected.mean((2, 3)) if self.source == "map" else connected
        feature = mean_squared_error(connected, teacher)
        return feature, mean_squared_error(self.classifier(connected), teacher_logits)
