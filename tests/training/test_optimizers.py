"""The optimizers against TensorFlow's own updates, and against their rules in float64."""

import copy
import importlib
import pickle
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from layers.gabor import GaborDrive
from support.errors import UserError
from training.distribution import Ranks
from training.losses import cross_entropy
from training.metrics import accuracy
from training.optimizers import OPTIMIZERS, dead_weights, network_optimizer, optimizer
from training.step import TrainStep, clip_gradients

GOLDEN = np.load(Path(__file__).parent.parent / "golden" / "optimizers.npz")


def weights_after(name: str, lr: float) -> list[np.ndarray]:
    """The weights after each of the golden gradients."""
    w = torch.nn.Parameter(torch.from_numpy(GOLDEN["w0"].copy()))
    rule = optimizer(name, [w], lr)
    found = []
    for gradient in GOLDEN["grads"]:
        w.grad = torch.from_numpy(gradient.copy())
        rule.step()
        found.append(w.detach().numpy().copy())
    return found


@pytest.mark.parametrize("name", ["adam", "nadam"])
def test_updates_are_those_of_tensorflow(name: str) -> None:
    found = np.stack(weights_after(name, float(GOLDEN["lr"])))
    np.testing.assert_allclose(found, GOLDEN[name], rtol=0, atol=1e-6)


def rule_in_float64(name: str, w: np.ndarray, grads: np.ndarray, lr: float) -> list[np.ndarray]:
    """The updates by TensorFlow 1's formulas, number by number."""
    m, s, a, found = np.zeros_like(w), np.ones_like(w), np.zeros_like(w), []
    for g in grads:
        if name == "momentum":
            a = 0.9 * a + g
            w = w - lr * a
        elif name == "sgd":
            w = w - lr * g
        elif name == "rmsprop":
            s = 0.9 * s + 0.1 * g**2
            w = w - lr * g / np.sqrt(s + 1e-10)
        else:
            m = 0.9 * m + 0.1 * g
            w = w - lr * np.exp(np.sign(g) * np.sign(m)) * g
        found.append(w)
    return found


@pytest.mark.parametrize("name", ["momentum", "sgd", "rmsprop", "power"])
def test_updates_follow_the_rule(name: str) -> None:
    w, grads = GOLDEN["w0"].astype(np.float64), GOLDEN["grads"].astype(np.float64)
    expected = rule_in_float64(name, w, grads, 0.01)
    np.testing.assert_allclose(weights_after(name, 0.01), expected, rtol=0, atol=1e-6)


def test_the_first_steps_debias_exactly() -> None:
    # With a constant gradient g, Adam's first update is lr · g / (|g| + ε √(1 − β₂)⁻¹): lr.
    w = torch.nn.Parameter(torch.zeros(3))
    rule = optimizer("adam", [w], 1e-3)
    w.grad = torch.tensor([5.0, -0.3, 20.0])
    rule.step()
    np.testing.assert_allclose(w.detach(), [-1e-3, 1e-3, -1e-3], rtol=2e-6)


@pytest.mark.parametrize("name", ["adam", "nadam"])
def test_with_the_first_correction_the_rate_stays_that_of_the_first_update(name: str) -> None:
    w, lr = torch.nn.Parameter(torch.from_numpy(GOLDEN["w0"].copy())), float(GOLDEN["lr"])
    rule = optimizer(name, [w], lr, first_correction=True)
    m = v = np.zeros_like(GOLDEN["w0"], np.float64)
    expected = GOLDEN["w0"].astype(np.float64)
    for gradient in GOLDEN["grads"]:
        w.grad = torch.from_numpy(gradient.copy())
        rule.step()
        g = gradient.astype(np.float64)
        m, v = 0.9 * m + 0.1 * g, 0.999 * v + 0.001 * g**2
        ahead = 0.9 * m + 0.1 * g if name == "nadam" else m
        expected = expected - lr * np.sqrt(0.001) / 0.1 * ahead / (np.sqrt(v) + 1e-8)
    np.testing.assert_allclose(w.detach(), expected, rtol=0, atol=1e-6)


# Whether the release computes the script's circuit in a loop, which then never trains the drive.
LOOPS = {"hgru": True, "hgru_bn": True, "hgru_bn_for": False, "hgru_bn_relu": True,
         "multiplicative_lesion": True, "additive_lesion": True, "ff_5": False}  # fmt: skip


@pytest.mark.parametrize("script", LOOPS)
def test_what_is_trained_as_released(script: str) -> None:
    torch.manual_seed(0)
    network = importlib.import_module(script).build_model()
    other = copy.deepcopy(network)
    images, labels = torch.rand(2, 1, 16, 16), torch.tensor([0, 1])
    for net, updates in ((network, "as_released"), (other, "all")):
        rule = network_optimizer(net, "adam", 1e-3, updates)
        for _ in range(2):
            rule.zero_grad()
            torch.manual_seed(1)  # of the hidden state
            torch.nn.functional.cross_entropy(net(images)[0], labels).backward()
            rule.step()
    start = torch.nn.ParameterDict(GaborDrive().named_parameters())
    drive = dict(network.drive.named_parameters())
    assert all(torch.equal(drive[name], start[name]) == LOOPS[script] for name in start)
    assert not any(
        torch.equal(value, start[name]) for name, value in other.drive.named_parameters()
    )
    same = [
        torch.equal(*both) for both in zip(network.parameters(), other.parameters(), strict=True)
    ]
    assert all(same) != LOOPS[script]


def test_one_normalisation_for_all_steps_is_a_loop() -> None:
    network = importlib.import_module("hgru_bn_for").build_model
    assert dead_weights(network()) == []
    shared = network({"aux": {"reuse": True}})
    assert dead_weights(shared) == list(shared.drive.parameters())


def test_unknown_updates() -> None:
    with pytest.raises(UserError, match=r"as_release\b.*as_released"):
        network_optimizer(torch.nn.Linear(1, 1), "adam", 1e-3, "as_release")


@pytest.mark.parametrize("first_correction", [False, True])
@pytest.mark.parametrize("name", list(OPTIMIZERS))
def test_state_goes_on_after_saving(name: str, first_correction: bool) -> None:
    """Four updates, or two, saved and loaded, and two more: the same bits."""
    gradients = torch.from_numpy(GOLDEN["grads"][:4].copy())

    def steps(rule: torch.optim.Optimizer, w: torch.nn.Parameter, which: range) -> None:
        for i in which:
            w.grad = gradients[i].clone()
            rule.step()

    w = torch.nn.Parameter(torch.from_numpy(GOLDEN["w0"].copy()))
    rule = optimizer(name, [w], 0.01, first_correction)
    steps(rule, w, range(2))
    other = torch.nn.Parameter(w.detach().clone())
    resumed = optimizer(name, [other], 0.01, first_correction)
    resumed.load_state_dict(copy.deepcopy(rule.state_dict()))
    steps(rule, w, range(2, 4))
    steps(resumed, other, range(2, 4))
    assert torch.equal(w, other)
    assert not torch.equal(w, torch.from_numpy(GOLDEN["w0"]))


@pytest.mark.parametrize(
    ("other", "named"),
    [
        (lambda weights: torch.optim.Adam(weights), "exp_avg"),
        (lambda weights: optimizer("momentum", weights, 0.1), "a, expected m, v"),
    ],
)
def test_another_rules_state_is_refused(other: Callable, named: str) -> None:
    w = torch.nn.Parameter(torch.ones(3))
    w.grad = torch.ones(3)
    (rule := other([w])).step()
    with pytest.raises(UserError, match=named):
        optimizer("nadam", [w], 0.1).load_state_dict(rule.state_dict())


def test_what_no_rule_reads_of_a_group_is_refused() -> None:
    w, other = (torch.nn.Parameter(torch.ones(3)) for _ in range(2))
    with pytest.raises(UserError, match="weight_decay"):
        optimizer("adam", [{"params": [w], "weight_decay": 0.1}], 0.1)
    rule = optimizer("sgd", [{"params": [w], "name": "gates", "lr": 0.5}], 0.1)
    with pytest.raises(UserError, match="betas, eps"):
        rule.add_param_group({"params": [other], "eps": 1e-8, "betas": (0.9, 0.99)})
    rule.add_param_group({"params": [other]})
    w.grad = other.grad = torch.ones(3)
    rule.step()
    torch.testing.assert_close(w, torch.full((3,), 0.5))
    torch.testing.assert_close(other, torch.full((3,), 0.9))


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda rule: pickle.loads(pickle.dumps(rule))])
@pytest.mark.parametrize("name", list(OPTIMIZERS))
def test_a_copy_goes_on(name: str, copied: Callable) -> None:
    """With weights of its own, as PyTorch's optimizers do."""
    w = torch.nn.Parameter(torch.ones(3))
    rules = [optimizer(name, [w], 0.01, first_correction=True)]
    w.grad = torch.arange(3.0)
    rules[0].step()
    rules.append(copied(rules[0]))
    for rule in rules:
        rule.param_groups[0]["params"][0].grad = torch.arange(3.0)
        rule.step()
    assert torch.equal(w, rules[1].param_groups[0]["params"][0])


def test_weights_without_gradient_stay() -> None:
    moved, still = (torch.nn.Parameter(torch.ones(2)) for _ in range(2))
    rule = optimizer("nadam", [moved, still], 0.1)
    moved.grad = torch.ones(2)
    rule.step()
    assert torch.equal(still, torch.ones(2))
    assert (moved < 1).all()
    with pytest.raises(ValueError, match="takes no closure"):
        rule.step(lambda: torch.zeros(()))


@pytest.mark.parametrize("largest", [None, 1.0, 5.0, 20.0])
def test_gradients_are_clipped_to_their_norm_over_all_weights(largest: float | None) -> None:
    weights = [torch.nn.Parameter(torch.zeros(shape)) for shape in ((2,), (1, 1), (3,))]
    gradients = [torch.tensor([2.0, 4.0]), torch.tensor([[8.0]])]  # of norm √84; the last has none
    for w, gradient in zip(weights, gradients, strict=False):
        w.grad = gradient.clone()
    assert clip_gradients(weights, largest).item() == pytest.approx(84**0.5)
    scale = 1 if largest is None else min(1, largest / 84**0.5)
    for w, gradient in zip(weights, gradients, strict=False):
        torch.testing.assert_close(w.grad, scale * gradient)
    assert weights[2].grad is None


@pytest.mark.parametrize(("name", "lr", "named"), [("nadm", 0.1, "'nadam'"), ("adam", 0, "lr")])
def test_names_and_rates_are_checked(name: str, lr: float, named: str) -> None:
    with pytest.raises(UserError, match=named):
        optimizer(name, [torch.nn.Parameter(torch.ones(2))], lr)


@pytest.mark.parametrize("name", ["layers.hgru", "hgru_pytorch.layers.hgru"])
def test_the_letters_of_a_network_of_ones_own_are_constrained(name: str) -> None:
    kind = importlib.import_module(name).HGRU

    class Own(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.circuit = kind(2, timesteps=2, h_ext=3, hidden_init="identity", constrain=True)
            self.constrain = True  # an option of hers

        def forward(self, X: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            activity = self.circuit(X)
            return activity.amax((2, 3)), activity

    torch.manual_seed(0)
    network, X, labels = Own(), torch.rand(2, 2, 5, 5), torch.tensor([0, 1])
    with torch.no_grad():
        network.circuit.mu.fill_(-1)
    rule = optimizer("sgd", network.parameters(), 1e-3)
    ranks = Ranks(torch.device("cpu"))
    TrainStep(network, cross_entropy, accuracy, rule, None, ranks)(X, labels)
    assert (network.circuit.mu == 0).all()
