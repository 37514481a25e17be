"""Initial weights that were trained before: by another run, or by the original."""

import hashlib
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import safetensors.torch
from safetensors import SafetensorError
from torch import Tensor, nn

from config import Config
from models.tf_variables import load_npy_folder, load_tf_variables
from training.checkpoints import CheckpointError, CheckpointFolder, load
from training.run import find_run


def load_initial_weights(network: nn.Module, which: str, config: Config) -> None:
    """Set a network's weights and running averages to trained ones.

    Args:
        network: on the CPU.
        which: a ``.safetensors`` file (analysis.export), an ``.npz`` file or a folder of ``.npy``
            files with the original's variables, a checkpoint (``.pt``), or a run's name or folder:
            its newest checkpoint.
        config: the project's paths.

    Raises:
        FileNotFoundError, ValueError: there are no such weights, or they do not fit the network,
            which then stays as it was; the message names them.
    """
    try:
        _load(network, which, config)
    except (FileNotFoundError, ValueError) as error:
        text = str(error).removeprefix(f"--resume {which}: ")
        raise type(error)(f"initial_weights={which}: {text}") from error


def _load(network: nn.Module, which: str, config: Config) -> None:
    path = Path(which)
    if path.suffix in (".safetensors", ".npz", ".pt") and not path.is_file():
        raise FileNotFoundError("no such file")
    if path.suffix == ".safetensors":
        try:
            set_weights(network, safetensors.torch.load_file(path), path)
        except SafetensorError as error:
            raise ValueError(f"it is not a safetensors file: {error}") from error
    elif path.suffix == ".npz":
        try:
            with np.load(path, allow_pickle=False) as file:
                variables = dict(file)
        except (OSError, ValueError, EOFError) as error:
            raise ValueError(f"it cannot be read as arrays: {error}") from error
        load_tf_variables(network, variables)
    elif path.suffix == ".pt":
        set_weights(network, load(path)["model"], path)
    elif path.is_dir() and any(path.glob("*.npy")):
        load_npy_folder(network, path)
    else:
        run = find_run(config, which, which)
        newest = CheckpointFolder(run.checkpoints).newest()
        if newest is None:
            raise FileNotFoundError(f"{run.checkpoints} holds no checkpoint")
        set_weights(network, load(newest)["model"], newest)


def set_weights(network: nn.Module, tensors: Mapping[str, Tensor], path: Path) -> None:
    """Set a network's weights by this project's names.

    Raises:
        CheckpointError: they do not fit the network, which stays as it was.
    """
    own = network.state_dict()
    problems = [f"it lacks {name}" for name in own if name not in tensors]
    problems += [f"it has {name}, which this network lacks" for name in tensors if name not in own]
    problems += [
        f"{name} has the shape {tuple(tensors[name].shape)}, expected {tuple(value.shape)}"
        for name, value in own.items()
        if name in tensors and not _fits(name, tensors[name], value)
    ]
    if problems:
        raise CheckpointError(f"{path} does not fit the script's network: {'; '.join(problems)}")
    network.load_state_dict(tensors)


def _fits(name: str, found: Tensor, own: Tensor) -> bool:
    """Whether a tensor may take a weight's place. A learned hidden state may be the original's, one
    for each image of a batch: (N, K, H, W), whatever N, H and W are."""
    of_a_batch = name.endswith("hgru.hidden") and found.dim() == 4
    return found.shape == own.shape or (of_a_batch and found.shape[1] == own.shape[-3])


def fingerprint(network: nn.Module) -> str:
    """16 hexadecimal digits that follow from all weights."""
    digest = hashlib.sha256()
    for name, value in sorted(network.state_dict().items()):
        digest.update(name.encode() + value.cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()[:16]
