"""The options of a training whose teacher's outputs are kept."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from fastkd.support.plain import Checked
from fastkd.support.ranges import Epochs, Width
from fastkd.support.words import counted

Precision = Literal["float32", "float16", "bfloat16"]


@dataclass(frozen=True, kw_only=True)
class Storing(Checked):
    """Where the teacher's outputs are kept, and how much of them."""

    teacher_outputs: Path | None = None
    """Folder of the teacher's stored outputs: what is there is read instead of running the teacher, what is missing is
    computed and added."""
    store_type: Precision = "float32"
    """Type of what is stored; only from float32 does a student train exactly as from the teacher itself."""
    store_top: Width | None = None
    """Store so many of the largest logits, the label's among them, and the rest in one number (default: all)."""
    store_epochs: Epochs | None = None
    """Store so many epochs and repeat their crops and flips: fewer than the paper has (default: every epoch)."""
    store_exact: bool = False
    """Refuse rows that were computed on other hardware or software, which may differ in their last bits."""

    @property
    def approximations(self) -> tuple[str, ...]:
        """How a student's training differs from one with the teacher itself, in words."""
        if self.teacher_outputs is None:
            return ()
        words = [] if self.store_type == "float32" else [f"the teacher's outputs in {self.store_type}"]
        words += [] if self.store_top is None else [f"the teacher's {self.store_top} largest logits instead of all"]
        words += (
            [] if self.store_epochs is None else [f"crops and flips of {counted(self.store_epochs, 'epoch')}, repeated"]
        )
        return tuple(words)
