"""Exchange of weights with the original, both ways, for all seven networks."""

import importlib

import numpy as np
import pytest
import torch

from models.tf_variables import load_npy_folder, load_tf_variables, tf_variables
from tests.test_scripts import SCRIPTS


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
    with pytest.raises(ValueError) as error:
        load_tf_variables(model, variables)
    assert "cnn/input/nonsense:0 has no counterpart" in str(error.value)
    assert "dense/bias:0 has the shape (7,), expected (2,)" in str(error.value)
    assert "dense/kernel:0 is missing" in str(error.value)
    for name, value in tf_variables(model).items():
        np.testing.assert_array_equal(value, before[name])


def test_missing_running_averages_are_kept_with_a_warning():
    model = network("hgru")
    variables = {k: v for k, v in tf_variables(model).items() if "moving" not in k}
    with pytest.warns(UserWarning, match="hgru_bn/moving_mean:0"):
        load_tf_variables(model, variables)


def test_another_networks_variables_do_not_load():
    with pytest.raises(ValueError, match="c1_initialized"):
        load_tf_variables(network("hgru"), tf_variables(network("ff_5")))


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
    with pytest.raises(FileNotFoundError, match="step 7"):
        load_npy_folder(target, tmp_path, step=7)


def test_a_folder_of_several_runs_asks_which(tmp_path):
    for label in ("first", "second"):
        for name, value in tf_variables(network("hgru")).items():
            np.save(tmp_path / f"{label}_5_{name.replace('/', '_')}.npy", value)
    with pytest.raises(ValueError, match="first, second"):
        load_npy_folder(network("hgru"), tmp_path)
    assert load_npy_folder(network("hgru"), tmp_path, label="second") == ("second", 5)
