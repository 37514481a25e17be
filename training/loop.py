"""The training loop."""

import json
import logging
import math
import time
from collections.abc import Mapping
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from config import Config
from dataset_processing import open_set
from dataset_processing.augmentations import Augmentations
from dataset_processing.loader import Loader
from layers.shares import shared_images
from models.tf_variables import tf_variables
from support.errors import SystemRefusal
from support.files import write_arrays
from training.checkpoints import CheckpointFolder
from training.curriculum import Curriculum
from training.distribution import Ranks
from training.experiment import plain
from training.feed import GO, SAVE, STOP, Feed
from training.history import History
from training.log import RunLog
from training.losses import loss_function
from training.metrics import metric_function
from training.optimizers import network_optimizer
from training.provenance import options_of
from training.run import Run
from training.schedule import Schedule
from training.seeds import Generators
from training.signals import Stop
from training.step import TrainStep
from training.validation import Validation

log = logging.getLogger(__name__)

NAMED_RECORDS = 64
READ_EVERY = {"cpu": 1}  # updates between readings of a device's numbers, which hold its work up
READ_SELDOM = 20


class NotFiniteError(RuntimeError):
    """A loss, a gradient or a weight became infinite or not a number."""


class OutOfMemoryError(RuntimeError):
    """The device's memory does not suffice."""


class Training:
    """A run, from where it stands to its end.

    Args:
        settings: an ``Experiment``.
        model: the network, with its initial values, on the CPU.
        config: the project's paths.
        ranks: the processes that train together.
        seed: what all random numbers follow from.
        workers: processes that load each fold.
        on_bad_record: ``'error'`` or ``'skip'``.
        captured: let a GPU replay the update as one captured graph.

    Attributes:
        step: updates done.
        images: training images seen, repeats counted.
        seconds: of updates, with their waiting for images, and of validations, over all sessions;
            not a number where an earlier version, which did not count them, trained a part.
        feed: the batches, and where the run stands among them.
        history: what was measured.
        identity: what a checkpoint must be of to go on from it.
    """

    def __init__(
        self,
        settings: Mapping[str, Any],
        model: nn.Module,
        config: Config,
        ranks: Ranks,
        seed: int,
        workers: int = 0,
        on_bad_record: str = "error",
        captured: bool = True,
    ) -> None:
        self.settings, self.ranks = settings, ranks
        self.model: Any = model.to(ranks.device)
        self.generators = Generators(seed, ranks.device, ranks.rank)
        set_generator: Any = getattr(model, "set_generator", None)
        if set_generator is not None:
            set_generator(self.generators.hidden)
        data = open_set(settings["dataset"], config, settings, on_bad_record)
        other = settings["val_dataset"]
        held_out = open_set(other, config, settings, on_bad_record) if other else data
        self.train_set, self.validation_set = data.fold("train"), held_out.fold("val")
        self._loader = partial(
            Loader, device=ranks.device, seed=seed, workers=workers, on_bad_record=on_bad_record
        )
        self._image_size = data.input_size
        self.augment = Augmentations(settings["data_augmentations"], data.input_size)
        self.train_step = TrainStep(
            self.model,
            loss_function(settings["loss_function"]),
            metric_function(settings["score_metric"]),
            network_optimizer(model, settings["optimizer"], settings["lr"], settings["updates"]),
            settings["clip_gradients"],
            ranks,
            captured=captured,
            generators=(self.generators.hidden,),
        )
        self.schedule = Schedule(
            self.train_step.optimizer,
            settings["lr"],
            settings["lr_schedule"],
            settings["warmup_iters"],
        )
        self.validation = self._validation(self.validation_set)
        self.curriculum = Curriculum(settings, config, data)
        self.feed = Feed(ranks, settings["epochs"], self._wanted)
        self._begin_stage()
        self.identity = {
            "parameters": plain(settings),
            "seed": seed,
            "network": options_of(model),
            "input size": list(self._image_size[:2]),
            "train data": self.train_set.fingerprint(),
            "validation data": self.validation_set.fingerprint(),
        }
        self.step = self.images = 0
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

    def _validation(self, dataset: Any) -> Validation:
        """Measures on a fold; each process takes whole batches of it."""
        batch_size = min(self.settings["batch_size"], len(dataset))
        return Validation(
            self.train_step,
            self._loader(dataset, batch_size, shuffle=self.settings["shuffle_val"]),
            Augmentations(self.settings["val_augmentations"], self._image_size),
            self.generators,
            self.settings["num_validation_evals"],
        )

    def _begin_stage(self) -> None:
        """Load images of the length that the curriculum is at, and validate on it too."""
        self.feed.loader = self._loader(
            self.curriculum.fold(),
            self.settings["batch_size"],
            shuffle=self.settings["shuffle_train"],
            rank=self.ranks.rank,
            world_size=self.ranks.world_size,
        )
        data = self.curriculum.data
        same = self.curriculum.is_last or data.fold("val") is self.validation_set
        self.stage_validation = None if same else self._validation(data.fold("val"))

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

    def restore(self, state: dict[str, Any]) -> None:
        """Go on from what :meth:`state` gave."""
        batch, epoch = self.settings["batch_size"], len(self.train_set)
        self.model.load_state_dict(state["model"])
        self.train_step.optimizer.load_state_dict(state["optimizer"])
        self.history = History.of(state["history"], batch, epoch)
        self.step = self._saved_step = state["step"]
        self.feed.epoch, self.feed.position = state["epoch"], state["position"]
        seen = state["epoch"] * epoch + state["position"] * batch
        self.images = self._logged_images = state.get("images", seen)
        self.seconds = state.get("seconds", math.nan)
        if state.get("curriculum", self.curriculum.state()) != self.curriculum.state():
            self.curriculum.restore(state["curriculum"])
            self._begin_stage()
        self.feed.next_epoch()  # with more processes than before

    @property
    def total(self) -> int:
        """Updates of the whole run."""
        return self.step + self.feed.left

    def data(self) -> dict[str, dict[str, Any]]:
        """What is trained and validated on: names, sizes, fingerprints."""
        name, other = self.settings["dataset"], self.settings["val_dataset"]
        sets = {
            "train": (name, self.train_set),
            "validation": (other or name, self.validation_set),
        }
        return {
            fold: {
                "name": name,
                "images": len(data_set),
                "im_size": list(data_set.im_size),
                "fingerprint": data_set.fingerprint(),
                "description": data_set.describe(),
            }
            for fold, (name, data_set) in sets.items()
        }

    def network(self) -> dict[str, Any]:
        """What is trained: the network as built, and what it is given."""
        return {
            **self.identity["network"],
            "parameters": sum(p.numel() for p in self.model.parameters()),
            "input_size": self.identity["input size"],
            "preprocessing": {
                "train": self.settings["data_augmentations"],
                "validation": self.settings["val_augmentations"],
            },
        }

    def finished(self) -> bool:
        """Whether nothing is left to do, the validation at the end included."""
        return not self.feed.left and self.history.validated_at(self.step)

    # -- going on ----------------------------------------------------------------------------------

    def go(self, run: Run, run_log: RunLog, stop: Stop) -> str | None:
        """Train to the end, or until ``stop`` wants to leave.

        Returns:
            None at the end; else why the run left early, with a checkpoint written.

        Raises:
            NotFiniteError: a loss, a gradient or a weight is not finite.
            OtherRankError: another process failed.
            OutOfMemoryError: the device's memory does not suffice.
            UserError: a record is corrupt, or a file cannot be written.
        """
        self.run, self.log, self.stop = run, run_log, stop
        keep_steps = self.settings["keep_every"] * self.settings["validation_iters"]
        keep = self.settings["keep_checkpoints"]
        self.checkpoints = CheckpointFolder(run.checkpoints, keep, keep_steps)
        images = self.settings["batch_size"] // self.ranks.world_size
        try:
            with shared_images(self.model, images):
                return self._steps()
        except (RuntimeError, MemoryError) as error:
            if _is_out_of_memory(error):
                raise OutOfMemoryError(self._out_of_memory()) from error
            if str(error).startswith("DataLoader worker"):  # as PyTorch says that one is gone
                raise SystemRefusal(
                    f"a process that loads images was lost at step {self.step}: killed, or out of "
                    "the machine's memory (/dev/shm too)? --resume goes on from the last "
                    "checkpoint; --workers N with a smaller N takes less memory"
                ) from error
            raise

    def _steps(self) -> str | None:
        """Updates and validations from where the run stands."""
        self.feed.begin()
        if not (self.history.validation_step or self.curriculum.is_last):
            self._say_stage(f"contours of {self.curriculum.describe()} at first")
        while self.feed.left:
            if self.step % self.settings["validation_iters"] == 0:
                self._validate()
            began = time.perf_counter()
            batch, word, sizes = self.feed.next()
            waited = time.perf_counter() - began
            if word == STOP:
                self._save()
                reasons = [r for r in self.ranks.from_all(self.stop.wanted()) if r]
                return reasons[0]
            if word == SAVE:
                self._save()
                began = time.perf_counter() - waited
            if 0 in sizes:  # its records were bad
                log.debug(f"a batch is left out: {sizes} of its images could be read, by process")
                self.feed.advance()
                continue
            self._update(batch, sizes)
            spent = time.perf_counter() - began
            self._busy, self._waited = self._busy + spent, self._waited + waited
            self.seconds += spent
            log_is_due = self.step % self.settings["log_iters"] == 0
            if log_is_due or len(self._pending) >= self._read_every:
                self._read()
            losses = self.history.train_loss
            self.log.advance(f"loss {losses[-1]:.4f}" if losses else "")
            if log_is_due:
                self._log_interval()
        self._validate()
        if self._saved_step != self.step:
            self._save()
        return None

    def _wanted(self) -> int:
        """What this process wants before the next batch."""
        if self.stop.wanted():
            return STOP
        if not self.ranks.is_first or self._save_asked or self._saved_step == self.step:
            return GO
        elapsed = time.monotonic() - self._saved_at
        self._save_asked = elapsed >= 60 * self.settings["checkpoint_minutes"]
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
        """Read the measurements from the device, which waits for its work.

        Raises:
            NotFiniteError: one of them is not finite.
        """
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
        spent = time.perf_counter() - began
        self._busy, self.seconds = self._busy + spent, self.seconds + spent

    def _log_interval(self) -> None:
        """Log the means of the last ``log_iters`` updates."""
        n, device = self.settings["log_iters"], self.ranks.device
        values = {
            "loss": float(np.mean(self.history.train_loss[-n:])),
            self.settings["score_metric"]: float(np.mean(self.history.train_metric[-n:])),
            "gradient_norm": float(np.mean(self.history.gradient_norm[-n:])),
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
        self.log.measured("train", self.step, {**self._counts(), "epoch": epoch}, values)
        log.debug(f"step {self.step}/{self.total}  epoch {epoch:.3f}  {text}")

    def _validate(self) -> None:
        """Validate, unless it was done at this step, and save; begin the next stage if it is time.

        Raises:
            NotFiniteError: the loss is not finite.
        """
        if self.history.validated_at(self.step):
            return
        self._read()
        began = time.perf_counter()
        loss, metric, images = self.validation.measure()
        name = self.settings["score_metric"]
        values = {"loss": loss, name: metric}
        stage_metric = metric
        if self.stage_validation is not None:
            stage_metric = self.stage_validation.measure()[1]
            values[f"{name}_at_{self.curriculum.data.contour_length}"] = stage_metric
        self.seconds += time.perf_counter() - began
        if not math.isfinite(loss):
            raise self._not_finite(self.step, f"the validation loss is {loss:g}", None)
        self.history.validation_step.append(self.step)
        self.history.validation_loss.append(loss)
        self.history.validation_metric.append(metric)
        self.history.validation_images.append(self.images)
        self.history.validation_seconds.append(self.seconds)
        text = "  ".join(f"{name} {value:.4f}" for name, value in values.items())

        def write() -> None:
            counts = {**self._counts(), "validation_images": images}
            self.log.measured("validation", self.step, counts, values)
            log.info(f"step {self.step}/{self.total}  validation: {text}  ({images} images)")
            if self.settings["save_weights"]:
                path = self.run.weights / f"weights_{self.step:08d}.npz"
                write_arrays(path, tf_variables(self.model))

        self.ranks.first(write)
        last = self.curriculum.is_last
        why = None if last else self.curriculum.advance(stage_metric, self.images)
        if why is not None:
            self._close_stage()
            self._begin_stage()
            self._save_asked = False
            self.feed.begin()
            self._say_stage(why)
        self._saved_step = None  # a checkpoint of this step, if there is one, lacks the validation
        self._save()

    def _say_stage(self, why: str) -> None:
        log.info(f"step {self.step}/{self.total}  {why}")
        length = self.curriculum.data.contour_length
        self.log.event("stage", self.step, {**self._counts(), "length": length, "why": why})

    def _counts(self) -> dict[str, Any]:
        """Images and seconds up to here, for the log."""
        seconds = self.seconds if math.isfinite(self.seconds) else None
        return {"images": self.images, "seconds": seconds}

    # -- saving ------------------------------------------------------------------------------------

    def _save(self) -> None:
        """Write a checkpoint, once all that is to be saved is known to be finite."""
        self._read()
        tensors = [t for t in self.model.state_dict().values() if t.is_floating_point()]
        if not torch.stack(torch._foreach_norm(tensors)).isfinite().all():
            raise self._not_finite(self.step, "a weight is not finite after this update", None)
        if self._saved_step != self.step:
            self.ranks.first(self._write_checkpoint)
        self._saved_step = self.step
        self._saved_at = time.monotonic()
        self._save_asked = False

    def _write_checkpoint(self) -> None:
        best = self.history.best()
        is_best = best is not None and self.history.validation_step[best] == self.step
        self.checkpoints.save(self.step, {**self.state(), "record": self.run.about}, is_best)
        self.write_results(self.run)
        self.log.flush()

    def write_results(self, run: Run) -> None:
        """Write ``results/<run>.npz``: what was measured so far, and the run's settings."""
        arrays = self.history.results(self.settings["score_metric"])
        settings = np.array(json.dumps(self.identity))
        write_arrays(run.results, {**arrays, "settings": settings})

    # -- ending ------------------------------------------------------------------------------------

    def close(self) -> None:
        """End the processes that load images."""
        self._close_stage()
        self.validation.loader.close()

    def _close_stage(self) -> None:
        self.feed.loader.close()
        if self.stage_validation is not None:
            self.stage_validation.loader.close()

    def _not_finite(self, step: int, what: str, records: Tensor | None) -> NotFiniteError:
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

    def _out_of_memory(self) -> str:
        """What to say when the device's memory does not suffice."""
        batch, ranks = self.settings["batch_size"], self.ranks
        where = str(ranks.device)
        if ranks.device.type == "cuda":
            total = torch.cuda.get_device_properties(ranks.device).total_memory
            where += f" of {total / 2**30:.1f} GiB"
        share = f" ({ranks.world_size} processes)" if ranks.world_size > 1 else ""
        return (
            f"out of memory on {where} at step {self.step} with batch_size {batch}{share}. "
            f"Try --set batch_size={max(1, batch // 2)}, more processes "
            "(torchrun --nproc_per_node=N: each then holds a share of the batch), or end other "
            "programs that use this device"
        )


def _is_out_of_memory(error: BaseException) -> bool:
    told = isinstance(error, (torch.OutOfMemoryError, MemoryError))
    return told or "can't allocate memory" in str(error) or "not enough memory" in str(error)
