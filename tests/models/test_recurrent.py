"""The whole network of hgru.py against the original's."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F

import hgru
from models.recurrent import RecurrentNetwork
from models.tf_variables import counterparts, load_tf_variables


def test_outputs_loss_and_gradients_of_the_original(golden):
    vectors = golden("model_hgru")
    network = hgru.build_model({**hgru.experiment_params(), "aux": {"hidden_init": "identity"}})
    load_tf_variables(network, {k[4:]: v for k, v in vectors.items() if k.startswith("var/")})
    logits, activity = network(torch.from_numpy(vectors["images"]).permute(0, 3, 1, 2))
    loss = F.cross_entropy(logits, torch.from_numpy(vectors["labels"]))
    loss.backward()

    def close(ours, original, floor=0.0):
        return np.abs(ours - original).max() <= 1e-4 * max(np.abs(original).max(), floor)

    assert close(logits.detach().numpy(), vectors["logits"])
    assert close(activity.detach().permute(0, 2, 3, 1).numpy(), vectors["activity"])
    assert loss.item() == pytest.approx(vectors["loss"].item(), rel=1e-5)
    for name, (tensor, layout) in counterparts(network).items():
        if f"grad/{name}" in vectors:
            # The shift before the readout's normalisation has the gradient 0: rounding is left.
            assert close(layout.to_original(tensor.grad), vectors[f"grad/{name}"], 1e-2), name


@pytest.mark.parametrize("size", [(20, 20), (17, 30)])
def test_shapes_at_any_image_size(size):
    network = RecurrentNetwork(timesteps=2, h_ext=5)
    logits, activity = network(torch.rand(3, 1, *size))
    assert logits.shape == (3, 2) and activity.shape == (3, 25, *size)


def test_the_noise_comes_from_the_generator_that_is_set():
    network = RecurrentNetwork(timesteps=2, h_ext=5)
    images = torch.rand(2, 1, 12, 12)
    outputs = []
    for _ in range(2):
        network.hgru.noise_generator = torch.Generator().manual_seed(5)
        outputs.append(network(images)[0])
    assert torch.equal(*outputs)
    assert not torch.equal(network(images)[0], outputs[0])


def test_the_epsilon_of_both_normalisations_after_the_circuit():
    network = hgru.build_model({**hgru.experiment_params(), "aux": {"readout_epsilon": 1e-5}})
    assert (network.norm.epsilon, network.readout.norm.epsilon) == (1e-5, 1e-5)
    published = hgru.build_model()
    assert (published.norm.epsilon, published.readout.norm.epsilon) == (1e-3, 1e-3)
    with pytest.raises(ValueError, match="readout_epsilon must be a number above 0, found 0"):
        RecurrentNetwork(readout_epsilon=0)
