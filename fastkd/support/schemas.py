"""What stands in every kind of file that fastkd reads, and the one place where it is checked.

A recipe is the exception: its schema are the dataclasses of `fastkd.recipes.recipe`, read by the same reader, and so
are the parts of store.json those of `fastkd.stored`, which compares them. Nothing that a file names is imported. An
entry that is not listed is left as it is: a newer fastkd may have written it.
"""

import re
from typing import Annotated, Any, Literal, NotRequired, TypedDict

from torch import Tensor

from fastkd.support.errors import UserError
from fastkd.support.plain import from_plain
from fastkd.support.ranges import FINITE, Count, Measured, Pixels, Positive, Share, whole

AtLeastOne = Annotated[int, whole(1, 2**63 - 1)]
Finite = Annotated[float, FINITE]

_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9 _.+-]{0,99}")


class Accuracy(TypedDict):
    """Hits on a test set."""

    top1: Count
    top5: Count
    samples: AtLeastOne


class Best(TypedDict):
    """The best evaluation of a stage."""

    epoch: Count
    top1: Share


class StageResult(TypedDict):
    """What a finished stage leaves in results.json."""

    network: str
    parameters: Count
    test: dict[str, Accuracy]
    identity: dict[str, Any]
    epochs: NotRequired[Count]
    best: NotRequired[Best | None]
    seconds: NotRequired[Measured]
    starting_seconds: NotRequired[Measured]
    file: NotRequired[str]
    sha256: NotRequired[str]
    files: NotRequired[dict[str, str]]
    """{a weights file, below the run's folder: its SHA-256}"""


class Similarity(TypedDict):
    """How alike a network and its teacher are."""

    kl: Measured
    cka: NotRequired[Measured]
    """There where both have an embedding."""
    agreement: Measured


class Results(TypedDict):
    """results.json"""

    seed: Count
    stages: dict[str, StageResult]
    similarity: dict[str, Similarity]
    metrics_bytes: NotRequired[Count]


class FoundFile(TypedDict):
    """found.json: what a finding of a node says, of which each kind has some."""

    top1: NotRequired[Measured]
    best: NotRequired[Measured]
    samples: NotRequired[AtLeastOne]
    nll: NotRequired[Measured]
    entropy: NotRequired[Measured]
    loss: NotRequired[Measured]
    means: NotRequired[list[Measured]]
    train: NotRequired[dict[str, Measured]]


class Call(TypedDict):
    """A call of the program: when, where and by which command."""

    date: NotRequired[str]
    host: NotRequired[str]
    command: NotRequired[str]


class Environment(Call):
    """env.json: what the last call of a run was made with, and the calls before it."""

    fastkd: str
    python: str
    packages: dict[str, str]
    gpus: list[str]
    earlier: NotRequired[list[Call]]
    commit: NotRequired[str | None]
    system: NotRequired[str]
    cuda: NotRequired[str | None]
    cores: NotRequired[Count]
    threads: NotRequired[Count]
    execution: NotRequired[dict[str, Any]]
    operations: NotRequired[dict[str, str]]


class Record(TypedDict):
    """A line of metrics.jsonl."""

    stage: str
    step: Count
    train: dict[str, Measured]
    lr: NotRequired[Measured]
    seconds: NotRequired[Measured]
    images_per_second: NotRequired[Measured]
    data_time: NotRequired[Measured]
    data_share: NotRequired[Measured]
    grad_norm: NotRequired[Measured]
    grad_norm_max: NotRequired[Measured]
    memory: NotRequired[dict[str, Measured]]
    ranks: NotRequired[dict[str, dict[str, Measured]]]
    """{a rank's number: what it measured itself} where there are several."""


class EpochRecord(Record):
    """A line that ends an epoch."""

    epoch: Count
    test: dict[str, Accuracy]


class HeartbeatFile(TypedDict):
    """heartbeat.json: the last sign of life of a run."""

    state: Literal["running", "stopped", "finished", "failed"]
    time: Measured
    host: str
    pid: Count
    processes: Count
    boot: NotRequired[str]
    namespace: NotRequired[str]
    begun: NotRequired[str]
    patience: NotRequired[Measured]
    """Seconds within which the next sign was to come."""
    doing: NotRequired[str]
    why: NotRequired[str]
    """What stopped the run, or how it failed."""
    seed: NotRequired[Count]
    stage: NotRequired[str]
    epoch: NotRequired[Count]
    """The epoch that is running, from 1."""
    epochs: NotRequired[Count]
    step: NotRequired[Count]
    """Steps of the stage that are done."""
    steps: NotRequired[Count]
    images_per_second: NotRequired[Measured]
    seconds_left: NotRequired[Measured]
    run_seconds_left: NotRequired[Measured]
    loss: NotRequired[Measured]
    accuracy: NotRequired[Measured]


class Progress(TypedDict):
    """The place where a stage stands."""

    epoch: Count
    step: Count
    seconds: Measured
    starting_seconds: Measured
    test: dict[str, Accuracy]
    best: Best | None


class Meter(TypedDict):
    """The running sums of one rank."""

    sums: dict[str, Tensor]
    hits: Tensor
    largest: NotRequired[Tensor]
    steps: Count
    images: Count
    seconds: NotRequired[Measured]
    waited: NotRequired[Measured]


class Logged(TypedDict):
    """What the meters of all ranks read at the last record inside an epoch."""

    sums: dict[str, Measured]
    hits: tuple[Count, Count]
    steps: Count
    images: Count
    seconds: NotRequired[Measured]
    waited: NotRequired[Measured]


class Generators(TypedDict):
    """The state of the random number generators of one rank."""

    cpu: Tensor
    cuda: NotRequired[Tensor]


class Appended(TypedDict):
    """What a checkpoint counts of a file of rows beside it."""

    rows: Count
    sha256: str


class Synthesis(TypedDict):
    """What makes the images of a stage without data."""

    rounds: Count
    loss: Tensor
    networks: dict[str, Tensor]
    optimizers: dict[str, dict[int, dict[str, Any]]]
    files: dict[str, Appended]


class CountedShare(TypedDict):
    """What a checkpoint counts of a share of it that lies beside it."""

    number: Count
    bytes: Count
    sha256: str


class CheckpointShare(TypedDict):
    """checkpoints/STAGE.pt.NUMBER: rows of large tensors."""

    stage: str
    number: Count
    model: NotRequired[dict[str, Tensor]]
    optimizer: NotRequired[dict[int, dict[str, Any]]]
    average: NotRequired[dict[str, Tensor]]


class Checkpoint(TypedDict):
    """checkpoints/STAGE.pt"""

    format: Count
    stage: str
    identity: dict[str, Any]
    progress: Progress
    model: dict[str, Tensor]
    optimizer: dict[int, dict[str, Any]]
    meters: list[Meter]
    rngs: list[Generators]
    threads: Count
    metrics_bytes: Count
    logged: Logged | None
    logged_seconds: Measured
    average: NotRequired[dict[str, Tensor]]
    synthesis: NotRequired[Synthesis]
    shares: NotRequired[list[CountedShare]]


class DeployedBy(TypedDict):
    """How methods made another network out of a student."""

    methods: dict[str, dict[str, Any]]
    teachers: list["Metadata"]


class FrontOfNetwork(TypedDict):
    """How images are turned into those that a network was trained on."""

    image_size: Pixels
    mean: tuple[Finite, Finite, Finite]
    std: tuple[Positive, Positive, Positive]
    from_mean: tuple[Finite, Finite, Finite]
    from_std: tuple[Positive, Positive, Positive]


class Metadata(TypedDict):
    """What a weights file says of its network, as JSON under one name of its metadata."""

    network: str
    num_classes: Annotated[int, whole(2, 2**24)]
    image_size: Pixels
    classes: NotRequired[list[str] | None]
    mean: NotRequired[tuple[Finite, Finite, Finite] | None]
    std: NotRequired[tuple[Positive, Positive, Positive] | None]
    crop: NotRequired[Literal["pad", "resized", "squeezed"] | None]
    deployment: NotRequired[DeployedBy]
    front: NotRequired[FrontOfNetwork]


class Index(TypedDict):
    """What stands beside the arrays of a kept index: index-*.npz."""

    format: Count
    key: str
    bad: dict[str, str]
    scaled: Count


class TarIndex(TypedDict):
    """What stands beside the arrays of a kept list of tar members: members-*.npz."""

    format: Count
    key: str
    keys: list[str]


class SavedSplits(TypedDict):
    """dataset_dict.json of Hugging Face's library."""

    splits: list[str]


class SavedFile(TypedDict):
    """A file that state.json names."""

    filename: str


class SavedState(TypedDict):
    """state.json of Hugging Face's library."""

    _data_files: list[SavedFile]
    _indices_files: NotRequired[Any]


class SavedFeatures(TypedDict):
    """dataset_info.json of Hugging Face's library, in what fastkd reads of it."""

    features: dict[str, Any]


class StoreFile(TypedDict):
    """store.json: what the rows of a store are."""

    format: Count
    key: dict[str, Any]
    row: dict[str, Any]
    made_by: list[dict[str, Any]]


def checked(kind: Any, value: Any, where: str) -> Any:
    """The value as it is, if it has the shape that a class of this module describes; else UserError, one line."""
    from_plain(kind, _with_none(kind, value), where)
    return value


def _with_none(kind: Any, value: Any) -> Any:
    """None for the best evaluation and the last record where there is none yet: files have {} there."""
    if not isinstance(value, dict):
        return value
    if kind is Checkpoint:
        changed = {"progress": _best_or_none(value["progress"])} if "progress" in value else {}
        return value | changed | ({"logged": None} if value.get("logged") == {} else {})
    if kind is Results and isinstance(value.get("stages"), dict):
        return value | {"stages": {name: _best_or_none(stage) for name, stage in value["stages"].items()}}
    return value


def _best_or_none(part: Any) -> Any:
    return part | {"best": None} if isinstance(part, dict) and part.get("best") == {} else part


def check_name(name: Any, where: str) -> None:
    """Raises UserError for the name of a stage or a recipe that could not be a file's: it becomes one."""
    if not isinstance(name, str) or not _NAME.fullmatch(name) or name.startswith("seed-") or name.endswith((" ", ".")):
        raise UserError(
            f"{where} is {name!r}, expected a name of letters, digits, blanks and _ . + -, of 100 characters at most, "
            "that begins with a letter or a digit and not with seed-"
        )
