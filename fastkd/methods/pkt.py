"""Probabilistic knowledge transfer (Passalis, Tefas: "Learning deep representations with probabilistic knowledge
transfer", ECCV 2018, arXiv 1803.10837)."""

from dataclasses import dataclass

from torch import nn

from fastkd.data.base import Batch
from fastkd.losses.relations import neighbourhood_divergence
from fastkd.methods.base import Method, MethodLoss, up_to_embedding, weighted
from fastkd.networks.base import Network, Output
from fastkd.support.plain import Checked
from fastkd.support.ranges import Weight


@dataclass(frozen=True, kw_only=True)
class PKTSettings(Checked):
    """weight · KL between the neighbourhoods of each sample in the batch, by cosine similarity."""

    weight: Weight = 30000.0
    """The default of RepDistiller and mdistiller; high, because their KL is a mean over all B² pairs."""


class PKT(Method):
    """Compares the embeddings. Each process compares the samples of its own batch."""

    Settings = PKTSettings
    about = "probabilities of neighbours"
    relates_samples = True
    teachers_needed = (1, 1)
    reads = ("embedding",)

    def reaches(self, student: Network) -> tuple[nn.Module, ...]:
        return up_to_embedding(student)

    def forward(self, student: Output, teachers: tuple[Output, ...], batch: Batch) -> MethodLoss:
        return weighted("pkt", self.settings.weight, neighbourhood_divergence(student.embedding, teachers[0].embedding))
