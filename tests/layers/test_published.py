"""What is edited is computed as it stands; comments and layout are no edits."""

import functools
import importlib.util
import inspect
import linecache
import textwrap
from collections.abc import Callable

import pytest
import torch

from layers import circuit, horizontal
from layers.hgru import HGRU
from layers.horizontal import HorizontalKernel, direct_convolution, same_padding
from layers.normalisation import BatchNormalisation
from layers.published import PUBLISHED, as_published, fingerprint
from tests.layers import host
from tests.layers.test_kernels_interpreted import fault


def edited(function: Callable, *changes: tuple[str, str]) -> Callable:
    """The function with its source changed, as if its file had been edited."""
    source = textwrap.dedent(inspect.getsource(function))
    for before, after in changes:
        assert before in source
        source = source.replace(before, after)
    file = f"<edited {function.__qualname__} {len(linecache.cache)}>"
    linecache.cache[file] = (len(source), None, source.splitlines(keepends=True), file)
    space = dict(inspect.unwrap(function).__globals__)
    exec(compile(source, file, "exec"), space)
    changed = space[function.__name__]
    changed.__qualname__ = function.__qualname__
    return changed


STANDS_FOR = [
    *(HGRU.forward, HGRU._normalise, HorizontalKernel.__call__, direct_convolution, same_padding),
    *(BatchNormalisation.forward, BatchNormalisation._by_this_process),
    *(BatchNormalisation._by_all_processes, BatchNormalisation.observe),
    BatchNormalisation._move_running_averages,
]


def test_nothing_was_edited():
    """Else: change the kernels alike, and set PUBLISHED to what is found."""
    assert {one.__qualname__: fingerprint(one) for one in STANDS_FOR} == PUBLISHED
    assert as_published(*STANDS_FOR)


@pytest.mark.parametrize(
    "changes",
    [
        [  # η acts once, after the loop
            ("        if p.eta is not None:\n", "    if p.eta is not None:\n"),
            ("            H2 = p.eta[t] * H2\n", "        H2 = p.eta[t] * H2\n"),
            ("        if return_states or", "    if return_states or"),
            ("            states.append", "        states.append"),
            ("        if self.probe is not None:\n", "    if self.probe is not None:\n"),
            ("            self.probe(t", "        self.probe(t"),
        ],
        [  # only without κ and ω
            ("        H2 = G2 * H2", "            H2 = G2 * H2"),
        ],
        [("H2 = G2 * H2 + (1 - G2) * Ĥ", "H2 = G2 * H2\n        +(1 - G2) * Ĥ")],
        [("(1 - G2) * Ĥ", "(1 + G2) * Ĥ")],
        [("1 - G2", "2 - G2")],
        [("W2(H1)", "W1(H1)")],
    ],
)
def test_an_edit_is_noticed(changes):
    other = edited(HGRU.forward, *changes)
    with pytest.warns(UserWarning, match=r"HGRU\.forward was edited"):
        assert not as_published(other)


def test_comments_and_layout_are_no_edits():
    other = edited(
        HGRU.forward,
        ("E = γ * C2", "E  =  γ*C2  # excitation\n\n        # next"),
        ("            H2 = p.eta[t] * H2", "                 H2 = p.eta[t] * H2"),
    )
    assert as_published(other)


def test_edited_equations_take_no_fused_kernels_and_no_shares(monkeypatch):
    class Other(HGRU):
        def _normalise(self, name, t, x):
            return 2 * x

    X = torch.rand(1, 3, 8, 9)
    monkeypatch.setattr(circuit, "applies", lambda p, X: True)
    options = {"timesteps": 1, "h_ext": 3, "hidden_init": "identity"}
    as_is, other = HGRU(3, **options), Other(3, **options)
    assert as_is._fused(as_is._prepared(X), X) and as_is.shareable()
    with pytest.warns(UserWarning, match="_normalise was edited"):
        assert not other._fused(other._prepared(X), X)
    assert not other.shareable()


def test_what_is_wrapped_or_put_on_one_layer_is_an_edit_too(monkeypatch):
    plain = HGRU._normalise

    @functools.wraps(plain)
    def wrapped(self, name, t, x):
        return 2 * plain(self, name, t, x)

    X, layers = torch.rand(1, 3, 8, 9), [HGRU(3, h_ext=3, hidden_init="zeros") for _ in range(2)]
    monkeypatch.setattr(circuit, "applies", lambda p, X: True)
    layers[0]._normalise = lambda name, t, x: x - x.mean(0)
    with pytest.warns(UserWarning, match="lambda.* was edited"):
        assert not layers[0]._fused(layers[0]._prepared(X), X)
    assert not layers[0].shareable() and layers[1].shareable()
    monkeypatch.setattr(HGRU, "_normalise", wrapped)
    with pytest.warns(UserWarning, match="_normalise was edited"):
        assert not layers[1]._fused(layers[1]._prepared(X), X)
    assert not layers[1].shareable()


def test_an_edit_of_a_function_that_is_in_use(monkeypatch):
    """As IPython's autoreload makes it."""
    other = edited(HGRU._normalise, ("return x", "return 2 * x"))
    assert as_published(HGRU._normalise)
    monkeypatch.setattr(HGRU._normalise, "__code__", other.__code__)
    with pytest.warns(UserWarning, match="_normalise was edited"):
        assert not as_published(HGRU._normalise)


def test_an_edited_convolution_is_the_one_that_is_computed(monkeypatch):
    other = edited(direct_convolution, ("return F.conv2d(", "return -F.conv2d("))
    x, W = torch.rand(1, 2, 20, 20), torch.rand(2, 2, 15, 15)
    expected = -HorizontalKernel(W)(x)  # by spectra
    monkeypatch.setattr(horizontal, "direct_convolution", other)
    with pytest.warns(UserWarning, match="direct_convolution was edited"):
        torch.testing.assert_close(HorizontalKernel(W)(x), expected)


# Each edit of a normalisation, for a fused circuit and for one by itself.
NORMALISATION = """
from layers.normalisation import BatchNormalisation

class Doubled(BatchNormalisation):
    def _by_this_process(self, x):
        return 2 * super()._by_this_process(x)

layer = HGRU(2, timesteps=1, h_ext=3, hidden_init="identity", batch_norm=True)
norm, X = BatchNormalisation(2), torch.rand(2, 2, 6, 7)
with horizontal_method("triton"):
    assert layer._fused(layer._prepared(X), X) and norm.as_published()
    for one in (norm, *layer.modules()):
        if isinstance(one, BatchNormalisation):
            one.__class__ = Doubled
    plain, alone = copy.deepcopy(layer).double(), copy.deepcopy(norm).double()
    found = [layer(X), norm(X)]
with horizontal_method("direct"):
    near(found, [plain(X.double()), alone(X.double())])

layer = HGRU(2, timesteps=1, h_ext=3, hidden_init="identity", batch_norm=True)
with horizontal_method("triton"):
    for one in layer.norms.values():
        one[0] = BatchNormalisation(2, shift=True)
        torch.nn.init.ones_(one[0].bias)
    plain = copy.deepcopy(layer).double()
    found = [layer(X)]
with horizontal_method("direct"):
    near(found, [plain(X.double())])
"""


@pytest.mark.skipif(
    host.COMPILER is None or importlib.util.find_spec("triton") is None,
    reason="no C++ compiler, or no Triton",
)
def test_an_edited_normalisation_is_the_one_that_is_computed():
    assert fault(NORMALISATION, "float32") == ""
