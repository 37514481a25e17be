"""The options of the networks among an experiment's parameters."""

import inspect
from collections.abc import Mapping
from typing import Any

from layers.hgru import HGRU
from models.feedforward import FeedforwardNetwork
from models.recurrent import RecurrentNetwork
from support.errors import UserError

OPTIONS = {
    name: option
    for network in (FeedforwardNetwork, RecurrentNetwork, HGRU)
    for name, option in inspect.signature(network).parameters.items()
}


def aux_of(params: Mapping[str, Any]) -> dict[str, Any]:
    """``params["aux"]``: the options that are laid over a script's own; none where it is left out.

    UserError where an option stands beside ``aux``, where nothing reads it.
    """
    for name in params:
        if name in OPTIONS:
            raise UserError(
                f"build_model: {name} is an option of the network, and belongs in aux: "
                f"{{'aux': {{{name!r}: {params[name]!r}}}}}"
            )
    return dict(params.get("aux") or {})
