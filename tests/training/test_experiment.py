"""Parameters from the command line."""

import pytest

import hgru
from training.experiment import differences, resolve


def resolved(*overrides: str) -> dict:
    return resolve(hgru.experiment_params(), overrides)


@pytest.mark.parametrize(
    ("text", "key", "value"),
    [
        ("lr=1e-4", "lr", 1e-4),
        ("lr=1", "lr", 1.0),
        ("batch_size=8", "batch_size", 8),
        ("shuffle_val=false", "shuffle_val", False),
        ("save_weights=No", "save_weights", False),
        ("optimizer=adam", "optimizer", "adam"),
        ("clip_gradients=7", "clip_gradients", 7.0),
        ("clip_gradients=none", "clip_gradients", None),
        ("val_dataset=curv_baseline_full", "val_dataset", "curv_baseline_full"),
        ("data_augmentations=resize,zero_one", "data_augmentations", ["resize", "zero_one"]),
        ("data_augmentations=[[resize, zero_one]]", "data_augmentations", ["resize", "zero_one"]),
        ("model_input_image_size=[75, 75]", "model_input_image_size", [75, 75]),
        ("stream_settings={window: 96, border: 6}", "stream_settings", {"window": 96, "border": 6}),
    ],
)
def test_a_value_has_the_type_of_the_default(text: str, key: str, value: object) -> None:
    found = resolved(text)[key]
    assert found == value
    assert type(found) is type(value)


def test_options_of_the_layer() -> None:
    settings = resolved("aux.hidden_init=identity", "aux.timesteps=4", "aux.mu=false")
    assert settings["aux"] == {"hidden_init": "identity", "timesteps": 4, "mu": False}
    assert resolved("aux.readout_epsilon=1e-5")["aux"] == {"readout_epsilon": 1e-5}
    assert resolved("aux.hidden_init=1e")["aux"] == {"hidden_init": "1e"}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("lr", "--set takes key=value, e.g. --set lr=1e-3; found 'lr'"),
        ("lr=fast", "lr must be a number, found 'fast'"),
        ("lr=-1", "lr must be a number above 0, found -1.0"),
        ("lr=nan", "lr must be a number above 0, found nan"),
        ("batch_size=2.5", "batch_size must be a whole number, found '2.5'"),
        ("batch_size=0", "batch_size must be a whole number of at least 1, found 0"),
        ("epochs=none", "epochs must be a whole number, found 'none'"),
        ("shuffle_val=maybe", "shuffle_val must be true or false, found 'maybe'"),
        ("batchsize=3", "parameter 'batchsize' is not known; did you mean 'batch_size'?"),
        ("exp_name=a/b", "exp_name must be usable as a folder's name, found 'a/b'"),
        ("aux.mu={", "aux.mu: '{' cannot be read as a YAML value"),
        ("aux=3", "aux must be like {option: value}, found '3'"),
    ],
)
def test_what_is_wrong_is_said(text: str, message: str) -> None:
    with pytest.raises(ValueError) as error:
        resolved(text)
    assert message in str(error.value)


def test_the_name_follows_model_and_data() -> None:
    assert resolved("model_name=mine")["exp_name"] == "mine_curv_contour_length_14_full"
    assert resolved("model_name=mine", "exp_name=x")["exp_name"] == "x"
    assert resolved()["exp_name"] == "hgru_curv_contour_length_14_full"


def test_a_parameter_that_a_script_lacks_is_named() -> None:
    params = hgru.experiment_params()
    del params["lr"], params["epochs"]
    with pytest.raises(ValueError, match=r"experiment_params\(\) does not give: lr, epochs"):
        resolve(params)


def test_differences_name_key_and_values() -> None:
    ours, theirs = resolved(), resolved("lr=0.5")
    assert differences(theirs, ours) == ["lr: 0.5 there, 0.001 here"]
    del theirs["log_iters"]  # as in a checkpoint from before there was this setting
    assert len(differences(theirs, ours)) == 1
