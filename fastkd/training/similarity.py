"""How alike two networks are on a test set: KL divergence, CKA and top-1 agreement (SFTN, Table 8)."""

from typing import Self

import torch
import torch.nn.functional as F
from torch import Tensor

from fastkd.networks.base import Output
from fastkd.networks.uncut import gives_embedding
from fastkd.support.distributed import sum_over_ranks


class LinearCKA:
    """Linear centred kernel alignment of X [n,p] and Y [n,q] (Kornblith et al. 2019), from batches.

    ‖Xᶜᵀ Yᶜ‖² / (‖Xᶜᵀ Xᶜ‖ ‖Yᶜᵀ Yᶜ‖) with centred columns, in float64.
    """

    def __init__(self) -> None:
        self.count = 0
        self.products: dict[str, Tensor] = {}

    def add(self, x_BP: Tensor, y_BQ: Tensor) -> None:
        x, y = x_BP.double(), y_BQ.double()
        new = {"x": x.sum(0), "y": y.sum(0), "xy": x.T @ y, "xx": x.T @ x, "yy": y.T @ y}
        self.products = {name: value + self.products.get(name, 0) for name, value in new.items()}
        self.count += len(x)

    def reduce(self) -> Self:
        """Sums over all ranks, in place; each must have added something."""
        for value in self.products.values():
            sum_over_ranks(value)
        self.count = int(sum_over_ranks(torch.tensor(self.count)).item())
        return self

    def value(self) -> Tensor:
        """A number in 0 … 1; NaN where X or Y is constant."""
        p = self.products

        def norm(product: str, left: str, right: str) -> Tensor:
            return (p[product] - torch.outer(p[left], p[right]) / self.count).norm()

        return norm("xy", "x", "y") ** 2 / (norm("xx", "x", "x") * norm("yy", "y", "y"))


class Similarity:
    """KL divergence, CKA and agreement of a teacher and a student, from their outputs on the same batches."""

    def __init__(self, device: torch.device | str = "cpu"):
        self.kl = torch.zeros((), dtype=torch.float64, device=device)
        self.agreement = torch.zeros((), dtype=torch.int64, device=device)
        self.cka = LinearCKA()
        self.count = 0

    def add(self, teacher: Output, student: Output) -> None:
        log_p = F.log_softmax(teacher.logits.double(), dim=1)
        log_q = F.log_softmax(student.logits.double(), dim=1)
        self.kl += F.kl_div(log_q, log_p, reduction="sum", log_target=True)
        self.agreement += (teacher.logits.argmax(1) == student.logits.argmax(1)).sum()
        self.count += len(log_p)
        if gives_embedding(teacher) and gives_embedding(student):
            self.cka.add(teacher.embedding, student.embedding)

    def reduce(self) -> Self:
        """Sums over all ranks, in place."""
        sum_over_ranks(self.kl)
        sum_over_ranks(self.agreement)
        self.count = int(sum_over_ranks(torch.tensor(self.count)).item())
        self.cka.reduce()
        return self

    def read(self) -> dict[str, float]:
        """`kl`: mean KL(teacher ‖ student) in nats at temperature 1; `agreement`: the fraction of images on which both
        rank the same class first; `cka`: CKA of the embeddings, where both have one."""
        found = {"kl": self.kl.item() / self.count}
        if self.cka.count:
            found["cka"] = self.cka.value().item()
        return found | {"agreement": self.agreement.item() / self.count}
