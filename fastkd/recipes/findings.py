"""What a table may want to know of a training beyond its own results: said here, measured in `fastkd.analysis`."""

from dataclasses import dataclass, replace
from typing import Annotated, Any, Literal

from fastkd.support.fields import OnlyWith
from fastkd.support.plain import Checked
from fastkd.support.ranges import Decay, Epochs, EpochsOrNone, Images, NotNegative, Positive, Seed
from fastkd.training.optimisation import Training


@dataclass(frozen=True, kw_only=True)
class ProbeSettings(Checked):
    """How a linear classifier is trained on the frozen features of a network.

    Where papers say nothing the defaults are choices: no weight decay, no augmentation, SGD with momentum, 120 epochs
    of batches of 64, learning rate 0.1, a tenth of it after 30, 60 and 90.
    """

    epochs: Epochs = 120
    """Epochs; milestones move in proportion."""
    batch_size: Images = 64
    """Images of a batch."""
    lr: Positive = 0.1
    """Learning rate of SGD."""
    momentum: Decay = 0.9
    """Its momentum."""
    nesterov: bool = False
    """Nesterov's momentum."""
    weight_decay: NotNegative = 0.0
    """Weight decay."""
    milestones: tuple[EpochsOrNone, ...] = (30, 60, 90)
    """Epochs, counted from 0, from which on the learning rate is multiplied by --factor once more."""
    factor: Annotated[Positive, OnlyWith("milestones")] = 0.1
    """What the learning rate is multiplied by at each milestone."""
    augment: Literal["off", "flip", "crop"] = "off"
    """off: the features of every image are computed once; flip, crop: of flipped images, or of crops with 4 pixels of
    padding, flipped, in every epoch anew."""
    features: Literal["embedding", "encoder"] = "embedding"
    """embedding: what the network's classifier reads; encoder: of a student with the teacher's classifier (SimKD), its
    own pooled features in front of the projector."""
    seed: Seed = 0
    """Seed of the classifier's weights, of the order and of the augmentation."""

    @property
    def training(self) -> Training:
        names = ("epochs", "batch_size", "lr", "momentum", "nesterov", "weight_decay", "milestones", "factor")
        return Training(**{name: getattr(self, name) for name in names}, drop_last=False)

    def changed(self, given: dict[str, Any]) -> "ProbeSettings":
        """With other values; milestones follow a change of the epochs, unless given too."""
        if (epochs := given.get("epochs")) is not None and "milestones" not in given:
            moved = {max(1, round(milestone * epochs / self.epochs)) for milestone in self.milestones}
            given = given | {"milestones": tuple(sorted(milestone for milestone in moved if milestone < epochs))}
        return replace(self, **given)


@dataclass(frozen=True, kw_only=True)
class Finding(Checked):
    """Base of what is measured once a training is finished."""

    kind = ""
    """Its name in files."""
    version = 1
    """Raised where what is computed changes by more than its last bits."""
    data: str = ""
    """The data set it is measured on: a name of `DATASETS`; empty: the training's own."""
    choice: str = ""
    """What the paper leaves open, and was chosen."""


@dataclass(frozen=True, kw_only=True)
class Probed(Finding):
    """A linear classifier on the frozen features of the network."""

    kind = "probe"
    settings: ProbeSettings


@dataclass(frozen=True, kw_only=True)
class Corrupted(Finding):
    """The mean top-1 over the corruptions of CIFAR-100-C, at one severity."""

    kind = "corruptions"
    data: str = "cifar100c"


@dataclass(frozen=True, kw_only=True)
class Said(Finding):
    """Accuracy, negative log-likelihood and entropy of a network on a split of its own data."""

    kind = "likelihood"
    split: Literal["train", "test"] = "test"


@dataclass(frozen=True, kw_only=True)
class Aligned(Finding):
    """The mean squared error between a student's projected features and its teacher's, on the test images."""

    kind = "alignment"


@dataclass(frozen=True, kw_only=True)
class Logged(Finding):
    """What the log of the training says: of a share of its epochs, or of another network that was tested beside."""

    kind = "log"
    share: float = 1.0
    """Of the epochs, the last of which is looked at."""
    network: str = ""
    """Another prediction of the stage: `own classifier`, `branch 1`; empty: the stage's own network."""


@dataclass(frozen=True, kw_only=True)
class Pruned(Finding):
    """Parameters of what is deployed beside the teacher's (SimKD, Eq. 6); nothing has to be trained for it."""

    kind = "pruning"
