"""The training loop."""

import json
import logging
import math
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from config import Config
from dataset_processing import open_set
from dataset_processing.augmentations import SIZES, Augmentations
from dataset_processing.folds import ImageFiles, times
from dataset_processing.loader import Loader, workers_kept
from dataset_processing.records import RecordReader
from dataset_processing.sets import drawn_twice
from layers.hgru import layers_of
from layers.shares import shared_images
from models.tf_variables import tf_variables, without_counterpart
from support.errors import UserError
from support.files import write_arrays
from training.checkpoints import CheckpointFolder
from training.curriculum import Curriculum
from training.distribution import Ranks
from training.experiment import Experiment, size_by
from training.feed import GO, SAVE, STOP, Feed
from training.history import STUCK_IMAGES, History
from training.log import RunLog
from training.losses import cross_entropy, loss_function
from training.metrics import metric_function
from training.optimizers import network_optimizer
from training.provenance import options_of
from training.run import Run
from training.schedule import Schedule
from training.seeds import Generators
from training.signals import Stop
from training.step import TrainStep, Validation
from training.weights import set_weights

log = logging.getLogger(__name__)

NAMED_RECORDS = 64
READ_EVERY = {"cpu": 1}  # updates between readings of a device's numbers, which hold its work up
READ_SELDOM = 20


class NotFiniteError(RuntimeError):
    """A loss, a gradient or a weight became infinite or not a number."""


# What other errors say of it: on a CPU, and on a GPU without room to begin on it at all.
OF_MEMORY = "can't allocate memory", "not enough memory", "CUDA error: out of memory"


class OutOfMemoryError(RuntimeError):
    """The device's memory does not suffice."""


@contextmanager
def room_for(batch: int, ranks: Ranks, step: Callable[[], int] = lambda: 0) -> Iterator[None]:
    """OutOfMemoryError where the device's memory does not suffice in the block, at a ``step``."""
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        of_memory = any(text in str(error) for text in OF_MEMORY)
        if not (of_memory or isinstance(error, (torch.OutOfMemoryError, MemoryError))):
            raise
        where = str(ranks.device)
        if ranks.device.type == "cuda":
            total = torch.cuda.get_device_properties(ranks.device).total_memory
            where += f" of {total / 2**30:.1f} GiB"
        raise OutOfMemoryError(
            f"out of memory on {where} at step {step()} with batch_size {batch}. Try --set "
            f"batch_size={max(1, batch // 2)}, more processes than {ranks.world_size} (torchrun "
            "--nproc_per_node=N), or end other programs that use this device"
        ) from error


def _given_size(exp: Experiment, data: Any) -> tuple[int, int]:
    """(H, W) of what the network is given; UserError where it is named and nothing makes it."""
    if set(SIZES) & set(exp.data_augmentations):
        return data.input_size
    named = exp.model_input_image_size or data.own_input_size
    if named and tuple(named[:2]) != data.im_size:
        height, width = data.im_size
        raise UserError(
            f"model_input_image_size is {times(named[:2])}, but data_augmentations has nothing "
            f"that makes the {times(data.im_size)} images of {data.name} that size; add resize to "
            f"it and to val_augmentations, or set model_input_image_size to [{height}, {width}]"
        )
    return data.im_size


class Training:
    """A run, from where it stands to its end.

    Attributes:
        seconds: of updates, with their waiting for images, and of validations, over all sessions;
            not a number where an earlier version, which did not count them, trained a part.
        identity: what a checkpoint must be of to go on from it.
    """

    def __init__(
        self,
        settings: Mapping[str, Any],  # of an experiment
        model: nn.Module,  # with its initial values, on the CPU
        config: Config,
        ranks: Ranks,
        seed: int,  # what all random numbers follow from
        workers: int = 0,  # these two: see dataset_processing.loader
        on_bad_record: str = "error",
        captured: bool = True,  # let a GPU replay the update as one captured graph
    ) -> None:
        self.exp = exp = Experiment(settings)
        self.ranks = ranks
        self.model: Any = model.to(ranks.device)
        self.generators = Generators(seed, ranks.device, ranks.rank)
        for layer in layers_of(model):
            layer.noise_generator = self.generators.hidden
        data = open_set(exp.dataset, config, exp, on_bad_record)
        other = exp.val_dataset
        held_out = open_set(other, config, exp, on_bad_record) if other else data
        self._splits = data.splits or held_out.splits
        self._held_out = held_out
        self.train_set, self.validation_set = data.fold("train"), held_out.fold("val")
        self._loader = partial(
            Loader, device=ranks.device, seed=seed, workers=workers, on_bad_record=on_bad_record
        )
        self._image_size = _given_size(exp, data)
        self.augment = Augmentations(exp.data_augmentations, self._image_size)
        self.train_step = TrainStep(
            self.model,
            loss_function(exp.loss_function),
            metric_function(exp.score_metric),
            network_optimizer(model, exp.optimizer, exp.lr, exp.updates),
            exp.clip_gradients,
            ranks,
            captured=captured,
            generators=(self.generators.hidden,),
        )
        self.schedule = Schedule(
            self.train_step.optimizer, exp.lr, exp.lr_schedule, exp.warmup_iters
        )
        self.validation = self._validation(self.validation_set)
        sides = (self.train_set, self.augment), (self.validation_set, self.validation.augment)
        for one, augment in sides:  # an image that is smaller than a crop is refused here
            augment(torch.zeros(1, *one.im_size), torch.Generator())
        self.curriculum = Curriculum(exp, config, data)
        self.feed = Feed(ranks, exp.epochs, self._wanted)
        self._begin_stage()
        if "pearson" in (exp.loss_function, exp.score_metric):
            self._refuse_single_images()
        self.identity = {
            "parameters": exp.as_dict(),
            "seed": seed,
            "network": options_of(model),
            # An earlier version's "input size" was wrong where nothing resizes.
            "input_size": list(self._image_size),
            "train data": self.train_set.fingerprint(),
            "validation data": self.validation_set.fingerprint(),
        }
        self.step = self.images = 0  # updates done, and images seen, repeats counted
        self.seconds = 0.0
        self.history = History()
        # Measurements, the batch's records, and the images seen so far.
        self._pending: list[tuple[Tensor, Tensor, int]] = []
        self._read_every = READ_EVERY.get(ranks.device.type, READ_SELDOM)
        self._saved_step: int | None = None
        self._saved_at = time.monotonic()
        self._save_asked = False
        self._busy = self._waited = 0.0  # seconds since the last line of the log
        self._logged_images = 0
        self._said_stuck = False

    def _validation(self, dataset: Any) -> Validation:
        """Measures on a fold; each process takes whole batches of it."""
        batch_size = min(self.exp.batch_size, len(dataset))
        return Validation(
            self.train_step,
            self._loader(dataset, batch_size, shuffle=self.exp.shuffle_val),
            Augmentations(self.exp.val_augmentations, self._image_size),
            self.generators,
            self.exp.num_validation_evals,
        )

    def _begin_stage(self) -> None:
        """Load images of the length that the curriculum is at, and validate on it too."""
        self.feed.loader = self._loader(
            self.curriculum.fold(),
            self.exp.batch_size,
            shuffle=self.exp.shuffle_train,
            rank=self.ranks.rank,
            world_size=self.ranks.world_size,
        )
        data = self.curriculum.data
        same = self.curriculum.is_last or data.fold("val") is self.validation_set
        self.stage_validation = None if same else self._validation(data.fold("val"))

    def _refuse_single_images(self) -> None:
        """UserError where a batch that is trained on or measured is of one image."""
        epoch, validations = self.feed.loader, (self.validation, self.stage_validation)
        taken = [("training", epoch, epoch.batches_per_epoch)]
        taken += [("validation", one.loader, one.batches) for one in validations if one]
        for fold, loader, batches in taken:
            if loader.smallest_batch(batches) == 1:
                raise UserError(
                    "pearson is a correlation over the images of a batch, and the last batch of "
                    f"{fold} has 1 image ({len(loader.dataset)} in batches of {loader.batch_size})"
                    "; expected 2 or more (loss_function, score_metric, batch_size)"
                )

    # -- what the run is, and where it stands ------------------------------------------------------

    def state(self) -> dict[str, Any]:
        """All that a checkpoint holds."""
        return {
            "step": self.step,
            "epoch": self.feed.epoch,
            "position": self.feed.position,
            "images": self.images,
            "seconds": self.seconds,
            "identity": self.identity,
            "model": self.model.state_dict(),
            "optimizer": self.train_step.optimizer.state_dict(),
            "history": self.history.state(),
            "curriculum": self.curriculum.state(),
        }

    def restore(self, state: dict[str, Any], path: Path) -> None:
        """Go on from what :meth:`state` gave, as it was read from the checkpoint ``path``; a
        CheckpointError where that is of another network."""
        set_weights(self.model, state["model"], path)
        self.train_step.optimizer.load_state_dict(state["optimizer"])
        self.history = History.of(state["history"], self.exp.batch_size, len(self.train_set))
        self.step = self._saved_step = state["step"]
        self.feed.epoch, self.feed.position = state["epoch"], state["position"]
        self.images = self._logged_images = [0, *self.history.train_images][-1]
        self.seconds = state.get("seconds", math.nan)
        if state.get("curriculum", self.curriculum.state()) != self.curriculum.state():
            self.curriculum.restore(state["curriculum"])
            self._begin_stage()
        self.feed.next_epoch()  # with more processes than before

    @property
    def total(self) -> int:
        """Updates of the whole run."""
        return self.step + self.feed.left

    def about(self) -> dict[str, Any]:
        """What a run records of its network, as built and what it is given, and of its data."""
        exp = self.exp
        names = exp.dataset, exp.val_dataset or exp.dataset
        sets = {"train": self.train_set, "validation": self.validation_set}
        return {
            "network": {
                **self.identity["network"],
                "parameters": sum(p.numel() for p in self.model.parameters()),
                "input_size": self.identity["input_size"],
                "preprocessing": {
                    "train": self.augment.names,  # in the order in which they are applied
                    "validation": self.validation.augment.names,
                },
            },
            "data": {
                fold: {
                    "name": name,
                    "images": len(data_set),
                    "im_size": list(data_set.im_size),
                    "fingerprint": data_set.fingerprint(),
                    "description": data_set.describe(),
                }
                for name, (fold, data_set) in zip(names, sets.items(), strict=True)
            },
        }

    def cautions(self) -> list[str]:
        """What the settings and the images do not come to, or what is perhaps not meant of them."""
        found, sets = [], (self.train_set, self.validation_set)
        train, val = (times(one.im_size) for one in sets)
        if train != val:
            found.append(
                f"the validation images are {val} pixels (height × width), the training images "
                f"{train}; both are {size_by(self.exp.val_augmentations)} for the network"
            )
        readers = [getattr(one, "reader", None) for one in sets]
        stored = [one for one in readers if isinstance(one, RecordReader)]
        if len(stored) == 2 and len({one.fingerprint(named=False) for one in stored}) == 1:
            found.append(
                f"{stored[1].paths[0]}: the validation records are those that are trained on"
            )
        files = [set(one.paths) for one in readers if isinstance(one, ImageFiles)]
        if len(files) == 2 and (both := set.intersection(*files)):
            found.append(
                f"{len(both)} of the {len(files[1])} validation images are trained on too, "
                f"{min(both)} for one"
            )
        twice = drawn_twice(self.curriculum.sets, self.exp.epochs, self._held_out)
        found += filter(None, [twice, self.ranks.caution(self.model)])
        if not self.model.training:
            found.append(
                "build_model gives the network in evaluation mode, and so it is trained: "
                "normalisations by their running averages, nothing dropped out"
            )
        if self.exp.warmup_iters >= self.total:
            found.append(
                f"warmup_iters is {self.exp.warmup_iters}, but the run has {self.total} updates: "
                "the learning rate grows to the end"
            )
        if self.exp.save_weights and (own := without_counterpart(self.model)):
            found.append(
                f"without effect, as the release has no variables for {', '.join(own[:3])}"
                f"{' …' if len(own) > 3 else ''}: save_weights=True (keep_every=1 keeps the "
                "checkpoint of each validation)"
            )
        if self.exp.split_seed and not self._splits:
            found.append(
                f"without effect, as no images are split here: split_seed={self.exp.split_seed} "
                "(records keep the split that they were made with, and streams have none)"
            )
        return found

    def counts(self) -> dict[str, Any]:
        """Images and seconds up to here; None where the seconds are not known."""
        seconds = self.seconds if math.isfinite(self.seconds) else None
        return {"images": self.images, "seconds": seconds}

    def finished(self) -> bool:
        """Whether nothing is left to do, the validation at the end included."""
        return not self.feed.left and self.history.validated_at(self.step)

    # -- going on ----------------------------------------------------------------------------------

    def go(self, run: Run, run_log: RunLog, stop: Stop) -> str | None:
        """Train to the end, or until ``stop`` wants to leave; then why, with a checkpoint written.

        Raises:
            NotFiniteError: a loss, a gradient or a weight is not finite.
            OtherRankError: another process failed.
            OutOfMemoryError: the device's memory does not suffice.
            UserError: a record is corrupt, a file cannot be written, or a worker is lost.
        """
        self.run, self.log, self.stop = run, run_log, stop
        exp = self.exp
        self.checkpoints = CheckpointFolder(
            run.checkpoints, exp.keep_checkpoints, exp.keep_every * exp.validation_iters
        )
        share = exp.batch_size // self.ranks.world_size
        room = room_for(exp.batch_size, self.ranks, lambda: self.step)
        with room, workers_kept(), shared_images(self.model, share):
            return self._steps()

    def _steps(self) -> str | None:
        """Updates and validations from where the run stands."""
        self.feed.begin()
        if not (self.history.validation_step or self.curriculum.is_last):
            self._say_stage(f"contours of {self.curriculum.describe()} at first")
        while self.feed.left:
            if self.step % self.exp.validation_iters == 0 and not self._validate():
                return self._leave()
            began = time.perf_counter()
            batch, word, sizes = self.feed.next()
            waited = time.perf_counter() - began
            if word == STOP:
                return self._leave()
            if word == SAVE:
                self._save()
            if 0 in sizes:  # its records were bad
                log.debug(f"a batch is left out: {sizes} of its images could be read, by process")
                self.feed.advance()
                continue
            began = time.perf_counter()
            self._update(batch, sizes)
            self._spend(waited + time.perf_counter() - began, waited)
            log_is_due = self.step % self.exp.log_iters == 0
            if log_is_due or len(self._pending) >= self._read_every:
                self._read()
            losses = self.history.train_loss
            self.log.advance(f"loss {losses[-1]:.4f}" if losses else "")
            if log_is_due:
                self._log_interval()
        if not self._validate():
            return self._leave()
        if self._saved_step != self.step:
            self._save()
        return None

    def _leave(self) -> str:
        """Save; why the run is left."""
        self._save()
        return next(filter(None, self.ranks.from_all(self.stop.wanted())))

    def _wanted(self) -> int:
        """What this process wants before the next batch."""
        if self.stop.wanted():
            return STOP
        if not self.ranks.is_first or self._save_asked or self._saved_step == self.step:
            return GO
        elapsed = time.monotonic() - self._saved_at
        self._save_asked = elapsed >= 60 * self.exp.checkpoint_minutes
        return SAVE if self._save_asked else GO

    def _update(self, batch: Any, sizes: list[int]) -> None:
        """One update of the network; its measurements stay on the device."""
        self.generators.begin("train", self.step)
        place = self.ranks.place(self.model, sizes)
        images = self.augment(batch.images, self.generators.images, *place)
        self.schedule.set(self.step, self.total)
        numbers = self.train_step(images, batch.labels)
        self.images += sum(sizes)
        self._pending.append((torch.stack(numbers), batch.records, self.images))
        self.step += 1
        self.feed.advance()

    def _read(self) -> None:
        """Read the measurements from the device, which waits for its work; NotFiniteError where one
        of them is not finite."""
        if not self._pending:
            return
        began = time.perf_counter()
        pending, self._pending = self._pending, []
        numbers = torch.stack([one[0] for one in pending]).double().tolist()
        for (loss, metric, norm), (_, records, images) in zip(numbers, pending, strict=True):
            if not (math.isfinite(loss) and math.isfinite(norm)):
                step = len(self.history.train_loss) + 1
                what = f"the loss is {loss:g} and the gradient's norm {norm:g}"
                raise self._not_finite(step, what, records)
            self.history.train_loss.append(loss)
            self.history.train_metric.append(metric)
            self.history.gradient_norm.append(norm)
            self.history.train_images.append(images)
        self._spend(time.perf_counter() - began)

    def _spend(self, seconds: float, waited: float = 0.0) -> None:
        """Count the seconds of updates, and those of them that passed in waiting for images."""
        self.seconds += seconds
        self._busy, self._waited = self._busy + seconds, self._waited + waited

    def _log_interval(self) -> None:
        """Log the means of the last ``log_iters`` updates."""
        n, device, history = self.exp.log_iters, self.ranks.device, self.history
        values = {
            "loss": float(np.mean(history.train_loss[-n:])),
            self.exp.score_metric: float(np.mean(history.train_metric[-n:])),
            "gradient_norm": float(np.mean(history.gradient_norm[-n:])),
            "learning_rate": self.schedule.at(self.step - 1, self.total),
            "images_per_second": (self.images - self._logged_images) / self._busy,
            "data_wait_share": self._waited / self._busy,
        }
        if device.type == "cuda":
            values["memory_gib"] = torch.cuda.max_memory_allocated(device) / 2**30
        self._busy = self._waited = 0.0
        self._logged_images = self.images
        epoch = self.feed.epoch + self.feed.position / self.feed.loader.batches_per_epoch
        text = "  ".join(f"{name} {value:.5g}" for name, value in values.items())
        self.log.measured("train", self.step, {**self.counts(), "epoch": epoch}, values)
        log.debug(f"step {self.step}/{self.total}  epoch {epoch:.3f}  {text}")

    def _validate(self) -> bool:
        """Validate, unless it was done at this step, and save; begin the next stage if it is time.
        False where a signal came before the end: then it is still to be done. NotFiniteError where
        the loss is not finite."""
        if self.history.validated_at(self.step):
            return True
        self._read()
        began = time.perf_counter()
        measured = []
        for one in filter(None, (self.validation, self.stage_validation)):
            found = one.measure(self.stop.signalled)
            if found is None:
                return False
            measured.append(found)
        self.seconds += time.perf_counter() - began
        loss, metric, images = measured[0]
        name, stage_metric = self.exp.score_metric, measured[-1][1]
        values = {"loss": loss, name: metric}
        if self.stage_validation is not None:
            values[f"{name}_at_{self.curriculum.data.contour_length}"] = stage_metric
        if not math.isfinite(loss):
            raise self._not_finite(self.step, f"the validation loss is {loss:g}")
        self.history.validation_step.append(self.step)
        self.history.validation_loss.append(loss)
        self.history.validation_metric.append(metric)
        self.history.validation_images.append(self.images)
        self.history.validation_seconds.append(self.seconds)
        text = "  ".join(f"{name} {value:.4f}" for name, value in values.items())

        def write() -> None:
            counts = {**self.counts(), "validation_images": images}
            self.log.measured("validation", self.step, counts, values)
            told = f"step {self.step}/{self.total}  validation: {text}  ({images} images)"
            log.info(told + self._trained_since())
            if self.exp.save_weights and not without_counterpart(self.model):
                path = self.run.weights / f"weights_{self.step:08d}.npz"
                write_arrays(path, tf_variables(self.model))

        self.ranks.first(write)
        self._warn_if_stuck()
        why = self.curriculum.advance(stage_metric, self.images)
        if why is not None:
            self.close()
            self._begin_stage()
            self._save_asked = False
            self.feed.begin()
            self._say_stage(why)
        self._saved_step = None  # a checkpoint of this step, if there is one, lacks the validation
        self._save()
        return True

    def _trained_since(self) -> str:
        """The means of training since the validation before this one, which tell more of how it
        goes."""
        step = [0, *self.history.validation_step][-2]
        losses, metrics = self.history.train_loss[step:], self.history.train_metric[step:]
        if not losses:
            return ""
        loss, metric, name = np.mean(losses), np.mean(metrics), self.exp.score_metric
        return f"; training since: loss {loss:.4f}  {name} {metric:.4f}"

    def _warn_if_stuck(self) -> None:
        """Say once that the network has stopped learning."""
        loss = self.history.stuck_at() if self.train_step.loss is cross_entropy else None
        if loss is not None and not self._said_stuck:
            self._said_stuck = True
            log.warning(
                f"over the last {STUCK_IMAGES:,} images the training loss was {loss:.4f}, that of "
                "one answer to every image; the network is slow or dead: see docs/stuck.md"
            )

    def _say_stage(self, why: str) -> None:
        log.info(f"step {self.step}/{self.total}  {why}")
        length = self.curriculum.data.contour_length
        self.log.event("stage", self.step, {**self.counts(), "length": length, "why": why})

    # -- saving ------------------------------------------------------------------------------------

    def _save(self) -> None:
        """Write a checkpoint, once all that is to be saved is known to be finite."""
        self._read()
        tensors = [t for t in self.model.state_dict().values() if t.is_floating_point()]
        if not torch.stack(torch._foreach_norm(tensors)).isfinite().all():
            raise self._not_finite(self.step, "a weight is not finite after this update")

        def write() -> None:
            best = self.history.best()
            is_best = best is not None and self.history.validation_step[best] == self.step
            self.checkpoints.save(self.step, {**self.state(), "record": self.run.about}, is_best)
            self._write_results(self.run)
            self.log.flush()

        if self._saved_step != self.step:
            self.ranks.first(write)
        self._saved_step, self._saved_at = self.step, time.monotonic()
        self._save_asked = False

    def mend(self, run: Run) -> None:
        """Write what a kill or a full disk kept from being written after the checkpoint that this
        goes on from: ``best.pt`` and the results."""
        best = self.history.best()
        if best is not None:
            CheckpointFolder(run.checkpoints).mend_best(self.history.validation_step[best])
        self._write_results(run)

    def _write_results(self, run: Run) -> None:
        """Write ``results/<run>.npz``: what was measured so far, and the run's settings."""
        arrays = self.history.results(self.exp.score_metric)
        write_arrays(run.results, {**arrays, "settings": np.array(json.dumps(self.identity))})

    # -- ending ------------------------------------------------------------------------------------

    def close(self) -> None:
        """End the processes that load images; they are started again where they are needed."""
        for one in (self.feed, self.validation, self.stage_validation):
            if one is not None:
                one.loader.close()

    def _not_finite(self, step: int, what: str, records: Tensor | None = None) -> NotFiniteError:
        """The error for numbers that are not finite, which names what led to them."""
        message = f"step {step}: {what}. "
        if records is not None:
            numbers = [n for own in self.ranks.from_all(records.tolist()) for n in own]
            data = self.feed.loader.dataset
            names = [data.name(number) for number in numbers[:NAMED_RECORDS]]
            message += f"The batch held {', '.join(names)}. "
        good = list(self.checkpoints.files().values())
        message += f"The last good checkpoint: {good[-1] if good else 'none'}. "
        return NotFiniteError(message + "Try a smaller lr, or clip_gradients, in a run of its own")
