"""The optimizers of the 2018 release, by TensorFlow 1's exact rules.

With g a weight's gradient, m = β₁ m + (1 − β₁) g, v = β₂ v + (1 − β₂) g², both starting at 0, and
lr_t = lr √(1 − β₂ᵗ) / (1 − β₁ᵗ) at the t-th update:

========  ========================================================================================
adam      w ← w − lr_t m / (√v + ε)                                 (ε outside the corrected root)
nadam     w ← w − lr_t (β₁ m + (1 − β₁) g) / (√v + ε)                      (not PyTorch's NAdam)
momentum  a ← 0.9 a + g;  w ← w − lr a
sgd       w ← w − lr g
rmsprop   s ← 0.9 s + 0.1 g², s starting at 1;  w ← w − lr g / √(s + 10⁻¹⁰)
power     m ← 0.9 m + 0.1 g;  w ← w − lr e^(sign g · sign m) g                     (PowerSign)
========  ========================================================================================

With ``first_correction`` t stays at 1 in lr_t, which is then 0.3162 lr for ever: so the release's
loops train under TensorFlow 1.7 and later (docs/differences.md).

All work on lists of tensors at once and never ask the device for a number, so that a step may be
captured in a CUDA graph.
"""

import inspect
import itertools
import math
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from support.errors import UserError, choose, unknown

Many = list[Tensor]
Rate = float | Tensor
Rule = Callable[..., None]
UPDATES = ("all", "as_released")
# What a group of weights may set for PyTorch's optimizers, and no rule here reads.
PYTORCHS = {
    name
    for kind in (torch.optim.SGD, torch.optim.Adam, torch.optim.NAdam, torch.optim.RMSprop)
    for name in inspect.signature(kind).parameters
} - {"params", "lr"}


class ListOptimizer(torch.optim.Optimizer):
    """An optimizer whose rule is written on the lists of all weights and all gradients.

    Args:
        name: of ``OPTIMIZERS``.
        params: the weights, as for any optimizer of PyTorch.
        lr: learning rate, above 0; in ``param_groups`` it may be a number on the device.
        first_correction: correct the bias at every update as at the first.

    Raises:
        UserError: there is none of that name, the learning rate is not above 0, or a group sets
            what only PyTorch's optimizers have (``weight_decay``).
    """

    def __init__(
        self, name: str, params: Iterable[Any], lr: float, first_correction: bool = False
    ) -> None:
        self.rule, self.names, self.start = choose("optimizer", name, OPTIMIZERS)
        self.first_correction = first_correction
        if not lr > 0:
            raise UserError(f"lr must be above 0, found {lr!r}")
        super().__init__(params, {"lr": lr})

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        if idle := sorted(PYTORCHS & param_group.keys()):
            raise UserError(
                f"{', '.join(idle)} of a group of weights: the rules of the 2018 release have none "
                "such; expected lr alone, or an optimizer of torch.optim"
            )
        super().add_param_group(param_group)

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """As PyTorch's; UserError where the state is another rule's."""
        for found in state_dict["state"].values():
            if set(found) != set(self.names):
                raise UserError(
                    f"the optimizer's state has {', '.join(sorted(found))}, expected "
                    f"{', '.join(self.names) or 'none'}: it is another optimizer's"
                )
        super().load_state_dict(state_dict)

    def __getstate__(self) -> dict[str, Any]:  # for copies; PyTorch's leaves the rule out
        own = ("rule", "names", "start", "first_correction")
        return {**super().__getstate__(), **{name: getattr(self, name) for name in own}}

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> None:  # type: ignore[override]
        """Move every weight that has a gradient; a closure is not taken."""
        if closure is not None:
            raise ValueError(f"{type(self).__name__} takes no closure")
        for group in self.param_groups:
            weights = [w for w in group["params"] if w.grad is not None]
            if not weights:
                continue
            for w, name in itertools.product(weights, self.names):
                if name not in self.state[w]:
                    self.state[w][name] = torch.full_like(w, self.start)
            if "step" not in group:
                group["step"] = torch.zeros((), device=weights[0].device)
            group["step"] += 1
            t = torch.ones_like(group["step"]) if self.first_correction else group["step"]
            states = [[self.state[w][name] for w in weights] for name in self.names]
            self.rule(weights, [w.grad for w in weights], group["lr"], t, *states)


def adam(w: Many, g: Many, lr: Rate, t: Tensor, m: Many, v: Many, ahead: bool = False) -> None:
    """Adam as TensorFlow has it (Kingma & Ba 2015, the order of operations of section 2's end).

    ``ahead``: with Nesterov's look ahead (Dozat 2016), by the rule of tf.contrib.opt.
    """
    beta1, beta2, epsilon = 0.9, 0.999, 1e-8
    _average(m, beta1, g)
    _average_square(v, beta2, g)
    below = torch._foreach_sqrt(v)
    torch._foreach_add_(below, epsilon)
    # 1 − βᵗ as −expm1(t log β): exact in float32 for small t too.
    debias1 = -torch.expm1(t * math.log(beta1))
    debias2 = -torch.expm1(t * math.log(beta2))
    if ahead:
        m = list(torch._foreach_mul(m, beta1))
        torch._foreach_add_(m, g, alpha=1 - beta1)
    move = torch._foreach_div(m, below)
    torch._foreach_mul_(move, lr * debias2.sqrt() / debias1)
    torch._foreach_sub_(w, move)


def momentum(w: Many, g: Many, lr: Rate, t: Tensor, a: Many) -> None:
    """Gradient descent with momentum 0.9."""
    torch._foreach_mul_(a, 0.9)
    torch._foreach_add_(a, g)
    torch._foreach_sub_(w, torch._foreach_mul(a, lr))


def sgd(w: Many, g: Many, lr: Rate, t: Tensor) -> None:
    """Plain gradient descent."""
    torch._foreach_sub_(w, torch._foreach_mul(g, lr))


def rmsprop(w: Many, g: Many, lr: Rate, t: Tensor, s: Many) -> None:
    """RMSProp with decay 0.9 and ε = 10⁻¹⁰ inside the root."""
    _average_square(s, 0.9, g)
    below = torch._foreach_add(s, 1e-10)
    torch._foreach_sqrt_(below)
    move = torch._foreach_div(g, below)
    torch._foreach_mul_(move, lr)
    torch._foreach_sub_(w, move)


def power_sign(w: Many, g: Many, lr: Rate, t: Tensor, m: Many) -> None:
    """PowerSign (Bello et al. 2017, "Neural optimizer search"), base e, without decay."""
    _average(m, 0.9, g)
    move = torch._foreach_mul(torch._foreach_sign(g), torch._foreach_sign(m))
    torch._foreach_exp_(move)
    torch._foreach_mul_(move, g)
    torch._foreach_mul_(move, lr)
    torch._foreach_sub_(w, move)


def _average(m: Many, beta: float, g: Many) -> None:
    torch._foreach_mul_(m, beta)
    torch._foreach_add_(m, g, alpha=1 - beta)


def _average_square(v: Many, beta: float, g: Many) -> None:
    torch._foreach_mul_(v, beta)
    torch._foreach_addcmul_(v, g, g, 1 - beta)


# Rule: called with weights, gradients, learning rate, number of the update from 1, and the lists of
# each state, it changes weights and states in place. Names of the states. What these start at.
OPTIMIZERS: dict[str, tuple[Rule, tuple[str, ...], float]] = {
    "adam": (adam, ("m", "v"), 0.0),
    "nadam": (partial(adam, ahead=True), ("m", "v"), 0.0),
    "momentum": (momentum, ("a",), 0.0),
    "sgd": (sgd, (), 0.0),
    "rmsprop": (rmsprop, ("s",), 1.0),
    "power": (power_sign, ("m",), 0.0),
}


optimizer = ListOptimizer


def network_optimizer(
    network: nn.Module, name: str, lr: float, updates: str = "all"
) -> torch.optim.Optimizer:
    """The optimizer over a network's weights, of which ``updates`` says what is trained.

    Where it is ``"as_released"``, the weights that the network's method ``before_the_loop()`` names
    are frozen here, and if there are any the bias correction stays that of the first update, as in
    the release's graph under TensorFlow 1.7 and later (docs/differences.md). Other networks are
    trained as by ``"all"``. UserError where a name is not known, or the learning rate not above 0.
    """
    if updates not in UPDATES:
        raise unknown("updates", updates, UPDATES)
    frozen = dead_weights(network) if updates == "as_released" else []
    for weight in frozen:
        weight.requires_grad_(False)
    return optimizer(name, network.parameters(), lr, first_correction=bool(frozen))


def dead_weights(network: nn.Module) -> list[nn.Parameter]:
    """The weights that the release's graph never updates; none where its circuit is no loop."""
    of_loop: Callable[[], list[nn.Parameter]] = getattr(network, "before_the_loop", list)
    return of_loop()
