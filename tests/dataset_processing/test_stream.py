"""Streams: fresh images while training, always the same ones to validate on."""

import pickle

import numpy as np
import pytest
from torch.utils.data import DataLoader

from config import Config
from dataset_processing import open_set
from dataset_processing.folds import GeneratedFold
from dataset_processing.pathfinder import Settings, generate
from support.errors import UserError
from training.experiment import DEFAULTS

PARAMS = {"stream_epoch_images": 20, "stream_val_images": 5, "stream_seed": 3}


def open_stream(name, fold, params):
    return open_set(name, Config(), params).fold(fold)


def test_training_never_repeats_and_validation_always_does():
    train = open_stream("pathfinder_6_stream", "train", PARAMS)
    val = open_stream("pathfinder_6_stream", "val", PARAMS)
    assert (len(train), len(val)) == (20, 5)
    images = [train[index][0].tobytes() for index in range(40)]  # two epochs
    held_out = [val[index][0].tobytes() for index in range(10)]
    assert len(set(images)) == 40
    assert held_out[:5] == held_out[5:]
    assert len(set(held_out)) == 5
    assert not set(images) & set(held_out)
    test = GeneratedFold("pathfinder_6", "test", Settings(6), seed=3, count=5)
    for fold, first in ((train, 0), (val, 2**62), (test, 2**62 + 2**61)):  # in every version
        np.testing.assert_array_equal(fold[4][0], generate(6, 1, 3, start=first + 4)[0][0])
    np.testing.assert_array_equal(train[31][0], generate(6, 1, 3, start=31)[0][0])
    kept = f"{Settings(6).fingerprint()[:16]}-3-5"  # by which evaluations have been kept
    assert test.fingerprint() == kept


def test_a_stream_has_as_many_images_as_an_experiment_says():
    data = open_set("pathfinder_6_stream", Config())
    for fold, key in (("train", "stream_epoch_images"), ("val", "stream_val_images")):
        assert len(data.fold(fold)) == DEFAULTS[key]


def test_a_batch_holds_what_single_images_do():
    stream = open_stream("pathfinder_9_stream", "train", PARAMS)
    for number, (image, label) in zip([7, 2, 25], stream.__getitems__([7, 2, 25]), strict=True):
        np.testing.assert_array_equal(image, stream[number][0])
        assert label == stream[number][1]
        assert isinstance(label, int)
        assert image.dtype == np.uint8
        assert image.shape == (300, 300)


def test_workers_give_the_same_images():
    stream = open_stream("pathfinder_6_stream", "train", PARAMS)
    alone = [batch[0].numpy() for batch in DataLoader(stream, 8)]
    shared = [batch[0].numpy() for batch in DataLoader(stream, 8, num_workers=2)]
    np.testing.assert_array_equal(np.concatenate(alone), np.concatenate(shared))
    copy = pickle.loads(pickle.dumps(stream))
    np.testing.assert_array_equal(copy[4][0], stream[4][0])


def test_what_a_stream_says_of_itself():
    stream = open_stream("pathfinder_25_stream", "train", PARAMS)
    assert stream.describe() == (
        "pathfinder_25_stream train: 20 fresh images an epoch, 300×300, contours of 25 paddles, "
        "seed 3"
    )
    assert stream.name(41) == "pathfinder_25_stream train image 41 of seed 3"
    same = open_stream("pathfinder_25_stream", "train", dict(PARAMS))
    other = open_stream("pathfinder_25_stream", "train", {**PARAMS, "stream_seed": 4})
    val = open_stream("pathfinder_25_stream", "val", {**PARAMS, "stream_val_images": 20})
    assert stream.fingerprint() == same.fingerprint()
    more = open_stream("pathfinder_25_stream", "train", {**PARAMS, "stream_epoch_images": 21})
    assert len({one.fingerprint() for one in (stream, other, val, more)}) == 4


def test_other_settings_of_a_stream():
    params = {**PARAMS, "stream_settings": {"window": 150, "seed_distance": 15, "continuity": 0.8}}
    stream = open_stream("pathfinder_6_stream", "val", params)
    assert stream[0][0].shape == (150, 150)
    data = open_set("pathfinder_6_stream", Config(), params)
    assert (data.im_size, data.input_size) == ((150, 150), (75, 75))
    assert (data.is_generated, data.contour_length) == (True, 6)
    assert open_set("pathfinder_6_stream", Config(), {**params, "im_size": [150, 150, 1]})
    named = open_set("pathfinder_6_stream", Config(), {**params, "model_input_image_size": [9, 8]})
    assert named.input_size == (9, 8)


@pytest.mark.parametrize(
    "name, params, message",
    [
        ("pathfinder_stream", {}, "pathfinder_stream.*pathfinder_14_stream"),
        ("pathfinder_6_stream", {"stream_epoch_images": 0}, "stream_epoch_images must be .* 0"),
        ("pathfinder_6_stream", {"stream_seed": -1}, "seed must be .* at least 0, found -1"),
        ("pathfinder_6_stream", {"stream_settings": {"contrast": 1}}, "contrast"),
        ("pathfinder_6_stream", {"stream_settings": {"border": -1}}, "border must be .* found -1"),
        ("pathfinder_6_stream", {"im_size": [64, 64]}, "300×300; im_size .* 64×64.*window"),
    ],
)
def test_errors_name_the_parameter(name, params, message):
    with pytest.raises(UserError, match=message):
        open_stream(name, "train", params)
