"""The training loop."""

import json
import math
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from config import Config
from dataset_processing import open_set
from dataset_processing.augmentations import Augmentations
from dataset_processing.loader import Loader
from models.tf_variables import tf_variables
from support.errors import SystemRefusal
from support.files import write_arrays
from training.checkpoints import CheckpointFolder
from training.curriculum import Curriculum
from training.distribution import Ranks
from training.experiment import plain
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

GO, SAVE, STOP, FAILED = range(4)  # words between the ranks; the gravest holds for all
NAMED_RECORDS = 64
READ_EVERY = {"cpu": 1}  # updates between readings of a device's numbers, which hold its work up
READ_SELDOM = 20
# Batches that several processes load ahead, with a word and their sizes: the answer has come by the
# time the batch's turn does, so no device waits for the hosts.
AHEAD = {"cpu": 0}
FAR_AHEAD = 4


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
        epoch, position: epochs done, and batches done of the one at hand.
        images: training images seen, repeats counted.
        seconds: of updates, with their waiting for images, and of validations, over all sessions;
            not a number where an earlier version, which did not count them, trained a part.
        history: what was measured.
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
        set_generator = getattr(model, "set_generator", None)
        if set_generator is not None:
            set_generator(self.generators.hidden)
        data = open_set(settings["dataset"], config, settings, on_bad_record)
        other = settings["val_dataset"]
        held_out = open_set(other, config, settings, on_bad_record) if other else data
        self.train_set, self.validation_set = data.fold("train"), held_out.fold("val")
        self._image_size = data.input_size
        self.augment = self._augmentations("data_augmentations")
        self._load: dict[str, Any] = {
            "seed": seed,
            "workers": workers,
            "on_bad_record": on_bad_record,
        }
        self.curriculum = Curriculum(settings, config, data)
        self.train_step = self._train_step(captured)
        self.schedule = Schedule(
            self.train_step.optimizer,
            *(settings["lr"], settings["lr_schedule"], settings["warmup_iters"]),
        )
        self.validation = self._validation(self.validation_set)
        self._begin_stage()
        self.identity = {
            "parameters": plain(settings),
            "seed": seed,
            "network": options_of(model),
            "input size": list(self._image_size[:2]),
            "train data": self.train_set.fingerprint(),
            "validation data": self.validation_set.fingerprint(),
        }
        self.step = self.epoch = self.position = self.images = 0
        self.seconds = 0.0
        self.history = History()
        # Measurements, the batch's records, and the images seen so far.
        self._pending: list[tuple[Tensor, Tensor, int]] = []
        self._read_every = READ_EVERY.get(ranks.device.type, READ_SELDOM)
        self._saved_step: int | None = None
        self._saved_at = time.monotonic()
        self._save_asked = False
        self._asked: deque[tuple[Any, Callable[[], tuple[int, list[int]]]]] = deque()
        several = ranks.world_size > 1
        self._ahead = AHEAD.get(ranks.device.type, FAR_AHEAD) if several else 0
        self._busy = self._waited = 0.0
        self._logged_images = 0

    def state(self) -> dict[str, Any]:
        """All that a checkpoint holds."""
        return {
            "step": self.step,
            "epoch": self.epoch,
            "position": self.position,
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
        self.model.load_state_dict(state["model"])
        self.train_step.optimizer.load_state_dict(state["optimizer"])
        self.history = History.of(
            state["history"], self.settings["batch_size"], len(self.train_set)
        )
        self.step = self._saved_step = state["step"]
        self.epoch, self.position = state["epoch"], state["position"]
        done = self.position * self.settings["batch_size"]
        self.images = state.get("images", self.epoch * len(self.train_set) + done)
        self.seconds = state.get("seconds", math.nan)
        self._logged_images = self.images
        if "curriculum" in state:
            self.curriculum.restore(state["curriculum"])
            self._begin_stage()
        if self.position >= self.loader.batches_per_epoch:  # with more processes than before
            self.epoch, self.position = self.epoch + 1, 0

    @property
    def total(self) -> int:
        """Updates of the whole run."""
        left = (self.settings["epochs"] - self.epoch) * self.loader.batches_per_epoch
        return self.step + max(left - self.position, 0)

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
        return self.step >= self.total and self.history.validated_at(self.step)

    def go(self, run: Run, log: RunLog, stop: Stop) -> str | None:
        """Train to the end, or until ``stop`` wants to leave.

        Args:
            run: where to write.
            log: what to say it to.
            stop: whether to leave.

        Returns:
            None at the end; else why the run left early, with a checkpoint written.

        Raises:
            NotFiniteError: a loss, a gradient or a weight is not finite.
            OtherRankError: another process failed.
            OutOfMemoryError: the device's memory does not suffice.
            UserError: a record is corrupt, or a file cannot be written.
        """
        self.run, self.log = run, log
        self.checkpoints = CheckpointFolder(
            run.checkpoints,
            self.settings["keep_checkpoints"],
            self.settings["keep_every"] * self.settings["validation_iters"],
        )
        try:
            return self._steps(stop)
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

    def _steps(self, stop: Stop) -> str | None:
        """Updates and validations from where the run stands."""
        self._failure: Exception | None = None
        self._load_from_here()
        if not (self.history.validation_step or self.curriculum.is_last):
            self._say_stage(f"contours of {self.curriculum.data.contour_length} paddles at first")
        while self.step < self.total:
            self._validate_if_due()
            entered = began = time.perf_counter()
            batch, word, sizes = self._next(stop)
            self._waited += time.perf_counter() - began
            if word == STOP:
                self._save()
                reasons = [r for r in self.ranks.from_all(stop.wanted()) if r]
                return reasons[0]
            if word == SAVE:
                self._save()
                began = entered = time.perf_counter()
            if 0 in sizes:
                self._skip(sizes)
                continue
            self._update(batch, sizes)
            self._busy += time.perf_counter() - began
            self.seconds += time.perf_counter() - entered
            if self.step % self.settings["log_iters"] == 0:
                self._log_interval()
        self._validate_if_due(last=True)
        return None

    def _load_from_here(self) -> None:
        """Have the batches loaded that follow from where the run stands."""
        while self._asked:  # the other ranks have answered, or will
            self._word(self._asked.popleft()[1])
        self._save_asked = False
        self._batches = self._loaded()
        left = (self.settings["epochs"] - self.epoch) * self.loader.batches_per_epoch
        self._to_ask = left - self.position

    def _begin_stage(self) -> None:
        """Load images of the length that the curriculum is at, and validate on it too."""
        data = self.curriculum.data
        self.loader = self._loader(data.fold("train"), self.settings["shuffle_train"])
        self.stage_validation = None
        if not self.curriculum.is_last:
            self.stage_validation = self._validation(data.fold("val"))

    def _advance_stage(self, metric: float) -> None:
        """Go on to the next length if the metric, on this one, or the images seen say so."""
        why = self.curriculum.advance(metric, self.images)
        if why is None:
            return
        self._close_stage()
        self._begin_stage()
        self._load_from_here()
        self._say_stage(why)

    def _say_stage(self, why: str) -> None:
        self.log.say(f"step {self.step}/{self.total}  {why}")
        length = self.curriculum.data.contour_length
        self.log.event("stage", self.step, {**self._counts(), "length": length, "why": why})

    def _loaded(self) -> Iterator[Any]:
        """This rank's batches from where the run stands to its end."""
        epoch, position = self.epoch, self.position
        while epoch < self.settings["epochs"]:
            yield from self.loader.batches(epoch, position)
            epoch, position = epoch + 1, 0

    def _next(self, stop: Stop) -> tuple[Any, int, list[int]]:
        """The next batch, the word that holds for all ranks, and the images of each rank."""
        while self._to_ask and len(self._asked) <= self._ahead:
            self._asked.append(self._ask(stop))
        batch, answer = self._asked.popleft()
        return (batch, *self._word(answer))

    def _word(self, answer: Callable[[], tuple[int, list[int]]]) -> tuple[int, list[int]]:
        """What the ranks answer; raises where one of them failed."""
        word, sizes = answer()
        if word == FAILED:
            self.ranks.every(self._raise_failure)
        return word, sizes

    def _ask(self, stop: Stop) -> tuple[Any, Callable[[], tuple[int, list[int]]]]:
        """Load a batch, and tell the other ranks about it; their answer is to be waited for."""
        self._to_ask -= 1
        batch, word = None, GO
        try:
            if self._failure is None:
                batch = next(self._batches)
            if self.ranks.is_first and self._checkpoint_due():
                word, self._save_asked = SAVE, True
            if stop.wanted():
                word = STOP
        except Exception as error:  # the other ranks must hear of it, whatever it is
            self._failure = error
        if self._failure is not None:
            word = FAILED
        return batch, self.ranks.ask(word, 0 if batch is None else len(batch.labels))

    def _raise_failure(self) -> None:
        if self._failure is not None:
            raise self._failure

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
        self._advance()
        if len(self._pending) >= self._read_every:
            self._read()
        losses = self.history.train_loss
        self.log.advance(f"loss {losses[-1]:.4f}" if losses else "")

    def _skip(self, sizes: list[int]) -> None:
        """Leave out a batch of which a process has no image: its records were bad."""
        self.log.note(f"a batch is left out: {sizes} of its images could be read, by process")
        self._advance()

    def _advance(self) -> None:
        """Go on to the next batch."""
        self.position += 1
        if self.position >= self.loader.batches_per_epoch:
            self.epoch, self.position = self.epoch + 1, 0

    def _read(self) -> None:
        """Read the measurements from the device.

        Raises:
            NotFiniteError: one of them is not finite.
        """
        if not self._pending:
            return
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

    def _not_finite(self, step: int, what: str, records: Tensor | None) -> NotFiniteError:
        """The error for numbers that are not finite, which names what led to them."""
        message = f"step {step}: {what}. "
        if records is not None:
            numbers = [n for own in self.ranks.from_all(records.tolist()) for n in own]
            names = [self.loader.dataset.name(number) for number in numbers[:NAMED_RECORDS]]
            message += f"The batch held {', '.join(names)}. "
        good = list(self.checkpoints.files().values())
        message += f"The last good checkpoint: {good[-1] if good else 'none'}. "
        return NotFiniteError(message + "Try a smaller lr, or clip_gradients, in a run of its own")

    def _out_of_memory(self) -> str:
        """What to say when the device's memory does not suffice."""
        batch, ranks = self.settings["batch_size"], self.ranks
        share = f" ({ranks.world_size} processes)" if ranks.world_size > 1 else ""
        device = ranks.device
        size = ""
        if device.type == "cuda":
            total = torch.cuda.get_device_properties(device).total_memory / 2**30
            size = f" of {total:.1f} GiB"
        return (
            f"out of memory on {device}{size} at step {self.step} with batch_size {batch}{share}. "
            f"Try --set batch_size={max(1, batch // 2)}, more processes "
            "(torchrun --nproc_per_node=N: each then holds a share of the batch), or end other "
            "programs that use this device"
        )

    def _log_interval(self) -> None:
        """Log the means of the last ``log_iters`` updates."""
        began = time.perf_counter()
        self._read()
        self._busy += time.perf_counter() - began
        self.seconds += time.perf_counter() - began
        n = self.settings["log_iters"]
        device = self.ranks.device
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
        epoch = self.epoch + self.position / self.loader.batches_per_epoch
        text = "  ".join(f"{name} {value:.5g}" for name, value in values.items())
        self.log.event("train", self.step, {**self._counts(), "epoch": epoch, **values})
        self.log.scalars("train", self.step, values)
        self.log.note(f"step {self.step}/{self.total}  epoch {epoch:.3f}  {text}")

    def _validate_if_due(self, last: bool = False) -> None:
        """Validate at step 0, every ``validation_iters`` steps and at the end; then save."""
        if self.history.validated_at(self.step):
            if last and self._saved_step != self.step:
                self._save()
            return
        if not last and self.step % self.settings["validation_iters"]:
            return
        began = time.perf_counter()
        self._read()
        loss, metric, images = self.validation.measure()
        if not math.isfinite(loss):
            raise self._not_finite(self.step, f"the validation loss is {loss:g}", None)
        self.history.validation_step.append(self.step)
        self.history.validation_loss.append(loss)
        self.history.validation_metric.append(metric)
        self.seconds += time.perf_counter() - began
        self.history.validation_images.append(self.images)
        self.history.validation_seconds.append(self.seconds)
        name = self.settings["score_metric"]
        values = {"loss": loss, name: metric}
        if self.stage_validation is not None:
            began = time.perf_counter()
            _, stage_metric, _ = self.stage_validation.measure()
            values[f"{name}_at_{self.curriculum.data.contour_length}"] = stage_metric
            self.seconds += time.perf_counter() - began
        counts = {**self._counts(), "validation_images": images}
        text = "  ".join(f"{name} {value:.4f}" for name, value in values.items())

        def write() -> None:
            self.log.event("validation", self.step, {**counts, **values})
            self.log.scalars("validation", self.step, values)
            self.log.say(f"step {self.step}/{self.total}  validation: {text}  ({images} images)")
            if self.settings["save_weights"]:
                path = self.run.weights / f"weights_{self.step:08d}.npz"
                write_arrays(path, tf_variables(self.model))

        self.ranks.first(write)
        if self.stage_validation is not None:
            self._advance_stage(stage_metric)
        self._saved_step = None  # a checkpoint of this step, if there is one, lacks the validation
        self._save()

    def _counts(self) -> dict[str, Any]:
        """Images and seconds up to here, for the log."""
        seconds = self.seconds if math.isfinite(self.seconds) else None
        return {"images": self.images, "seconds": seconds}

    def write_results(self, run: Run) -> None:
        """Write ``results/<run>.npz``: what was measured so far, and the run's settings."""
        arrays = self.history.results(self.settings["score_metric"])
        settings = np.array(json.dumps(self.identity))
        write_arrays(run.results, {**arrays, "settings": settings})

    def _checkpoint_due(self) -> bool:
        if self._save_asked:
            return False
        elapsed = time.monotonic() - self._saved_at
        return self._saved_step != self.step and elapsed >= 60 * self.settings["checkpoint_minutes"]

    def _save(self) -> None:
        """Write a checkpoint, once all that is to be saved is known to be finite."""
        began = time.perf_counter()
        self._read()
        self.seconds += time.perf_counter() - began
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
        state = {**self.state(), "record": self.run.about}
        self.checkpoints.save(self.step, state, is_best)
        self.write_results(self.run)
        self.log.flush()

    def close(self) -> None:
        """End the processes that load images."""
        self._close_stage()
        self.validation.loader.close()

    def _close_stage(self) -> None:
        self.loader.close()
        if self.stage_validation is not None:
            self.stage_validation.loader.close()

    def _train_step(self, captured: bool) -> TrainStep:
        """What updates the network."""
        wanted = self.settings
        return TrainStep(
            self.model,
            loss_function(wanted["loss_function"]),
            metric_function(wanted["score_metric"]),
            network_optimizer(self.model, wanted["optimizer"], wanted["lr"], wanted["updates"]),
            wanted["clip_gradients"],
            self.ranks,
            captured=captured,
            generators=(self.generators.hidden,),
        )

    def _augmentations(self, key: str) -> Augmentations:
        return Augmentations(self.settings[key], self._image_size)

    def _validation(self, dataset: Any) -> Validation:
        """Measures on a fold; each process takes whole batches of it."""
        return Validation(
            self.train_step,
            self._loader(dataset, self.settings["shuffle_val"], whole=True),
            self._augmentations("val_augmentations"),
            self.generators,
            self.settings["num_validation_evals"],
        )

    def _loader(self, dataset: Any, shuffle: bool, whole: bool = False) -> Loader:
        batch_size = self.settings["batch_size"]
        share = self.ranks.rank, self.ranks.world_size
        if whole:
            share, batch_size = (0, 1), min(batch_size, len(dataset))
        return Loader(
            dataset,
            batch_size,
            shuffle=shuffle,
            device=self.ranks.device,
            rank=share[0],
            world_size=share[1],
            **self._load,
        )


def _is_out_of_memory(error: BaseException) -> bool:
    told = isinstance(error, (torch.OutOfMemoryError, MemoryError))
    return told or "can't allocate memory" in str(error) or "not enough memory" in str(error)
