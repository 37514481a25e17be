"""Exchange of weights with the original, both ways, for all seven networks."""

import importlib

import numpy as np
import pytest
import torch
import torch.nn.utils.prune

from models.tf_variables import load_npy_folder, load_tf_variables, tf_variables
from support.errors import MissingError, UserError
from tests.test_scripts import SCRIPTS
from training.weights import set_weights


def network(script, seed=0):
    torch.manual_seed(seed)
    return importlib.import_module(script).build_model()


@pytest.mark.parametrize("script", SCRIPTS)
def test_there_and_back(script):
    source, target = network(script, 1), network(script, 2)
    with torch.no_grad():
        for buffer in source.buffers():
            buffer.uniform_(0.5, 2)
    load_tf_variables(target, tf_variables(source))
    for (name, ours), (_, theirs) in zip(
        source.state_dict().items(), target.state_dict().items(), strict=True
    ):
        assert torch.equal(ours, theirs), name


def test_the_originals_names_and_layouts(golden):
    original = {k[4:]: v for k, v in golden("model_hgru").items() if k.startswith("var/")}
    ours = tf_variables(network("hgru"))
    assert {k: v.shape for k, v in ours.items()} == {k: v.shape for k, v in original.items()}


@pytest.mark.parametrize(
    "script, name, shape",
    [
        ("hgru_bn", "cnn/input/hgru_1_hgru_weights/g1_bn/gamma:0", (25,)),
        ("hgru_bn_for", "cnn/input/hgru_1_hgru_weights/c2_bn_t7/moving_variance:0", (25,)),
        ("hgru_bn_relu", "cnn/input/hgru_1_hgru_weights/hgru_1_horizontal_2:0", (15, 15, 25, 25)),
        ("ff_5", "cnn/input/c1_initialized:0", (20, 20, 25, 9)),
        ("ff_5", "cnn/input/c5_bn/moving_mean:0", (9,)),
    ],
)
def test_names_of_the_other_scripts(script, name, shape):
    assert tf_variables(network(script))[name].shape == shape


def test_misfits_are_all_named_and_nothing_is_changed():
    model = network("hgru")
    before = tf_variables(model)
    variables = {k: v + 1 for k, v in before.items()}
    variables["cnn/input/nonsense:0"] = np.zeros(3)
    variables["cnn/readout_2/dense/bias:0"] = np.zeros(7)
    del variables["cnn/readout_2/dense/kernel:0"]
    with pytest.raises(UserError) as error:
        load_tf_variables(model, variables)
    assert "cnn/input/nonsense:0 has no counterpart" in str(error.value)
    assert "dense/bias:0 has the shape (7,), expected (2,)" in str(error.value)
    assert "dense/kernel:0 is missing" in str(error.value)
    for name, value in tf_variables(model).items():
        np.testing.assert_array_equal(value, before[name])


@pytest.mark.parametrize(
    "compute",
    [
        lambda layer: torch.nn.utils.parametrizations.weight_norm(layer, "W1"),
        lambda layer: torch.nn.utils.prune.l1_unstructured(layer, "W1", 0.5),
    ],
)
def test_weights_that_the_model_computes_cannot_be_set(compute):
    model = network("hgru")
    variables = {k: v + 1 for k, v in tf_variables(model).items()}
    compute(model.hgru)
    before = {k: v.clone() for k, v in model.state_dict().items()}
    with pytest.raises(UserError, match="hgru_1_horizontal:0 is no parameter of the model"):
        load_tf_variables(model, variables)
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())


def test_numbers_of_any_length_and_byte_order():
    model, other = network("hgru_bn"), network("hgru_bn")
    variables = tf_variables(model)
    for kind in (">f4", np.longdouble, ">f8"):
        load_tf_variables(other, {k: v.astype(kind) for k, v in variables.items()})
        for name, value in tf_variables(other).items():
            np.testing.assert_array_equal(value, variables[name])
    for kind in (torch.bfloat16, torch.float64):
        assert {v.dtype for v in tf_variables(model.to(kind)).values()} == {np.dtype(np.float32)}


def test_missing_running_averages_are_kept_with_a_warning():
    model = network("hgru")
    variables = {k: v for k, v in tf_variables(model).items() if "moving" not in k}
    with pytest.warns(UserWarning, match="hgru_bn/moving_mean:0"):
        load_tf_variables(model, variables)


def test_another_networks_variables_do_not_load():
    with pytest.raises(UserError, match="c1_initialized"):
        load_tf_variables(network("hgru"), tf_variables(network("ff_5")))


def test_a_network_of_another_module_is_named_with_it():
    """As ``hgru_pytorch.models.recurrent.RecurrentNetwork``, given to ``models.tf_variables``."""
    other = type("RecurrentNetwork", (torch.nn.Module,), {"__module__": "mine.models"})
    with pytest.raises(UserError, match=r"mine\.models\.RecurrentNetwork.* models\.recurrent "):
        tf_variables(other())


@pytest.mark.parametrize("ending", [":0", ""])
def test_a_folder_of_the_originals_npy_files(tmp_path, ending):
    source = network("hgru", 1)
    for step in (0, 2000, 10000):
        for name, value in tf_variables(source).items():
            file = name.replace("/", "_").removesuffix(":0") + ending
            np.save(tmp_path / f"hgru_curv_contour_length_14_full_{step}_{file}.npy", value + step)
    target = network("hgru", 2)
    label, step = load_npy_folder(target, tmp_path)
    assert (label, step) == ("hgru_curv_contour_length_14_full", 10000)
    load_npy_folder(target, tmp_path, step=0)
    for name, value in tf_variables(source).items():
        np.testing.assert_array_equal(tf_variables(target)[name], value)
    with pytest.raises(MissingError, match="step 7"):
        load_npy_folder(target, tmp_path, step=7)


def test_a_folder_of_several_runs_asks_which(tmp_path):
    for label in ("first", "second"):
        for name, value in tf_variables(network("hgru")).items():
            np.save(tmp_path / f"{label}_5_{name.replace('/', '_')}.npy", value)
    with pytest.raises(UserError, match="first, second"):
        load_npy_folder(network("hgru"), tmp_path)
    assert load_npy_folder(network("hgru"), tmp_path, label="second") == ("second", 5)


# What TensorFlow's optimizers add to a checkpoint, beside each weight and once.
SLOTS = {
    "Adam": ("Adam", "Adam_1"),
    "Nadam": ("Nadam", "Nadam_1"),
    "Momentum": ("Momentum",),
    "RMSProp": ("RMSProp", "RMSProp_1"),
}


@pytest.mark.parametrize("ending", [":0", ""])
@pytest.mark.parametrize("scope", ["", "training/"])
@pytest.mark.parametrize("optimizer", SLOTS)
def test_a_checkpoint_loads_without_its_optimizer(optimizer, scope, ending):
    source, target = network("hgru", 1), network("hgru", 2)
    variables = {name.removesuffix(":0"): v for name, v in tf_variables(source).items()}
    others = {f"{scope}{name}/{slot}": v + 1 for name, v in variables.items()
              for slot in SLOTS[optimizer]}  # fmt: skip
    others |= {f"{scope}beta1_power": np.float32(0.5), f"{scope}beta2_power": np.float32(0.9)}
    others |= {"global_step": np.int64(2000)}
    given = {name + ending: v for name, v in {**variables, **others}.items()}
    with pytest.warns(UserWarning) as warned:
        load_tf_variables(target, given)
    (line,) = [str(w.message) for w in warned]
    for kind in (*SLOTS[optimizer], "beta1_power", "beta2_power", "global_step"):
        assert kind in line
    for name, value in tf_variables(target).items():
        np.testing.assert_array_equal(value, tf_variables(source)[name])


def test_slots_of_weights_that_the_model_lacks_are_no_less_a_misfit():
    variables = tf_variables(network("hgru")) | {"cnn/input/nonsense/Adam:0": np.zeros(3)}
    with pytest.raises(UserError, match="nonsense/Adam:0"):
        load_tf_variables(network("hgru"), variables)


STATE = "cnn/input/hgru_1_hgru_weights/hgru_1_h2_state:0"


def learned(state, seed=0):
    """hgru_bn_for with a learned hidden state, and its variables with the original's state."""
    torch.manual_seed(seed)
    model = importlib.import_module("hgru_bn_for").build_model(
        {"aux": {"hidden_init": "learned", "timesteps": 2, "h_ext": 5}}
    )
    variables = {k: v for k, v in tf_variables(model).items() if not k.endswith("_hidden:0")}
    return model, variables | {STATE: state}


def test_the_learned_hidden_state_of_a_batch(tmp_path):
    state = np.random.default_rng(0).normal(size=(3, 10, 12, 25)).astype(np.float32)
    source, variables = learned(state)
    load_tf_variables(source, variables)
    np.testing.assert_array_equal(tf_variables(source)[STATE], state)
    hidden = torch.from_numpy(state).permute(0, 3, 1, 2)
    drive = torch.rand(3, 25, 10, 12)
    assert torch.equal(source.hgru.initial_hidden(drive), hidden)
    assert torch.equal(source.hgru.initial_hidden(drive[:2]), hidden[:2])  # a smaller batch
    source.hgru.draw_offset = 1  # the second of two processes
    assert torch.equal(source.hgru.initial_hidden(drive[:2]), hidden[1:])

    source(torch.rand(2, 1, 10, 12))[0].sum().backward()
    assert source.hgru.hidden.grad[1:].abs().sum() > 0
    with pytest.raises(ValueError, match=r"\(3, 25, 10, 12\).*\(3, 25, 9, 12\)"):
        source.hgru.initial_hidden(drive[:, :, :9])

    resumed, looked_at = learned(state, seed=1)[0], learned(state, seed=1)[0]
    resumed.load_state_dict(source.state_dict())
    set_weights(looked_at, source.state_dict(), tmp_path)
    for other in (resumed, looked_at):
        np.testing.assert_array_equal(tf_variables(other)[STATE], state)


def test_a_learned_hidden_state_that_does_not_fit():
    model, variables = learned(np.zeros((3, 10, 12, 7), np.float32))
    with pytest.raises(UserError, match="h2_state"):
        load_tf_variables(model, variables)
    state = model.state_dict() | {"hgru.hidden": torch.zeros(3, 7, 10, 12)}
    with pytest.raises(RuntimeError, match=r"hgru\.hidden.*3, 7, 10, 12.*25, 1, 1"):
        model.load_state_dict(state)
    assert model.hgru.hidden.shape == (25, 1, 1)
    plain = importlib.import_module("hgru_bn_for").build_model()
    variables = tf_variables(plain) | {STATE: np.zeros((3, 10, 12, 25), np.float32)}
    with pytest.raises(UserError, match=r"h2_state.*aux\.hidden_init=learned"):
        load_tf_variables(plain, variables)


@pytest.mark.parametrize("content", [b"", b"\x93NUMPY\x01\x00", b"no array"])
def test_a_damaged_file_of_a_folder_is_named(content, tmp_path):
    file = tmp_path / "hgru_5_cnn_readout_1_weights.npy"
    file.write_bytes(content)
    with pytest.raises(UserError, match=file.name):
        load_npy_folder(network("hgru"), tmp_path)
