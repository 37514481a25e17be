"""The Gabor bank against its check values and a direct convolution by scipy."""

import numpy as np
import pytest
import torch
from scipy.signal import correlate2d

from layers.gabor import GaborDrive, gabor_bank
from models.recurrent import RecurrentNetwork


def test_check_values_of_the_release():
    bank = gabor_bank(7)
    assert bank.shape == (25, 1, 7, 7) and bank.dtype == torch.float32
    assert bank[0, 0, 3, 3].item() == pytest.approx(0.2960, abs=5e-5)
    assert bank[24, 0, 3, 3].item() == pytest.approx(49 / 29, abs=1e-6)
    assert bank[24].mean().item() == pytest.approx(1, abs=1e-6)


@pytest.mark.parametrize("size", [7, 11])
def test_the_filters_have_zero_mean_and_unit_norm(size):
    filters = gabor_bank(size)[:24].double()
    np.testing.assert_allclose(filters.mean((1, 2, 3)), 0, atol=1e-7)
    np.testing.assert_allclose(filters.square().sum((1, 2, 3)), 1, atol=1e-6)


def test_the_weights_that_the_original_trained_from(golden):
    # The golden network's kernels are those at the start of training.
    original = golden("model_hgru")["var/cnn/input/gabor_input_pretrained:0"]
    np.testing.assert_allclose(gabor_bank(7)[:, 0].permute(1, 2, 0), original[:, :, 0], atol=1e-7)


@pytest.mark.parametrize("size", [2, 6, 1, -3])
def test_a_size_without_a_centre_is_refused(size):
    with pytest.raises(ValueError, match=f"found {size}"):
        gabor_bank(size)


def test_the_drive_is_the_squared_correlation():
    drive = GaborDrive()
    with torch.no_grad():
        drive.bias.copy_(torch.linspace(-0.1, 0.1, 25))
    image = torch.rand(13, 17)
    X = drive(image[None, None])
    assert X.shape == (1, 25, 13, 17)
    for k in (0, 5, 17, 24):
        kernel = drive.weight[k, 0].detach().double().numpy()
        expected = correlate2d(image.double().numpy(), kernel, mode="same")
        expected = (expected + drive.bias[k].item()) ** 2
        np.testing.assert_allclose(X[0, k].detach(), expected, rtol=1e-4, atol=1e-5)


def test_the_default_device_and_type_hold_for_all_weights():
    with torch.device("meta"):
        assert {p.device.type for p in RecurrentNetwork().parameters()} == {"meta"}
    torch.set_default_dtype(torch.float64)
    try:
        assert RecurrentNetwork(h_ext=3)(torch.rand(1, 1, 8, 8))[0].dtype == torch.float64
    finally:
        torch.set_default_dtype(torch.float32)


def test_images_of_another_shape_are_refused():
    with pytest.raises(ValueError, match=r"\(N, 1, H, W\), found \(2, 3, 8, 8\)"):
        GaborDrive()(torch.zeros(2, 3, 8, 8))


@pytest.mark.parametrize("kind", [torch.uint8, torch.bool, torch.complex64])
def test_images_that_are_no_real_numbers_are_refused(kind):
    with pytest.raises(ValueError, match=f"0–1, found {kind}"):
        GaborDrive()(torch.zeros(2, 1, 8, 8, dtype=kind))
