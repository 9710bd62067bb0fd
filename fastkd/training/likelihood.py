"""What a network says of labelled images: hits, negative log-likelihood and entropy."""

import torch
import torch.nn.functional as F
from torch import Tensor

from fastkd.ops.distill_loss.reference import hit_counts


class Likelihood:
    """Hits, likelihood and entropy of one network over batches, without the other ranks'.

    Sums are of float64, at temperature 1, in nats.
    """

    def __init__(self, device: torch.device | str = "cpu"):
        self.hits = torch.zeros(2, dtype=torch.int64, device=device)
        self.sums = torch.zeros(2, dtype=torch.float64, device=device)
        """[2]: of -log p(label), and of -Σ p log p over the classes."""
        self.count = 0

    def add(self, logits_BK: Tensor, labels_B: Tensor) -> None:
        log_p = F.log_softmax(logits_BK.double(), dim=1)
        likelihood = log_p.gather(1, labels_B.unsqueeze(1)).sum()
        self.sums -= torch.stack([likelihood, (log_p.exp() * log_p).sum()])
        self.hits += hit_counts(logits_BK, labels_B, torch.ones_like(labels_B, dtype=torch.bool))
        self.count += len(labels_B)

    def read(self) -> dict[str, float]:
        """`top1`, `top5`: images whose label ranks among the first; `samples`; `nll`: mean negative log-likelihood of
        the labels; `entropy`: mean entropy of the predictions; both in nats."""
        nll, entropy = (self.sums / self.count).tolist()
        top1, top5 = self.hits.tolist()
        return {"top1": top1, "top5": top5, "samples": self.count, "nll": nll, "entropy": entropy}
