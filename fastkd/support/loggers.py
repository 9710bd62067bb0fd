"""Where the records of a training go beside metrics.jsonl, which every run has: CSV, TensorBoard, W&B, MLflow."""

import csv
import hashlib
import importlib
import io
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal, Protocol

from fastkd.support.errors import UserError
from fastkd.support.files import make_folder, read_json, read_text, write_text
from fastkd.support.paths import is_file

LoggerName = Literal["csv", "tensorboard", "wandb", "mlflow"]
_PROJECT = "fastkd"
_MLFLOW_RUN = re.compile(r"[0-9a-f]{32}")


class Logger(Protocol):
    """Takes the records of one run folder. The curves of a run that is resumed go on in the same place."""

    def record(self, record: Mapping[str, Any], known: Callable[[], list[dict[str, Any]]]) -> None:
        """Takes the next record; known: reads those of metrics.jsonl, this one among them."""
        ...


class CSV:
    """metrics.csv: a row for each epoch, columns `train.loss`, `test.student.top1` …; hits as shares."""

    def __init__(self, folder: Path):
        self.file = folder / "metrics.csv"

    def record(self, record: Mapping[str, Any], known: Callable[[], list[dict[str, Any]]]) -> None:
        if "epoch" in record:  # written anew, so that it holds what metrics.jsonl does, whatever was lost and resumed
            write_text(self.file, as_csv([one for one in known() if "epoch" in one]))


class TensorBoard:
    """A folder `tensorboard` of event files."""

    def __init__(self, folder: Path):
        writer = _imported("torch.utils.tensorboard", "tensorboard").SummaryWriter
        make_folder(folder / "tensorboard", own=True)
        self.writer = writer(str(folder / "tensorboard"))

    def record(self, record: Mapping[str, Any], known: Callable[[], list[dict[str, Any]]]) -> None:
        for name, value in numbers(record).items():
            self.writer.add_scalar(f"{record.get('stage', 'run')}/{name}", value, record.get("step", 0))


class WandB:
    """A run of Weights & Biases, project fastkd; WANDB_MODE=offline and its like hold as elsewhere."""

    def __init__(self, folder: Path):
        wandb = _imported("wandb", "wandb")
        settings = {"project": _PROJECT, "name": folder.name, "dir": str(folder), "resume": "allow"}
        own = hashlib.sha256(str(folder.absolute()).encode()).hexdigest()[:16]
        self.run = wandb.init(**settings, id=own, config=_recipe(folder))
        self.stages: set[str] = set()

    def record(self, record: Mapping[str, Any], known: Callable[[], list[dict[str, Any]]]) -> None:
        stage = record.get("stage", "run")
        if stage not in self.stages:  # stages follow each other, each from step 0
            self.run.define_metric(f"{stage}/*", step_metric=f"{stage}/step")
            self.stages.add(stage)
        self.run.log({f"{stage}/{name}": value for name, value in numbers(record).items()})


class MLflow:
    """A run of MLflow, experiment fastkd, where MLFLOW_TRACKING_URI says."""

    def __init__(self, folder: Path):
        client = _imported("mlflow", "mlflow").MlflowClient
        self.client = client()
        kept = folder / "mlflow-run"
        if is_file(kept) and _MLFLOW_RUN.fullmatch(read_text(kept).strip()):
            self.run = read_text(kept).strip()
            return
        experiment = self.client.get_experiment_by_name(_PROJECT)
        place = experiment.experiment_id if experiment else self.client.create_experiment(_PROJECT)
        self.run = self.client.create_run(place, run_name=folder.name).info.run_id
        for name, value in _recipe(folder).items():
            if isinstance(value, str | int | float):
                self.client.log_param(self.run, name, value)
        write_text(kept, self.run + "\n")

    def record(self, record: Mapping[str, Any], known: Callable[[], list[dict[str, Any]]]) -> None:
        stage = record.get("stage", "run")
        for name, value in numbers(record).items():
            self.client.log_metric(self.run, f"{stage}/{name}", value, step=record.get("step", 0))


LOGGERS: dict[LoggerName, Callable[[Path], Logger]] = {
    "csv": CSV,
    "tensorboard": TensorBoard,
    "wandb": WandB,
    "mlflow": MLflow,
}
_PACKAGES = {"tensorboard": "torch.utils.tensorboard", "wandb": "wandb", "mlflow": "mlflow"}


def check_loggers(names: tuple[LoggerName, ...]) -> None:
    """Raises UserError where the package of one is missing."""
    for name in names:
        if name in _PACKAGES:
            _imported(_PACKAGES[name], name)


def open_logger(name: LoggerName, folder: Path) -> Logger:
    """The logger of a run folder. Raises UserError, with the service's own first line, where it cannot begin."""
    try:
        return LOGGERS[name](folder)
    except UserError:
        raise
    except Exception as error:  # each service has exceptions of its own, known only where it is installed
        raise UserError(f"--logger {name} cannot begin: {first_line(error)}") from error


def first_line(error: Exception) -> str:
    """What a service's exception begins with; its kind where it says nothing."""
    return str(error).strip().partition("\n")[0] or type(error).__name__


def as_csv(records: list[dict[str, Any]]) -> str:
    """A row for each record; a column for each number that one of them has, in the order of their appearance."""
    rows = [{"stage": record.get("stage", "run")} | _shares(record) for record in records]
    columns = list(dict.fromkeys(name for row in rows for name in row))
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def numbers(record: Mapping[str, Any], prefix: str = "", between: str = "/") -> dict[str, float]:
    """The numbers of a record, those inside of its dictionaries as `train/loss`."""
    found: dict[str, float] = {}
    for name, value in record.items():
        if isinstance(value, dict):
            found |= numbers(value, f"{prefix}{name}{between}", between)
        elif isinstance(value, int | float) and not isinstance(value, bool):
            found[prefix + name] = value
    return found


def _shares(record: Mapping[str, Any]) -> dict[str, float]:
    """The numbers of a record; the hits of a test as shares of its samples."""
    test = {
        name: {key: value / counts["samples"] if key != "samples" else value for key, value in counts.items()}
        for name, counts in record.get("test", {}).items()
    }
    return numbers({**record, "test": test}, between=".")


def _recipe(folder: Path) -> dict[str, Any]:
    file = folder / "recipe.json"
    return read_json(file) if is_file(file) else {}


def _imported(module: str, package: str) -> Any:
    try:
        return importlib.import_module(module)
    except ImportError as error:
        extra = f"pip install 'fastkd[{package}]'"
        raise UserError(f"--logger {package} needs the package {package}: {extra}") from error
