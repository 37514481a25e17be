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

import itertools
import math
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn

from support.errors import UserError, choose, unknown

Rate = float | Tensor
UPDATES = ("all", "as_released")


class _ListOptimizer(torch.optim.Optimizer):
    """An optimizer whose rule is written on the lists of all weights and all gradients.

    Args:
        params: the weights, as for any optimizer of PyTorch.
        lr: learning rate, above 0; in ``param_groups`` it may be a number on the device.
        first_correction: correct the bias at every update as at the first.
    """

    state_names: tuple[str, ...] = ()
    state_start = 0.0

    def __init__(self, params: Iterable[Any], lr: float, first_correction: bool = False) -> None:
        if not lr > 0:
            raise UserError(f"lr must be above 0, found {lr!r}")
        super().__init__(params, {"lr": lr})
        self.first_correction = first_correction

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> None:  # type: ignore[override]
        """Move every weight that has a gradient.

        Raises:
            ValueError: a closure was given.
        """
        if closure is not None:
            raise ValueError(f"{type(self).__name__} takes no closure")
        for group in self.param_groups:
            weights = [w for w in group["params"] if w.grad is not None]
            if not weights:
                continue
            for w, name in itertools.product(weights, self.state_names):
                if name not in self.state[w]:
                    self.state[w][name] = torch.full_like(w, self.state_start)
            if "step" not in group:
                group["step"] = torch.zeros((), device=weights[0].device)
            group["step"] += 1
            t = torch.ones_like(group["step"]) if self.first_correction else group["step"]
            states = [[self.state[w][name] for w in weights] for name in self.state_names]
            self.rule(weights, [w.grad for w in weights], group["lr"], t, *states)

    def rule(
        self, w: list[Tensor], g: list[Tensor], lr: Rate, t: Tensor, *state: list[Tensor]
    ) -> None:
        """Change the weights ``w`` and the state in place; ``t`` counts updates from 1."""
        raise NotImplementedError


class Adam(_ListOptimizer):
    """Adam as TensorFlow has it (Kingma & Ba 2015, the order of operations of section 2's end)."""

    state_names = ("m", "v")
    beta1, beta2, epsilon = 0.9, 0.999, 1e-8

    def rule(self, w, g, lr, t, m, v) -> None:  # type: ignore[no-untyped-def, override]
        torch._foreach_mul_(m, self.beta1)
        torch._foreach_add_(m, g, alpha=1 - self.beta1)
        torch._foreach_mul_(v, self.beta2)
        torch._foreach_addcmul_(v, g, g, 1 - self.beta2)
        below = torch._foreach_sqrt(v)
        torch._foreach_add_(below, self.epsilon)
        # 1 − βᵗ as −expm1(t log β): exact in float32 for small t too.
        debias1 = -torch.expm1(t * math.log(self.beta1))
        debias2 = -torch.expm1(t * math.log(self.beta2))
        move = torch._foreach_div(self.direction(m, g), below)
        torch._foreach_mul_(move, lr * debias2.sqrt() / debias1)
        torch._foreach_sub_(w, move)

    def direction(self, m: list[Tensor], g: list[Tensor]) -> list[Tensor]:
        """What takes the place of m in the update."""
        return m


class Nadam(Adam):
    """Adam with Nesterov's look ahead (Dozat 2016), by the rule of tf.contrib.opt."""

    def direction(self, m: list[Tensor], g: list[Tensor]) -> list[Tensor]:
        ahead = torch._foreach_mul(m, self.beta1)
        torch._foreach_add_(ahead, g, alpha=1 - self.beta1)
        return list(ahead)


class Momentum(_ListOptimizer):
    """Gradient descent with momentum 0.9."""

    state_names = ("a",)
    momentum = 0.9

    def rule(self, w, g, lr, t, a) -> None:  # type: ignore[no-untyped-def, override]
        torch._foreach_mul_(a, self.momentum)
        torch._foreach_add_(a, g)
        torch._foreach_sub_(w, torch._foreach_mul(a, lr))


class SGD(_ListOptimizer):
    """Plain gradient descent."""

    def rule(self, w, g, lr, t) -> None:  # type: ignore[no-untyped-def, override]
        torch._foreach_sub_(w, torch._foreach_mul(g, lr))


class RMSProp(_ListOptimizer):
    """RMSProp with decay 0.9, ε = 10⁻¹⁰ inside the root, the mean square starting at 1."""

    state_names = ("s",)
    state_start = 1.0
    decay, epsilon = 0.9, 1e-10

    def rule(self, w, g, lr, t, s) -> None:  # type: ignore[no-untyped-def, override]
        torch._foreach_mul_(s, self.decay)
        torch._foreach_addcmul_(s, g, g, 1 - self.decay)
        below = torch._foreach_add(s, self.epsilon)
        torch._foreach_sqrt_(below)
        move = torch._foreach_div(g, below)
        torch._foreach_mul_(move, lr)
        torch._foreach_sub_(w, move)


class PowerSign(_ListOptimizer):
    """PowerSign (Bello et al. 2017, "Neural optimizer search"), base e, without decay."""

    state_names = ("m",)
    beta = 0.9

    def rule(self, w, g, lr, t, m) -> None:  # type: ignore[no-untyped-def, override]
        torch._foreach_mul_(m, self.beta)
        torch._foreach_add_(m, g, alpha=1 - self.beta)
        agree = torch._foreach_mul(torch._foreach_sign(g), torch._foreach_sign(m))
        torch._foreach_exp_(agree)
        torch._foreach_mul_(agree, g)
        torch._foreach_mul_(agree, lr)
        torch._foreach_sub_(w, agree)


OPTIMIZERS: dict[str, type[_ListOptimizer]] = {
    "adam": Adam,
    "nadam": Nadam,
    "momentum": Momentum,
    "sgd": SGD,
    "rmsprop": RMSProp,
    "power": PowerSign,
}


def optimizer(
    name: str, params: Iterable[Any], lr: float, first_correction: bool = False
) -> torch.optim.Optimizer:
    """The optimizer of that name over these weights; UserError if there is none."""
    return choose("optimizer", name, OPTIMIZERS)(params, lr, first_correction)


def network_optimizer(
    network: nn.Module, name: str, lr: float, updates: str = "all"
) -> torch.optim.Optimizer:
    """The optimizer over a network's weights, of which ``updates`` says what is trained.

    Where it is ``"as_released"``, the weights that the network's method ``before_the_loop()`` names
    are frozen here, and if there are any the bias correction stays that of the first update, as in
    the release's graph under TensorFlow 1.7 and later (docs/differences.md). Other networks are
    trained as by ``"all"``.

    Raises:
        UserError: a name is not known, or the learning rate is not above 0.
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
