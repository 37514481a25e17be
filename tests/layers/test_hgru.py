"""The hGRU layer: the original's outputs and gradients, finite differences, every option."""

import re

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch.nn.utils import parametrizations, prune

from layers import initial
from layers.hgru import HGRU, NONLINEARITIES
from models.recurrent import RecurrentNetwork
from models.tf_variables import counterparts, load_tf_variables
from support.errors import UserError

CIRCUITS = {
    "hgru": {"adaptation": True, "normal_initializer": False},
    "hgru_bn": {"batch_norm": True},
    "hgru_bn_for": {"batch_norm": True, "reuse": False},
    "hgru_bn_relu": {"batch_norm": True, "separate_kernels": True, "recurrent_nl": "relu"},
    "multiplicative_lesion": {"adaptation": True, "lesion_alpha": True, "lesion_omega": True},
    "additive_lesion": {"adaptation": True, "lesion_mu": True, "lesion_kappa": True},
}
GOLDEN = {
    "hgru": CIRCUITS["hgru"],
    "hgru_zeros": {**CIRCUITS["hgru"], "hidden_init": "zeros"},
    "hgru_bn": CIRCUITS["hgru_bn"],
    "hgru_bn_relu": CIRCUITS["hgru_bn_relu"],
    "multiplicative_lesion": CIRCUITS["multiplicative_lesion"],
}


def from_tf(images):
    return torch.from_numpy(images).permute(0, 3, 1, 2).contiguous()


def assert_close(ours, original, name, floor=0.0):
    """Within 1e-4 of the largest value."""
    largest = max(np.abs(original).max(), floor)
    assert np.abs(ours - original).max() <= 1e-4 * largest, name


def golden_layer(vectors, options):
    layer = HGRU(6, **{"hidden_init": "identity", **options})
    load_tf_variables(layer, {k[4:]: v for k, v in vectors.items() if k.startswith("var/")})
    return layer


@pytest.mark.parametrize("name", GOLDEN)
def test_outputs_gradients_and_running_averages_of_the_original(golden, name):
    vectors = golden(name)
    layer = golden_layer(vectors, GOLDEN[name])
    x = from_tf(vectors["x"]).requires_grad_()
    h2 = layer(x)
    (h2 * from_tf(vectors["r"])).sum().backward()

    assert_close(h2.detach().permute(0, 2, 3, 1).numpy(), vectors["h2"], "h2")
    assert_close(x.grad.permute(0, 2, 3, 1).numpy(), vectors["grad/x"], "gradient of x")
    compared = 0
    for variable, (tensor, layout) in counterparts(layer).items():
        if f"grad/{variable}" in vectors:
            gradient = layout.to_original(tensor.grad)
            # A bias before a normalisation has the gradient 0: rounding alone is left there.
            assert_close(gradient, vectors[f"grad/{variable}"], variable, floor=1e-2)
            compared += 1
        if f"after/{variable}" in vectors:
            assert_close(layout.to_original(tensor), vectors[f"after/{variable}"], variable)
            compared += 1
    assert compared == sum(key.startswith(("grad/", "after/")) for key in vectors) - 1


@pytest.mark.parametrize("name", ["hgru_bn", "hgru_bn_relu"])
def test_validation_normalises_by_the_batch_as_the_original_does(golden, name):
    vectors = golden(name)
    layer = golden_layer(vectors, GOLDEN[name]).eval()
    h2 = layer(from_tf(vectors["x"])).detach().permute(0, 2, 3, 1).numpy()
    assert_close(h2, vectors["h2_eval"], "h2_eval")


@pytest.mark.parametrize("name", CIRCUITS)
def test_gradients_agree_with_finite_differences(name):
    options = {**CIRCUITS[name], "recurrent_nl": "tanh"}
    layer = HGRU(2, timesteps=2, h_ext=3, hidden_init="identity", **options).double()
    if CIRCUITS[name].get("recurrent_nl") == "relu":  # away from the kink
        layer.recurrent_nl = "relu"
    names, start = zip(*layer.named_parameters(), strict=True)

    def run(x, *values):
        # The symmetric kernels as functions of unconstrained ones: their gradient is symmetrised.
        values = [
            initial.symmetric(v) if n.startswith("W") else v
            for n, v in zip(names, values, strict=True)
        ]
        return torch.func.functional_call(layer, dict(zip(names, values, strict=True)), (x,))

    x = torch.rand(2, 2, 4, 5, dtype=torch.float64) + 0.5
    inputs = [x, *(p.detach().clone() for p in start)]
    assert torch.autograd.gradcheck(run, [v.requires_grad_() for v in inputs])


def by_hand(layer, X, H2):
    """Section 5 of the specification, written out again with numpy-like plainness."""

    def conv(W, x):
        before, after = (W.shape[-1] - 1) // 2, W.shape[-1] // 2
        return F.conv2d(F.pad(x, (before, after, before, after)), W)

    def column(v):
        return v.view(1, -1, 1, 1)

    f, gate = NONLINEARITIES[layer.recurrent_nl], NONLINEARITIES[layer.gate_nl]
    W2 = layer.W2 if layer.separate_kernels else layer.W1
    for t in range(layer.timesteps):
        gain = gate(conv(layer.U1, H2) + column(layer.b_gain))
        C1 = conv(layer.W1, H2 * gain)
        H1 = f(X - layer.alpha * H2 * C1 - layer.mu * C1)
        mix = gate(conv(layer.U2, H1) + column(layer.b_mix))
        E = layer.gamma * conv(W2, H1)
        if layer.multiplicative_excitation:
            candidate = f(layer.kappa * H1 + layer.kappa * E + layer.omega * (H1 * E))
        else:
            candidate = f(H1 + E)
        H2 = mix * H2 + candidate - mix * candidate
        if layer.adaptation:
            H2 = H2 * layer.eta[t]
    return H2


@pytest.mark.parametrize(
    "options",
    [
        *({"recurrent_nl": f} for f in NONLINEARITIES),
        {"gate_nl": "hard_tanh"},
        {"gate_filter": 3},
        {"gate_filter": 3, "symmetric_gate_weights": True},
        {"multiplicative_excitation": False},
        {"alpha": False, "mu": False, "gamma": False},
        {"separate_kernels": True, "adaptation": True},
        {"symmetric_weights": False, "h_ext": 4},
        {"timesteps": 1},
        {"lesion_mu": True, "lesion_kappa": True},
    ],
    ids=str,
)
def test_every_option_against_the_equations(options):
    layer = HGRU(3, **{"h_ext": 5, "timesteps": 3, **options}, hidden_init="zeros").double()
    X = torch.randn(2, 3, 7, 6, dtype=torch.float64)
    expected = by_hand(layer, X, torch.zeros_like(X))
    torch.testing.assert_close(layer(X), expected, rtol=1e-10, atol=1e-10)


def test_hidden_inits():
    X = torch.randn(3, 2, 5, 6)
    assert torch.equal(HGRU(2, h_ext=3, hidden_init="identity").initial_hidden(X), X)
    assert not HGRU(2, h_ext=3, hidden_init="zeros").initial_hidden(X).any()
    learned = HGRU(2, h_ext=3, hidden_init="learned")
    learned(X).sum().backward()
    assert learned.hidden.grad.abs().sum() > 0


@pytest.mark.parametrize("normal", [False, True])
def test_the_random_hidden_state_is_drawn_afresh_by_the_release_rule(normal):
    layer = HGRU(4, h_ext=3, normal_initializer=normal)
    X = torch.zeros(8, 4, 50, 60)
    first, second = layer.initial_hidden(X), layer.initial_hidden(X)
    assert not torch.equal(first, second)
    n = 8 * 50 * (60 + 4) / 2
    spread = np.sqrt(1.3 / n) * 0.8796 if normal else np.sqrt(1 / n)  # sd of the truncated normal
    assert first.std().item() == pytest.approx(spread, rel=0.02)


def test_several_processes_draw_what_one_would():
    layer = HGRU(2, h_ext=3)
    X = torch.zeros(6, 2, 4, 4)
    layer.noise_generator = torch.Generator().manual_seed(3)
    whole = layer.initial_hidden(X)
    parts = []
    for offset, n in ((0, 4), (4, 2)):
        layer.noise_generator.manual_seed(3)
        layer.draw_images, layer.draw_offset = 6, offset
        parts.append(layer.initial_hidden(X[:n]))
    assert torch.equal(torch.cat(parts), whole)


@pytest.mark.parametrize("total, offset", [(4, 0), (6, 2), (None, 1), (8, -1)])
def test_images_that_no_hidden_state_is_drawn_for(total, offset):
    layer = HGRU(2, h_ext=3)
    layer.draw_images, layer.draw_offset = total, offset
    with pytest.raises(ValueError, match=f"^5 images.* {offset} .* {total or 5}$"):
        layer(torch.zeros(5, 2, 4, 4))


def test_symmetric_kernels_start_and_stay_symmetric():
    layer = HGRU(4, h_ext=5, timesteps=2, symmetric_gate_weights=True)
    optimizer = torch.optim.Adam(layer.parameters(), lr=1e-2)
    start = layer.W1.detach().clone()
    for _ in range(100):
        optimizer.zero_grad()
        layer(torch.randn(1, 4, 8, 8)).square().mean().backward()
        optimizer.step()
    for W in (layer.W1, layer.U1, layer.U2):
        assert torch.equal(W, W.transpose(0, 1))
    assert (layer.W1 - start).abs().max() > 1e-3


def test_kernels_may_start_asymmetric():
    layer = HGRU(4, h_ext=5, symmetric_inits=False)
    assert not torch.equal(layer.W1, layer.W1.transpose(0, 1))


def test_constrain_clips_the_letters():
    layer = HGRU(4, h_ext=3, constrain=True)
    with torch.no_grad():
        layer.mu.fill_(-1)
        layer.W1.fill_(-1)
    prune.identity(layer, "alpha")
    layer.alpha_orig.data.fill_(-1)
    layer.constrain_letters()
    assert (layer.mu == 0).all() and (layer.W1 == -1).all()
    layer(torch.zeros(1, 4, 5, 5))  # makes α anew
    assert (layer.alpha == 0).all()
    free = HGRU(4, h_ext=3)
    with torch.no_grad():
        free.mu.fill_(-1)
    free.constrain_letters()
    assert (free.mu == -1).all()


@pytest.mark.filterwarnings("ignore::FutureWarning")
@pytest.mark.parametrize("weight_norm", [parametrizations.weight_norm, torch.nn.utils.weight_norm])
def test_a_letter_that_is_computed_cannot_be_constrained(weight_norm):
    layer = weight_norm(HGRU(4, h_ext=3, constrain=True), "alpha")
    with pytest.raises(UserError, match=r"constrain .* alpha"):
        layer.constrain_letters()
    layer.constrain = False
    layer.constrain_letters()


def test_gate_biases():
    chronos = HGRU(50, h_ext=1, generator=torch.Generator().manual_seed(0))
    assert torch.equal(chronos.b_mix, -chronos.b_gain)
    assert chronos.b_gain.max() <= 0 and chronos.b_gain.min() >= -np.log(7) - 1e-6
    plain = HGRU(2, h_ext=1, gate_bias_init="ones")
    assert (plain.b_gain == -1).all() and (plain.b_mix == 1).all()


def test_normalisation_shared_or_each_steps_own():
    shared = HGRU(2, h_ext=3, timesteps=3, batch_norm=True)
    own = HGRU(2, h_ext=3, timesteps=3, batch_norm=True, reuse=False)
    assert [len(n) for n in shared.norms.values()] == [1] * 4
    assert [len(n) for n in own.norms.values()] == [3] * 4
    shared(torch.randn(2, 2, 6, 6))
    moved = shared.norms["g1"][0].running_var
    torch.testing.assert_close(moved, torch.ones(2) * 0.999**3, atol=2e-3, rtol=0)


def test_validation_by_running_averages_is_an_option():
    X = torch.randn(4, 2, 6, 6)
    layer = HGRU(2, h_ext=3, timesteps=2, batch_norm=True, hidden_init="zeros",
                 batch_norm_validation="running").eval()  # fmt: skip
    alone = torch.cat([layer(X[i : i + 1]) for i in range(4)])
    torch.testing.assert_close(layer(X), alone)


def test_a_lesion_after_training_is_the_network_built_so():
    X = torch.randn(2, 3, 6, 6)
    full = HGRU(3, h_ext=3, hidden_init="zeros", adaptation=True)
    built = HGRU(3, h_ext=3, hidden_init="zeros", adaptation=True,
                 lesion_alpha=True, lesion_omega=True)  # fmt: skip
    built.load_state_dict(
        {k: v for k, v in full.state_dict().items() if k not in ("alpha", "omega")}
    )
    whole = full(X)
    full.lesion("alpha", "omega")
    assert torch.equal(full(X), built(X)) and not torch.equal(full(X), whole)
    full.lesion()
    assert torch.equal(full(X), whole)
    with pytest.raises(ValueError, match="'delta'"):
        full.lesion("delta")


def test_a_probe_sees_every_step():
    layer, seen = HGRU(2, h_ext=3, timesteps=3), []
    layer.probe = lambda t, tensors: seen.append((t, tensors))
    H2 = layer(torch.randn(1, 2, 5, 5))
    assert [t for t, _ in seen] == [0, 1, 2]
    assert set(seen[0][1]) == {"G1", "C1", "H1", "G2", "C2", "H2"}
    assert torch.equal(seen[-1][1]["H2"], H2)


@pytest.mark.parametrize(
    "options, message",
    [
        ({"recurrent_nl": "swish"}, "recurrent_nl 'swish'.*tanh"),
        ({"gate_nl": "x"}, "gate_nl"),
        ({"hidden_init": "ones"}, "hidden_init 'ones'.*random"),
        ({"timesteps": 0}, "timesteps must be a whole number of at least 1, found 0"),
        ({"h_ext": 2.5}, "h_ext.*2.5"),
        ({"batch_norm_validation": "no"}, "batch_norm_validation 'no'"),
    ],
)
def test_a_wrong_option_is_named(options, message):
    with pytest.raises(UserError, match=message):
        HGRU(2, **options)


@pytest.mark.parametrize("shape", [(1, 3, 5, 5), (1, 2, 0, 5), (2, 5, 5)])
def test_a_drive_of_another_shape_is_named(shape):
    with pytest.raises(ValueError, match=re.escape(f"(N, 2, H, W), found {shape}")):
        HGRU(2, h_ext=3)(torch.zeros(shape))


@pytest.mark.parametrize("kind", [torch.uint8, torch.float64, torch.complex64])
@pytest.mark.parametrize("hidden_init", ["random", "zeros"])
def test_a_drive_of_another_type_is_named(kind, hidden_init):
    with pytest.raises(ValueError, match=f"{kind} and W1 torch.float32"):
        HGRU(2, h_ext=3, hidden_init=hidden_init)(torch.zeros(1, 2, 5, 5, dtype=kind))


@pytest.mark.parametrize(
    "name, value",
    [
        *[("hidden_init", "Zeros"), ("recurrent_nl", "Tanh"), ("gate_nl", "logistic")],
        *[("timesteps", 0), ("timesteps", "3"), ("timesteps", 2.0), ("timesteps", True)],
        # These bring weights, which a layer that was built without them lacks.
        *[("adaptation", True), ("batch_norm", True), ("separate_kernels", True)],
        ("hidden_init", "learned"),
        # These are read when a layer is built, and never again.
        *[("h_ext", 5), ("gate_filter", 3), ("batch_norm_validation", "running")],
        *[("lesion_alpha", True), ("lesion_omega", True)],
    ],
)
def test_an_attribute_that_is_changed_later_is_checked_too(name, value):
    layer = HGRU(2, h_ext=3, hidden_init="zeros")
    setattr(layer, name, value)
    with pytest.raises(UserError, match=f"{name}.*{value}"):
        layer(torch.zeros(1, 2, 5, 5))


@pytest.mark.parametrize("value", [{"alhpa"}, "omega", ["mu", "eta"]])
def test_a_lesion_that_is_no_letters_is_named(value):
    layer = HGRU(2, h_ext=3, hidden_init="zeros")
    layer.lesioned = value
    with pytest.raises(UserError, match=r"a letter to lesion '(alhpa|o|eta)'"):
        layer(torch.zeros(1, 2, 5, 5))


def test_fewer_steps_at_test_time_but_not_more_than_were_learned():
    layer = HGRU(2, h_ext=3, timesteps=4, adaptation=True)
    layer.timesteps = 2
    assert layer(torch.randn(1, 2, 5, 5)).shape == (1, 2, 5, 5)
    layer.timesteps = 5
    with pytest.raises(ValueError, match=r"timesteps is 5.*for 4 steps"):
        layer(torch.randn(1, 2, 5, 5))
    layer.timesteps = 0
    with pytest.raises(ValueError, match="timesteps must be a whole number"):
        layer(torch.randn(1, 2, 5, 5))


@pytest.mark.parametrize("value", [1, 0.5])
def test_the_initial_value_of_eta_leaves_all_others_as_they_are(value):
    def network(**options):
        draw = torch.Generator().manual_seed(3)
        return RecurrentNetwork(
            generator=draw, adaptation=True, hidden_init="learned", **options
        ).state_dict()

    usual, chosen = network(), network(eta_init=value)
    assert torch.equal(chosen.pop("hgru.eta"), torch.full((8,), float(value)))
    eta = usual.pop("hgru.eta")
    assert eta.min() >= 0 and eta.max() <= 1 and len(eta.unique()) == 8
    for name, other in usual.items():
        assert torch.equal(chosen[name], other), name


@pytest.mark.parametrize("value", ["1", True, float("nan"), float("inf"), [1.0]])
def test_an_initial_value_of_eta_that_is_no_number_is_refused(value):
    with pytest.raises(ValueError, match="eta_init must be None or a number, found"):
        HGRU(3, adaptation=True, eta_init=value)
