"""The seven scripts: what the release's say."""

import importlib
import inspect

import pytest
import torch

# Script: (trained numbers, optimizer).
SCRIPTS = {
    "hgru": (143_418, "nadam"),
    "hgru_bn": (143_510, "nadam"),
    "hgru_bn_for": (144_210, "adam"),
    "hgru_bn_relu": (284_135, "nadam"),
    "multiplicative_lesion": (143_368, "nadam"),
    "additive_lesion": (143_368, "nadam"),
    "ff_5": (220_968, "nadam"),
}


@pytest.mark.parametrize("name", SCRIPTS)
def test_parameters_of_the_experiment_and_size_of_the_network(name):
    script = importlib.import_module(name)
    params = script.experiment_params()
    parameters, optimizer = SCRIPTS[name]
    assert sum(p.numel() for p in script.build_model().parameters()) == parameters
    assert params["optimizer"] == optimizer
    assert params["exp_name"] == f"{name}_curv_contour_length_14_full"
    assert (params["lr"], params["batch_size"], params["epochs"]) == (1e-3, 32, 2)
    assert (params["validation_iters"], params["num_validation_evals"]) == (1000, 50)
    assert params is not script.experiment_params()
    assert (
        inspect.getsource(script).rstrip().endswith("training.main(experiment_params, build_model)")
    )


@pytest.mark.parametrize("name", SCRIPTS)
def test_a_pass_in_training_and_evaluation(name):
    script = importlib.import_module(name)
    network = script.build_model(script.experiment_params())
    images = torch.rand(2, 1, 20, 23)
    logits, activity = network(images)
    logits.sum().backward()
    assert logits.shape == (2, 2)
    assert activity.shape == (2, 9 if name == "ff_5" else 25, 20, 23)
    missing = [n for n, p in network.named_parameters() if p.grad is None]
    assert not missing
    assert torch.isfinite(network.eval()(images)[0]).all()


def test_options_of_the_layer_lie_over_the_scripts_own():
    script = importlib.import_module("hgru")
    params = {**script.experiment_params(), "aux": {"timesteps": 3, "hidden_init": "zeros"}}
    network = script.build_model(params)
    assert network.hgru.timesteps == 3 and network.hgru.hidden_init == "zeros"
    assert network.hgru.adaptation
