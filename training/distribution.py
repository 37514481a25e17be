"""Several processes that compute what one would: the ranks of a ``torchrun``.

Each holds the whole network and a slice of every batch. What they exchange between devices takes
part in the update (see ``training.step``); what their hosts have to tell each other goes another
way (gloo), past the devices, which need not wait for it.
"""

import logging
import os
import socket
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext, suppress
from datetime import timedelta
from typing import TYPE_CHECKING, Any, TypeVar

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn

from support.errors import SystemRefusal, UserError
from support.shell import ERROR, fail
from training.signals import told

if TYPE_CHECKING:
    from layers.kernels.peers import Peers

log = logging.getLogger(__name__)
T = TypeVar("T")
MEETING = timedelta(minutes=5)  # that the processes wait for each other at the start
SILENCE = timedelta(minutes=30)  # that they wait for a word of one that is there
ENDLESS = timedelta(days=3650)
GRACE = 10.0  # seconds that a process has to leave by itself once another is gone
DONE, FAILED, LOST = 1, 2, 3  # how a neighbour left


class OtherRankError(RuntimeError):
    """Another of the processes that train together failed, and says why itself."""


class Ranks:
    """This process among those that train together; alone where there are no others.

    A context manager, which on leaving says goodbye to the others. A process that ends otherwise is
    noticed: the others then have ``GRACE`` seconds to leave.

    ``alone``: take no notice of others, whatever the environment says. UserError where the
    environment or the devices do not fit together, SystemRefusal where the others did not come
    within ``MEETING``.
    """

    def __init__(self, device: torch.device, alone: bool = False) -> None:
        self.device = device
        self.rank, self.world_size = (0, 1) if alone else _numbers()
        self.is_first = self.rank == 0  # the one that writes
        self.sizes: list[int] = []  # images of each rank in the batch at hand
        self._shares: dict[tuple[int, ...], Tensor] = {}
        self.peers: Peers | None = None
        # Released before the processes part: NCCL waits for graphs that hold its work.
        self.recordings: weakref.WeakSet[Any] = weakref.WeakSet()
        self._left: int | None = None  # how this process did
        self._heard = threading.Event()  # how the next rank left
        if self.world_size > 1:
            self._meet()

    def _meet(self) -> None:
        """Find the others, and see that the devices fit together."""
        where = f"{os.environ['MASTER_ADDR']}:{os.environ['MASTER_PORT']}"
        on_gpu = self.device.type == "cuda"
        try:
            store, *_ = next(dist.rendezvous("env://", timeout=MEETING))
            devices = self._check_devices(store)
            dist.init_process_group(
                "nccl" if on_gpu else "gloo",
                store=dist.PrefixStore("training", store),
                rank=self.rank,
                world_size=self.world_size,
                timeout=SILENCE,
                device_id=self.device if on_gpu else None,
            )
            self._control = dist.new_group(backend="gloo", timeout=SILENCE)
            self._ring = dist.new_group(backend="gloo", timeout=ENDLESS)
            self.barrier()
        except (UserError, OtherRankError):
            raise
        except (RuntimeError, OSError) as error:  # of sockets, the store, gloo or NCCL
            raise SystemRefusal(
                f"process {self.rank} of {self.world_size} could not join the others at {where} "
                f"(MASTER_ADDR, MASTER_PORT) within {MEETING.seconds // 60} minutes: "
                f"{str(error).splitlines()[0]}"
            ) from error
        self._watch = threading.Thread(target=self._watch_neighbour, daemon=True)
        self._watch.start()
        if on_gpu:
            self.peers = self._reach(devices)

    def _reach(self, devices: list[str]) -> "Peers | None":
        """The ranks' memory for exchanges, where their GPUs are of one host and reach each other's;
        otherwise NCCL exchanges. All ranks decide alike."""
        from torch.distributed import _symmetric_memory as symmetric

        from layers.kernels import compiled, peers

        hosts, numbers = zip(*(device.split()[1:] for device in devices), strict=True)
        others = {int(n) for n in numbers} - {self.device.index}
        able = len(set(hosts)) == 1 and self.world_size <= peers.MOST
        able = able and os.environ.get("NCCL_P2P_DISABLE", "0") == "0"
        able = able and compiled.available(self.device) and max(others) < torch.cuda.device_count()
        reach = torch.cuda.can_device_access_peer
        if not all(self.from_all(able and all(reach(self.device, n) for n in others))):
            return None
        os.environ["TORCH_SYMM_MEM_DISABLE_MULTICAST"] = "1"  # of no use here
        found = None
        try:
            size = peers.words(self.world_size)
            own = symmetric.empty(size, dtype=torch.int64, device=self.device).zero_()
            torch.cuda.synchronize(self.device)  # no rank writes here before all have passed this
            handle = symmetric.rendezvous(own, dist.group.WORLD)  # type: ignore[arg-type]
            starts = handle.buffer_ptrs
            # Giving this back would wait for the device. A process that leaves while its device
            # waits for another's keeps it: its watch, which has not ended then, holds these ranks.
            places = [own.data_ptr() - starts[self.rank] + start for start in starts]
            found = peers.Peers(places, self.rank, (own, handle))
        except RuntimeError as error:
            log.warning("processes exchange through NCCL, not their GPUs' memory: %s", error)
        return found if all(self.from_all(found is not None)) else None

    def _check_devices(self, store: dist.Store) -> list[str]:
        """Each rank's kind of device, host and number. Raises where the ranks do not compute on one
        GPU each, or all on CPUs."""
        wrong = UserError if self.is_first else OtherRankError
        mine = f"{self.device.type} {socket.gethostname()} {self.device.index}"
        store.set(f"device/{self.rank}", mine)
        found = [store.get(f"device/{rank}").decode() for rank in range(self.world_size)]
        for rank, device in enumerate(found):
            kind, first = device.split()[0], found[0].split()[0]
            if kind != first:
                raise wrong(
                    f"process {rank} computes on {kind}, process 0 on {first}: all need the same "
                    "kind of device; choose it with --device"
                )
            if kind == "cuda" and device in found[:rank]:
                raise wrong(
                    f"processes {found.index(device)} and {rank} would share one GPU ({device}); "
                    "each needs its own: leave --device out, and start as many as there are GPUs"
                )
        return found

    # -- words between the hosts -------------------------------------------------------------------

    def ask(self, word: int, images: int = 0) -> Callable[[], tuple[int, list[int]]]:
        """Tell the others a word and how many images are here, without waiting for theirs; a
        function that waits for the gravest word of all ranks, and how many images each holds."""
        if self.world_size == 1:
            return lambda: (word, [images])
        words = torch.zeros(self.world_size, 2, dtype=torch.int64)
        words[self.rank] = torch.tensor([word, images])
        with _others():
            work = dist.all_reduce(words, group=self._control, async_op=True)

        def answer() -> tuple[int, list[int]]:
            with _others():
                work.wait()
            return int(words[:, 0].max()), words[:, 1].tolist()

        return answer

    def every(self, action: Callable[[], T]) -> list[T]:
        """What ``action()`` returns on every rank (anything that can be pickled), on all ranks.

        Raises an OtherRankError where the action raised on another rank.
        """
        if self.world_size == 1:
            return [action()]
        failure: Exception | None = None
        try:
            mine: tuple[Any, str | None] = action(), None
        except Exception as error:  # the other ranks must hear of it, whatever it is
            mine, failure = (None, str(error)), error
        found: list[Any] = [None] * self.world_size
        with _others():
            dist.all_gather_object(found, mine, group=self._control)
        found[self.rank] = mine  # itself, no copy: a run holds its lock
        if failure is not None:
            raise failure
        for rank, (_, message) in enumerate(found):
            if message is not None:
                raise OtherRankError(f"process {rank} failed: {message}")
        return [value for value, _ in found]

    def first(self, action: Callable[[], T]) -> T:
        """What the first rank's ``action()`` returns, on all ranks (see :meth:`every`)."""
        return self.every(action if self.is_first else lambda: None)[0]  # type: ignore[return-value, arg-type]

    def from_all(self, value: T) -> list[T]:
        """Every rank's value, on all ranks."""
        return self.every(lambda: value)

    def barrier(self) -> None:
        """Wait until all ranks are here."""
        self.ask(0)()

    # -- what takes part in the update -------------------------------------------------------------

    def join(self, model: nn.Module) -> None:
        """Give all ranks the first one's weights, and join the model's batch statistics.

        A layer with the attribute ``over_ranks`` (batch normalisation) is given these ranks.
        """
        if self.world_size > 1:
            for tensor in model.state_dict().values():
                _exchange(dist.broadcast, tensor, 0)
            self._hook(model, joined=True)

    def caution(self, model: nn.Module) -> str:
        """What several processes compute otherwise than one would, in a network of one's own; ""
        where nothing is."""
        norms = [
            name
            for name, module in model.named_modules()
            if isinstance(module, nn.modules.batchnorm._BatchNorm)
            and not isinstance(module, nn.SyncBatchNorm)
            and module.training  # a frozen one takes its averages
        ]
        if self.world_size == 1 or not norms:
            return ""
        return (
            f"{', '.join(norms)}: PyTorch's batch normalisation takes each process's images apart, "
            "and the first one's averages are kept; layers.normalisation.BatchNormalisation joins "
            "them"
        )

    def place(self, model: nn.Module, sizes: list[int]) -> tuple[int, int]:
        """Say how the batch at hand is shared: images of each rank. Called before each update.

        The model's modules that draw random numbers an image (with the attributes ``draw_images``
        and ``draw_offset``) are told what is returned: images of the total batch, and which of them
        this rank's first is.
        """
        total, offset = sum(sizes), sum(sizes[: self.rank])
        self.sizes = sizes
        if self.world_size > 1:
            if tuple(sizes) not in self._shares:
                shares = torch.tensor(sizes, dtype=torch.float64) / total
                self._shares[tuple(sizes)] = shares.float().to(self.device)
            for module in _with(model, "draw_images"):
                module.draw_images, module.draw_offset = total, offset
        return total, offset

    @contextmanager
    def apart(self, model: nn.Module) -> Iterator[None]:
        """Within the block, this rank computes as one process alone does."""
        self._hook(model, joined=False)
        for module in _with(model, "draw_images"):
            module.draw_images, module.draw_offset = None, 0
        try:
            yield
        finally:
            self._hook(model, joined=self.world_size > 1)

    def _hook(self, model: nn.Module, joined: bool) -> None:
        for module in _with(model, "over_ranks"):
            module.over_ranks = self if joined else None

    def joined(self, logits: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Logits (N, C) and labels (N,) of all ranks, in their order, from this rank's own.

        Differentiable for this rank's rows. What follows is computed by every rank alike; each then
        holds the gradient of its own rows.
        """
        if self.world_size == 1:
            return logits, labels
        own = torch.cat([logits, labels[:, None].to(logits.dtype)], 1)
        before, after = sum(self.sizes[: self.rank]), sum(self.sizes[self.rank + 1 :])
        rows = self.sum(F.pad(own.detach(), (0, 0, before, after)))  # zeros in others' places
        table = torch.cat([rows[:before], own, rows[before + len(own) :]])
        return table[:, :-1], table[:, -1].detach().to(labels.dtype)

    # What batch normalisation is to know of the others (layers.normalisation.OverRanks).

    @property
    def shares(self) -> Tensor:
        """Each rank's share of the images at hand (ranks,)."""
        return self._shares[tuple(self.sizes)]

    def total(self, count: int) -> int:
        """How many values all ranks have, where this one has ``count``."""
        return count // self.sizes[self.rank] * sum(self.sizes)

    def gather(self, own: Tensor) -> Tensor:
        """Every rank's numbers (ranks, n), from this rank's own (n,); differentiable."""
        return _Gather.apply(own, self)

    def sum(self, own: Tensor) -> Tensor:
        """The sum of all ranks' tensors, in place of ``own``; without a gradient of its own."""
        if peers := self._peers_for(own):
            return peers.sum(own, own)
        _exchange(dist.all_reduce, own)
        return own

    def _peers_for(self, own: Tensor) -> "Peers | None":
        return self.peers if own.dtype == torch.float32 else None

    @torch.no_grad()
    def sum_gradients(self, model: nn.Module) -> None:
        """Replace every gradient by its sum over ranks: all of them in one vector."""
        if self.world_size == 1:
            return
        weights = [p for p in model.parameters() if p.grad is not None]
        flat = torch.cat([p.grad.flatten() for p in weights if p.grad is not None])
        self.sum(flat)
        for p, own in zip(weights, flat.split([p.numel() for p in weights]), strict=True):
            p.grad = own.view_as(p)

    # -- leaving -----------------------------------------------------------------------------------

    def __enter__(self) -> "Ranks":
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if self.world_size == 1:
            return
        if kind is not None and issubclass(kind, OtherRankError):
            self._heard.wait(GRACE)  # the watch says who it was, if that one cannot
        self._left = DONE if kind is None else FAILED
        self._tell(self._left)
        if self._left == FAILED:
            # A thread that is still in the library when Python ends would abort the process.
            self._heard.wait(GRACE)
            return  # what the others' devices wait for will not come; nothing here can be put right
        self._watch.join()
        for recording in self.recordings:
            recording.release()
        dist.destroy_process_group()

    def _tell(self, how: int) -> None:
        """Tell the process that watches this one how it leaves, unless it is gone itself."""
        before = (self.rank - 1) % self.world_size
        with suppress(RuntimeError):
            dist.send(torch.tensor([how]), before, group=self._ring)

    def _watch_neighbour(self) -> None:
        """Wait until the next rank has left. If it failed, this process does not stay: its device
        may wait for that rank's for ever, and its main thread for the device."""
        other = (self.rank + 1) % self.world_size
        how = torch.zeros(1, dtype=torch.int64)
        try:
            dist.recv(how, other, group=self._ring)
        except RuntimeError:
            how.fill_(LOST)
        if how == LOST and self._left != FAILED:
            fail(
                f"process {other} of {self.world_size} was lost: it ended without saying why "
                "(killed, or out of the machine's memory?). --resume goes on from the last "
                "checkpoint"
            )
        self._heard.set()
        if how == DONE:
            return
        if self._left is None:
            self._tell(FAILED)
        time.sleep(GRACE)
        os._exit(told(ERROR))


def _numbers() -> tuple[int, int]:
    """This process's rank and how many there are, by torchrun's variables; UserError if unfit."""
    if "RANK" not in os.environ:
        return 0, 1
    names = ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
    found = {name: os.environ.get(name, "") for name in names}
    rank, size, _, port = (int(x) if x.isdecimal() else -1 for x in found.values())
    if not (0 <= rank < size and found["MASTER_ADDR"] and port >= 0):
        told = ", ".join(f"{name}={text!r}" for name, text in found.items())
        raise UserError(
            f"expected {', '.join(names)} in the environment, as torchrun sets them, with whole "
            f"numbers 0 <= RANK < WORLD_SIZE, found {told}; for one process, unset RANK"
        )
    return rank, size


def device_of(name: str) -> torch.device:
    """The device that ``--device`` means; with several ranks, each takes its own GPU.

    UserError where the name is no device, or this machine has no such device, or not enough.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
    except RuntimeError:
        raise UserError(
            f"--device must be auto, cpu, cuda or cuda:<number>, found {name!r}"
        ) from None
    if device.type == "cuda":
        count = torch.cuda.device_count()
        here = int(os.environ.get("LOCAL_WORLD_SIZE", 1))
        local = int(os.environ.get("LOCAL_RANK", 0))
        if here > count > 0 and device.index is None:
            raise (OtherRankError if local else UserError)(
                f"--nproc_per_node={here}: this machine has {count} CUDA devices, and each process "
                f"needs its own; start {count}, or use --device cpu"
            )
        device = torch.device("cuda", local if device.index is None else device.index)
        if device.index >= count:
            raise UserError(f"--device {name}: this machine has {count} CUDA devices")
        torch.cuda.set_device(device)
    return device


@contextmanager
def _others() -> Iterator[None]:
    """An exchange with the other ranks: where it fails, one of them is gone."""
    try:
        yield
    except RuntimeError as error:
        raise OtherRankError(f"the connection to another process is lost: {error}") from error


def _exchange(call: Callable[..., Any], tensor: Tensor, *others: Any) -> None:
    """An exchange between devices. Where these are CPUs it fails like one between hosts; of a GPU
    an error here is a fault of its own, and a lost process leaves it waiting."""
    with _others() if tensor.device.type == "cpu" else nullcontext():
        call(tensor, *others)


def _with(model: nn.Module, attribute: str) -> list[Any]:
    """The modules that have an attribute of that name."""
    return [module for module in model.modules() if hasattr(module, attribute)]


class _Gather(torch.autograd.Function):
    """Every rank's vector (C,) as rows (ranks, C); gradients of all ranks add up."""

    @staticmethod
    def forward(ctx: Any, own: Tensor, ranks: Ranks) -> Tensor:
        ctx.ranks = ranks
        if peers := ranks._peers_for(own):
            return peers.gather(own)
        table = own.new_empty(ranks.world_size * len(own))
        # PyTorch 2.13 renamed it.
        gather = getattr(dist, "all_gather_single", None) or dist.all_gather_into_tensor
        _exchange(gather, table, own)
        return table.view(-1, len(own))

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        if peers := ctx.ranks._peers_for(gradient):
            return peers.sum(gradient)[ctx.ranks.rank], None
        total = gradient.new_empty(gradient.shape[1])
        # Likewise.
        scatter = getattr(dist, "reduce_scatter_single", None) or dist.reduce_scatter_tensor
        _exchange(scatter, total, gradient.flatten())
        return total, None
