"""Probabilistic knowledge transfer (Passalis, Tefas: "Learning deep representations with probabilistic knowledge
transfer", ECCV 2018, arXiv 1803.10837)."""

from dataclasses import dataclass

from torch import Tensor, nn

from fastkd.data.base import Batch
from fastkd.methods.base import Method, MethodLoss, up_to_embedding, weighted
from fastkd.methods.precision import full_precision
from fastkd.networks.base import Network, Output

EPSILON = 1e-7
"""Added to norms, and to both probabilities in the logarithm, as in the authors' code."""


@dataclass(frozen=True, kw_only=True)
class PKTSettings:
    """weight · KL between the neighbourhoods of each sample in the batch, by cosine similarity."""

    weight: float = 30000.0
    """The default of RepDistiller and mdistiller; high, because their KL is a mean over all B² pairs."""


class PKT(Method):
    """Compares the embeddings. Each process compares the samples of its own batch."""

    Settings = PKTSettings
    teachers_needed = (1, 1)

    def reaches(self, student: Network) -> tuple[nn.Module, ...]:
        return up_to_embedding(student)

    def forward(self, student: Output, teachers: tuple[Output, ...], batch: Batch) -> MethodLoss:
        return weighted("pkt", self.settings.weight, self.divergence(student.embedding, teachers[0].embedding))

    @staticmethod
    @full_precision
    def divergence(student: Tensor, teacher: Tensor) -> Tensor:
        p, q = neighbourhoods(teacher), neighbourhoods(student)
        return (p * ((p + EPSILON) / (q + EPSILON)).log()).mean()


def neighbourhoods(embedding_BD: Tensor) -> Tensor:
    """[B,B] probabilities of each sample's neighbours, itself among them; rows sum to 1."""
    direction = embedding_BD / (embedding_BD.norm(dim=1, keepdim=True) + EPSILON)
    similarity = (direction @ direction.T + 1) / 2
    return similarity / similarity.sum(1, keepdim=True)
