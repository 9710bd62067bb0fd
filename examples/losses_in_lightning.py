"""fastkd's losses in somebody else's loop: a Lightning module that distils one layer into another.

pip install fastkd lightning; python examples/losses_in_lightning.py
"""

import lightning
import torch
from torch.utils.data import DataLoader, TensorDataset

from fastkd.losses import KDLoss


class Distil(lightning.LightningModule):
    """A student that learns from a frozen teacher."""

    def __init__(self, teacher: torch.nn.Module, student: torch.nn.Module):
        super().__init__()
        self.teacher, self.student = teacher.requires_grad_(False), student
        self.loss = KDLoss(temperature=4.0, kl_weight=0.9, ce_weight=0.1)  # moves with the module: it has buffers

    def training_step(self, batch: list[torch.Tensor], _number: int) -> torch.Tensor:
        images, labels = batch
        with torch.no_grad():
            teacher_logits = self.teacher(images)
        terms = self.loss(self.student(images), teacher_logits, labels)
        self.log_dict({"kl": terms.kl, "ce": terms.ce})
        return terms.total

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.student.parameters(), lr=0.5)


def main() -> float:
    """Trains for three epochs; returns the last divergence from the teacher, in nats times the temperature's square."""
    torch.manual_seed(0)
    module = Distil(torch.nn.Linear(32, 10), torch.nn.Linear(32, 10))
    images = torch.randn(512, 32)
    data = DataLoader(TensorDataset(images, module.teacher(images).argmax(1)), batch_size=64, shuffle=True)
    quiet = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False}
    trainer = lightning.Trainer(max_epochs=3, accelerator="cpu", enable_model_summary=False, **quiet)
    trainer.fit(module, data)
    return float(trainer.callback_metrics["kl"])


if __name__ == "__main__":
    print(main())
