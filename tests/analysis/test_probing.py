"""Recordings, lesions and steps, against the circuit's equations and networks built anew."""

import importlib

import pytest
import torch

import ff_5
import hgru
import hgru_bn
import hgru_bn_for
from analysis import probing
from support.errors import UserError

SIZE = 20


@pytest.fixture
def network():
    params = {"aux": {"timesteps": 5, "h_ext": 5, "hidden_init": "random"}}
    return hgru.build_model(params).eval()


@pytest.fixture
def images():
    return torch.rand(2, 1, SIZE, SIZE)


def build(network, **options):
    """A network of other options with the weights of this one, as far as it has them."""
    params = {"aux": {"timesteps": 5, "h_ext": 5, "hidden_init": "random", **options}}
    other = hgru.build_model(params)
    state = network.state_dict()
    own = other.state_dict()
    other.load_state_dict({k: state[k][: len(v)] if v.dim() else state[k] for k, v in own.items()})
    return other.eval()


@torch.no_grad()
def test_recording_obeys_the_equations(network, images):
    network.hgru.hidden_init = "zeros"
    seen = probing.record(network, images)
    layer = network.hgru
    before = torch.zeros_like(seen["H2"][0])
    X = network.drive(images)
    for t in range(5):
        G1, C1, H1, G2, C2 = (seen[s][t] for s in ("G1", "C1", "H1", "G2", "C2"))
        assert torch.allclose(H1, torch.tanh(X - (layer.alpha * before + layer.mu) * C1), atol=1e-6)
        E = layer.gamma * C2
        Ĥ = torch.tanh(layer.kappa * (H1 + E) + layer.omega * H1 * E)
        expected = layer.eta[t] * (G2 * before + (1 - G2) * Ĥ)
        assert torch.allclose(seen["H2"][t], expected, atol=1e-6)
        direct = torch.nn.functional.conv2d(before * G1, layer.W1, padding=2)
        assert torch.allclose(C1, direct, atol=1e-5)
        assert ((G1 > 0) & (G1 < 1) & (G2 > 0) & (G2 < 1)).all()
        before = seen["H2"][t]
    assert torch.allclose(network.norm(before), network(images)[1], atol=1e-6)
    assert torch.allclose(seen["logits"], network(images)[0], atol=1e-6)


def test_a_layer_under_the_clones_other_name_is_found():
    layer = importlib.import_module("hgru_pytorch.layers.hgru").HGRU(2, 3, 3)
    with probing.altered(torch.nn.Sequential(layer), ["mu"], 2):
        assert (layer.lesioned, layer.timesteps) == ({"mu"}, 2)
    assert (layer.lesioned, layer.timesteps) == (set(), 3)


@torch.no_grad()
def test_answers_after_each_step_are_those_of_so_many_steps(network, images):
    read = probing.answers(network, images)
    assert read.shape == (5, 2, 2)
    for step, answer in enumerate(read, start=1):
        with probing.steps(network, step), probing.hidden_seed(network, 0):
            torch.testing.assert_close(answer, network(images)[0])
    with pytest.raises(UserError, match="one hGRU layer is needed"):
        probing.answers(ff_5.build_model({"aux": {}}), images)


def test_recording_is_repeatable_and_leaves_nothing_behind(network, images):
    generator = torch.Generator().manual_seed(5)
    network.hgru.noise_generator = generator
    first = probing.record(network, images, ["H2"], seed=3)["H2"]
    second = probing.record(network, images, ["H2"], seed=3)["H2"]
    other = probing.record(network, images, ["H2"], seed=4)["H2"]
    assert torch.equal(first, second) and not torch.equal(first, other)
    assert first.shape == (5, 2, 25, SIZE, SIZE)
    assert network.hgru.probe is None and network.hgru.noise_generator is generator


@pytest.mark.parametrize(
    "letters", [("alpha",), ("mu",), ("alpha", "omega"), ("mu", "kappa"), ("kappa", "omega")]
)
@torch.no_grad()
def test_lesion_after_training_is_the_network_built_with_it(network, images, letters):
    built = build(network, **{f"lesion_{name}": True for name in letters})
    with probing.hidden_seed(network, 1), probing.hidden_seed(built, 1):
        whole = network(images)[0]
        with probing.lesioned(network, *letters):
            probing.circuit(network).noise_generator.manual_seed(1)
            lesioned = network(images)
        expected = built(images)
    assert torch.equal(lesioned[0], expected[0]) and torch.equal(lesioned[1], expected[1])
    assert not torch.equal(lesioned[0], whole)
    assert network.hgru.lesioned == frozenset()


@torch.no_grad()
def test_lesion_of_gamma_is_gamma_set_to_zero(network, images):
    with probing.lesioned(network, "gamma"), probing.hidden_seed(network, 0):
        lesioned = network(images)[0]
    network.hgru.gamma.data.zero_()
    with probing.hidden_seed(network, 0):
        assert torch.equal(network(images)[0], lesioned)


@pytest.mark.parametrize("count", [1, 3, 5])
@torch.no_grad()
def test_fewer_steps_are_the_network_built_with_them(network, images, count):
    built = build(network, timesteps=count)
    with probing.steps(network, count), probing.hidden_seed(network, 1):
        fewer = network(images)[0]
    with probing.hidden_seed(built, 1):
        assert torch.equal(fewer, built(images)[0])
    assert network.hgru.timesteps == 5


@torch.no_grad()
def test_more_steps_take_the_last_ones_eta(network, images):
    built = hgru.build_model({"aux": {"timesteps": 7, "h_ext": 5, "hidden_init": "random"}}).eval()
    state = network.state_dict()
    state["hgru.eta"] = torch.cat([state["hgru.eta"], state["hgru.eta"][-1:].repeat(2)])
    built.load_state_dict(state)
    with probing.steps(network, 7), probing.hidden_seed(network, 1):
        longer = network(images)[0]
    with probing.hidden_seed(built, 1):
        assert torch.equal(longer, built(images)[0])
    assert len(network.hgru.eta) == network.hgru.timesteps == 5


@torch.no_grad()
def test_more_steps_where_none_has_anything_of_its_own(network, images):
    own = hgru_bn_for.build_model({"aux": {"timesteps": 5, "h_ext": 5}})
    with pytest.raises(UserError, match="6, but this circuit has normalisations for 5 steps"):
        with probing.steps(own, 6):
            pass
    free = hgru.build_model({"aux": {"adaptation": False, "h_ext": 5, "timesteps": 2}}).eval()
    shared = hgru_bn.build_model({"aux": {"h_ext": 5, "timesteps": 2}})
    for one in (free, shared):
        with probing.steps(one, 6):
            assert len(probing.record(one, images, ["H2"])["H2"]) == 6


def test_wrong_requests_are_refused(network, images):
    with pytest.raises(UserError, match=r"'H3'.*Known: G1, C1"):
        probing.record(network, images, ["H3"])
    with pytest.raises(UserError, match="beta"):
        with probing.lesioned(network, "beta"):
            pass
    with pytest.raises(UserError, match="at least 1, found 0"):
        with probing.steps(network, 0):
            pass
    with pytest.raises(UserError, match="FeedforwardNetwork has 0"):
        probing.record(ff_5.build_model(), images)
    with pytest.raises(UserError, match="found 0 and"):
        probing.smoothgrad(network, images[0], 1, samples=0)


def test_smoothgrad_without_noise_is_the_slope_of_the_logit(network, images):
    network = network.double()
    image = images[0].double()
    gradient = probing.smoothgrad(network, image, 1, samples=2, spread=0)

    def logit(row, column, change):
        moved = image.clone()
        moved[0, row, column] += change
        with torch.no_grad(), probing.hidden_seed(network, 0):
            return float(network(moved[None])[0][0, 1])

    strongest = divmod(int(gradient.abs().argmax()), SIZE)
    for place in (strongest, (3, 4)):
        slope = (logit(*place, 1e-6) - logit(*place, -1e-6)) / 2e-6
        assert float(gradient[place]) == pytest.approx(slope, rel=1e-3, abs=1e-7)


def test_smoothgrad_averages_noisy_copies(network, images):
    image, spread = images[0], 0.15
    found = probing.smoothgrad(network, image, 0, samples=3, spread=spread, seed=7)
    random = torch.Generator().manual_seed(7)
    sd = spread * float(image.max() - image.min())
    total = torch.zeros(SIZE, SIZE)
    for _ in range(3):
        noisy = image + sd * torch.randn(1, 1, SIZE, SIZE, generator=random)
        noisy.requires_grad_()
        with probing.hidden_seed(network, 7):
            network(noisy)[0][0, 0].backward()
        total += noisy.grad[0, 0]
    assert torch.allclose(found, total / 3, atol=1e-7)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@torch.no_grad()
def test_a_gpu_is_probed_lesioned_and_stopped_alike(network, images):
    network.hgru.hidden_init = "zeros"
    images = torch.rand(2, 1, 60, 60)  # large enough for the fast path
    for letters, count in (((), 5), (("alpha", "omega"), 5), ((), 2)):
        found = []
        for device in ("cpu", "cuda"):
            with probing.altered(network.to(device), letters, count):
                found.append(probing.record(network, images.to(device)))
                whole = network(images.to(device))[0].cpu()
                assert torch.allclose(found[-1]["logits"].cpu(), whole, atol=1e-2)
        for symbol, expected in found[0].items():
            assert torch.allclose(found[1][symbol].cpu(), expected, atol=1e-2), symbol
