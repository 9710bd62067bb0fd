"""Several trainings of the same batches at once: students and seeds that learn from one store.

Their steps are branches of one recorded graph, so that a GPU that is too large for one small student works on all of
them. Everything else (log, evaluation, checkpoints) each training has for itself, at the ends of epochs.
"""

from collections.abc import Callable, Sequence
from contextlib import ExitStack

from fastkd.data import ResidentLoader
from fastkd.training.progress import Progress
from fastkd.training.trainer import Trainer


class Together:
    """Trains several stages side by side. The first trainer's stored teachers are those of all."""

    def __init__(self, trainers: Sequence[Trainer]):
        self.trainers, self.first, self.others = trainers, trainers[0], trainers[1:]
        for trainer in self.others:
            trainer.step.stored = self.first.step.stored

    def fit(self, after_epoch: Sequence[Callable[[int], None]]) -> list[Progress]:
        """Does as `Trainer.fit` for each; after_epoch: one function for each trainer."""
        with ExitStack() as savings:
            for trainer in self.trainers:
                trainer.load()
                savings.enter_context(trainer.saving)
            self._catch_up(after_epoch)
            epochs = self.first.training.epochs
            if self.first.progress.epoch < epochs:
                for trainer in self.others:
                    trainer.warm_up(record=False)
                self.first.warm_up(beside=self.others)
            while self.first.progress.epoch < epochs:
                self._epoch()
                self._end_epochs(self.trainers, after_epoch)
        return [trainer.finish() for trainer in self.trainers]

    def _catch_up(self, after_epoch: Sequence[Callable[[int], None]]) -> None:
        """Trains those alone that were killed before they had saved what the others have."""
        furthest = max(trainer.progress.epoch + (trainer.progress.step > 0) for trainer in self.trainers)
        for trainer, after in zip(self.trainers, after_epoch, strict=True):
            while trainer.progress.epoch < furthest:
                trainer.epoch()
                self._end_epochs([trainer], [after])

    def _epoch(self) -> None:
        started = [trainer.begin_epoch() for trainer in self.trainers]
        if self.first.step.beside:
            progress = self.first.progress
            for steps in self.first.step.epoch_of(self.first.train_source.loader, progress.epoch):
                progress.step += steps
                self.first.show_if_due(started[0], 0)
            for trainer, since in zip(self.trainers, started, strict=True):
                trainer.progress.step = trainer.steps_per_epoch
                trainer.end_epoch(since, 0)
        else:  # it could not be captured: one after the other
            for trainer in self.trainers:
                trainer.epoch()

    def _end_epochs(self, trainers: Sequence[Trainer], after_epoch: Sequence[Callable[[int], None]]) -> None:
        for trainer, after in zip(trainers, after_epoch, strict=True):
            after(trainer.progress.epoch)
            trainer.save()
        self.first.stop_if_asked()


def alike(trainers: Sequence[Trainer]) -> bool:
    """Whether the trainers take the same batches, of images that the device holds, from the same stored teachers."""
    first, *others = trainers
    return all(_batches(trainer) == _batches(first) for trainer in others) and all(
        isinstance(trainer.train_source.loader, ResidentLoader)
        and trainer.step.stored is not None
        and trainer.step.stored.resident
        for trainer in trainers
    )


def _batches(trainer: Trainer) -> tuple[object, ...]:
    training = trainer.training
    how = (training.epochs, training.batch_size, training.drop_last, training.accumulate, training.shards)
    return (*how, trainer.steps_per_epoch, trainer.stage.views, trainer.step.execution)
