"""An experiment's settings: what is taken as it is, and each slip that is an error."""

import inspect
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import ff_5
import hgru
from config import CLONE
from layers.hgru import HGRU
from models.feedforward import FeedforwardNetwork
from models.recurrent import RecurrentNetwork
from support.errors import UserError
from training.command_line import parser
from training.experiment import (
    AUX,
    COMMAND_LINE,
    SETTINGS,
    Experiment,
    differences,
    idle_options,
    options_table,
    settings_table,
)


def of(*overrides: str, **changed: Any) -> Experiment:
    """The experiment of hgru.py, with its dictionary edited and overrides laid over it."""
    return Experiment.of({**hgru.experiment_params(), **changed}, overrides)


@pytest.mark.parametrize(
    ("text", "key", "value"),
    [
        ("lr=1e-4", "lr", 1e-4),
        ("lr=1", "lr", 1.0),
        ("batch_size=8", "batch_size", 8),
        ("shuffle_val=false", "shuffle_val", False),
        ("save_weights=No", "save_weights", False),
        ("optimizer=adam", "optimizer", "adam"),
        ("updates=as_released", "updates", "as_released"),
        ("clip_gradients=7", "clip_gradients", 7.0),
        ("clip_gradients=none", "clip_gradients", None),
        ("val_dataset=curv_baseline_full", "val_dataset", "curv_baseline_full"),
        (
            "val_augmentations=zero_one,resize,uint8_rescale",
            "val_augmentations",
            ["zero_one", "resize", "uint8_rescale"],
        ),
        (
            "val_augmentations=[[uint8_rescale, resize]]",
            "val_augmentations",
            ["uint8_rescale", "resize"],
        ),
        ("model_input_image_size=[75, 75]", "model_input_image_size", [75, 75]),
        ("model_input_image_size=75,80", "model_input_image_size", [75, 80]),
        ("im_size=128,128", "im_size", [128, 128]),
        ("stream_settings={window: 96, continuity: 1e-5}", "stream_settings", None),
        (
            "stream_settings={snake_contrasts: [5e-1, 1]}",
            "stream_settings",
            {"snake_contrasts": [0.5, 1]},
        ),
        ("aux.hidden_init=identity", "aux", {"hidden_init": "identity"}),
        ("aux.timesteps=4", "aux", {"timesteps": 4}),
        ("aux.mu=false", "aux", {"mu": False}),
        ("aux.readout_epsilon=1e-5", "aux", {"readout_epsilon": 1e-5}),
        ("aux.eta_init=none", "aux", {"eta_init": None}),
        ("aux={timesteps: 3, readout_epsilon: 1e-5}", "aux", None),
    ],
)
def test_a_text_is_read_as_the_setting_s_type(text: str, key: str, value: Any) -> None:
    found = of(text)[key]
    if value is None and key == "aux":
        value = {"timesteps": 3, "readout_epsilon": 1e-5}
    if value is None and key == "stream_settings":
        value = {"window": 96, "continuity": 1e-5}
    assert found == value
    assert type(found) is type(value)


@pytest.mark.parametrize(
    ("key", "value", "kept"),
    [
        ("lr", np.float32(0.5), 0.5),
        ("batch_size", np.int64(4), 4),
        ("shuffle_val", np.bool_(False), False),
        ("model_input_image_size", (24, 32), [24, 32]),
        ("initial_weights", Path("weights/hgru_6.safetensors"), "weights/hgru_6.safetensors"),
        ("data_augmentations", [["uint8_rescale"], ["resize"]], ["uint8_rescale", "resize"]),
    ],
)
def test_what_stands_for_a_value_is_kept_as_it(key: str, value: Any, kept: Any) -> None:
    found = of(**{key: value})[key]
    assert found == kept and type(found) is type(kept)


NAN, INF = float("nan"), float("inf")
# What a hand may leave in the dictionary: key, value, and what the message must hold besides them.
SLIPS = [
    ("lr_shedule", "cosine", "'lr_schedule'"),
    ("valdation_iters", 5, "'validation_iters'"),
    ("Lr", 0.1, "'lr'"),
    ("learning_rate", 0.1, "Known: lr"),
    ("lr", "1e-3", "a number above 0"),
    ("lr", NAN, "a number above 0"),
    ("lr", INF, "a number above 0"),
    ("lr", 0, "a number above 0"),
    ("lr", -1, "a number above 0"),
    ("lr", True, "a number above 0"),
    ("lr", [1e-3], "a number above 0"),
    ("lr", None, "a number above 0"),
    ("clip_gradients", 0, "None or a number above 0"),
    ("clip_gradients", "7", "None or a number above 0"),
    ("clip_gradients", False, "None or a number above 0"),
    ("batch_size", 0, "a whole number of at least 1"),
    ("batch_size", -1, "a whole number of at least 1"),
    ("batch_size", 32.0, "a whole number of at least 1"),
    ("batch_size", "32", "a whole number of at least 1"),
    ("batch_size", True, "a whole number of at least 1"),
    ("epochs", None, "a whole number of at least 1"),
    ("epochs", 2.5, "a whole number of at least 1"),
    ("warmup_iters", -1, "a whole number of at least 0"),
    ("split_seed", "0", "a whole number of at least 0"),
    ("stream_epoch_images", 9e5, "a whole number of at least 1"),
    ("checkpoint_minutes", -1, "a number of at least 0"),
    ("checkpoint_minutes", NAN, "a number of at least 0"),
    ("keep_checkpoints", 0, "a whole number of at least 1"),
    ("shuffle_train", "no", "True or False"),
    ("shuffle_val", 0, "True or False"),
    ("save_weights", None, "True or False"),
    ("optimizer", "nadan", "'nadam'"),
    ("optimizer", None, "one of adam, nadam"),
    ("loss_function", "l3", "'l2'"),
    ("score_metric", "acuracy", "'accuracy'"),
    ("lr_schedule", "cosin", "'cosine'"),
    ("updates", "released", "'as_released'"),
    ("data_augmentations", ["uint8_rescale", "resise"], "'resize'"),
    ("val_augmentations", "resise", "'resize'"),
    ("val_augmentations", None, "a list of augmentations"),
    ("val_augmentations", [3], "a list of augmentations"),
    ("dataset", 14, "a name"),
    ("dataset", "", "a name"),
    ("val_dataset", False, "None or a name"),
    ("exp_name", "a/b", "a name without /"),
    ("exp_name", "..", "a name without /"),
    ("model_name", 3, "a name without /"),
    ("model_input_image_size", [32.5, 32], "two whole numbers of at least 1"),
    ("model_input_image_size", [0, 0], "two whole numbers of at least 1"),
    ("model_input_image_size", 32, "two whole numbers of at least 1"),
    ("model_input_image_size", "32,32", "two whole numbers of at least 1"),
    ("model_input_image_size", [32], "two whole numbers of at least 1"),
    ("model_input_image_size", [32, 32, 3], "two whole numbers of at least 1"),
    ("model_input_image_size", [True, 32], "two whole numbers of at least 1"),
    ("im_size", ["300", "300"], "two whole numbers of at least 1"),
    ("stream_settings", [1], "a dictionary"),
    ("aux", [], "a dictionary"),
    ("aux", {"timestep": 3}, "'timesteps'"),
    ("aux", {"batchnorm": True}, "'batch_norm'"),
    ("aux", {"batch_norm": "flase"}, "aux.batch_norm must be True or False"),
    ("aux", {"batch_norm": 1}, "aux.batch_norm must be True or False"),
    ("aux", {"alpha": "maybe"}, "aux.alpha must be True or False"),
    ("aux", {"gate_bias_init": "cronos"}, "'chronos'"),
    ("aux", {"hidden_init": "identiy"}, "'identity'"),
    ("aux", {"recurrent_nl": "tahn"}, "'tanh'"),
    ("aux", {"timesteps": 0}, "aux.timesteps must be a whole number of at least 1"),
    ("aux", {"timesteps": "8"}, "aux.timesteps must be a whole number of at least 1"),
    ("aux", {"h_ext": 15.0}, "aux.h_ext must be a whole number"),
    ("aux", {"gabor_size": 8}, "aux.gabor_size must be an odd number of at least 3"),
    ("aux", {"readout_epsilon": 0}, "aux.readout_epsilon must be a number above 0"),
    ("aux", {"eta_init": "1"}, "aux.eta_init must be None or a number"),
    ("aux", {"eta_init": INF}, "aux.eta_init must be None or a number"),
]


@pytest.mark.parametrize(("key", "value", "expected"), SLIPS)
def test_a_slip_in_the_dictionary_is_an_error(key: str, value: Any, expected: str) -> None:
    with pytest.raises(UserError) as error:
        of(**{key: value})
    message = str(error.value)
    name, found = next(iter(value.items())) if key == "aux" and value else (key, value)
    assert name in message and expected in message
    if key in SETTINGS and not (name not in AUX and key == "aux" and value):
        shown = found[-1] if isinstance(found, list) and "augm" in key else found
        assert repr(shown) in message


# On the command line: text, and what the message must hold.
TEXTS = [
    ("lr", "'lr'", "key=value"),
    ("=3", "'=3'", "key=value"),
    ("lr=fast", "lr", "'fast'", "a number above 0"),
    ("lr=-1", "lr", "-1.0", "a number above 0"),
    ("lr=nan", "lr", "nan", "a number above 0"),
    ("batch_size=2.5", "batch_size", "'2.5'", "a whole number of at least 1"),
    ("batch_size=0", "batch_size", "0", "a whole number of at least 1"),
    ("epochs=none", "epochs", "'none'", "a whole number"),
    ("shuffle_val=maybe", "shuffle_val", "'maybe'", "True or False"),
    ("batchsize=3", "batchsize", "'batch_size'"),
    ("exp_name=a/b", "exp_name", "'a/b'"),
    ("model_input_image_size=[32.5,32]", "model_input_image_size", "[32.5, 32]"),
    ("model_input_image_size=32", "model_input_image_size", "[32]"),
    ("data_augmentations=[resize", "data_augmentations", "'[resize'"),
    ("stream_settings=3", "stream_settings", "'3'", "a dictionary"),
    ("aux=3", "aux", "'3'", "a dictionary"),
    ("aux.mu={", "aux.mu", "'{'", "True or False"),
    ("aux.batch_norm=flase", "aux.batch_norm", "'flase'", "True or False"),
    ("aux.alpha=maybe", "aux.alpha", "'maybe'", "True or False"),
    ("aux.gate_bias_init=cronos", "aux.gate_bias_init", "'cronos'", "'chronos'"),
    ("aux.timesteps=0", "aux.timesteps", "0", "a whole number of at least 1"),
    ("aux.timesteps=eight", "aux.timesteps", "'eight'"),
    ("aux.hiden_init=zeros", "'hiden_init'", "'hidden_init'"),
    ("lr+=3", "lr+=3", "augmentations"),
    ("aux.timesteps+=3", "aux.timesteps+=3", "augmentations"),
]


@pytest.mark.parametrize("case", TEXTS)
def test_a_slip_on_the_command_line_is_an_error(case: tuple[str, ...]) -> None:
    text, *parts = case
    with pytest.raises(UserError) as error:
        of(text)
    for part in parts:
        assert part in str(error.value)


def test_a_dictionary_that_is_not_whole_is_an_error() -> None:
    params = hgru.experiment_params()
    del params["lr"], params["epochs"]
    with pytest.raises(UserError, match="lr, epochs"):
        Experiment.of(params)
    with pytest.raises(UserError, match="NoneType"):
        Experiment.of(None)  # type: ignore[arg-type]  # no 'return exp'


def test_an_augmentation_is_added_in_the_fixed_order() -> None:
    exp = of("data_augmentations+=left_right", "data_augmentations+=rotate,left_right")
    assert exp.data_augmentations == [*of().data_augmentations, "left_right", "rotate"]
    assert exp.val_augmentations == of().val_augmentations
    assert not exp.cautions()


@pytest.mark.parametrize(
    "text",
    [
        "data_augmentations=left_right",  # training of 300×300, validation of 150×150 pixels
        "data_augmentations=uint8_rescale",
        "data_augmentations=uint8_rescale,random_crop",  # another part of the image at another size
        "data_augmentations=resize",  # 0–255 against 0–1
        "data_augmentations=resize,uint8_rescale_-1_1",
        "val_augmentations=resize,uint8_rescale,per_image_standardization",
        "val_augmentations=resize,uint8_rescale,flip_polarity",
        "data_augmentations+=uint8_rescale_-1_1",
    ],
)
def test_training_and_validation_must_see_images_of_one_kind(text: str) -> None:
    with pytest.raises(UserError) as error:
        of(text)
    assert text.split("=")[0].removesuffix("+") in str(error.value)


def test_images_are_not_scaled_twice() -> None:
    added = [f"{key}+=uint8_rescale_-1_1" for key in ("data_augmentations", "val_augmentations")]
    with pytest.raises(UserError, match="data_augmentations has both uint8_rescale and uint8_resc"):
        of(*added)


def test_what_may_not_be_meant_is_said() -> None:
    (caution,) = of("val_augmentations+=left_right").cautions()
    assert "val_augmentations" in caution and "left_right" in caution
    raw = {"data_augmentations": ["resize"], "val_augmentations": ["resize"]}
    (caution,) = of(**raw).cautions()
    assert "data_augmentations" in caution and "0–255" in caution


@pytest.mark.parametrize(
    ("names", "parts"),
    [
        ("uint8_rescale,random_brightness,zero_one", ["random_brightness", "±63", "black"]),
        ("uint8_rescale,random_brightness", ["random_brightness", "±63"]),
        ("uint8_rescale,random_crop", ["resize has no effect, as random_crop"]),
        ("uint8_rescale,center_crop,resize_nn", ["resize and resize_nn", "as center_crop"]),
        ("per_image_standardization,gaussian_noise_small", ["gaussian_noise_small", "0–255"]),
        ("uint8_rescale_-1_1,zero_one", ["zero_one", "uint8_rescale_-1_1"]),
        ("uint8_rescale,gaussian_noise,threshold", ["threshold", "gaussian_noise"]),
        ("zero_one", ["zero_one", "0–255", "above 1"]),
        ("threshold", ["threshold", "0–255", "above 0.1"]),
        ("threshold,flip_polarity", ["threshold", "0–255"]),
        ("flip_polarity", ["flip_polarity", "0–255"]),
        ("uint8_rescale,per_image_standardization,flip_polarity", ["flip_polarity", "about 0"]),
    ],
)
def test_preprocessing_that_spoils_images_is_said_once(names: str, parts: list[str]) -> None:
    both = [f"{key}=resize,{names}" for key in ("data_augmentations", "val_augmentations")]
    (caution,) = [one for one in of(*both).cautions() if "random numbers" not in one]
    for part in ["data_augmentations and val_augmentations", *parts]:
        assert part in caution


@pytest.mark.parametrize(
    "names",
    [
        "uint8_rescale,random_brightness,per_image_standardization",
        "uint8_rescale,flip_polarity",
        "uint8_rescale,threshold,zero_one,flip_polarity",
        "uint8_rescale_-1_1,threshold,zero_one",
        "uint8_rescale,random_contrast,gaussian_noise_small,zero_one",
    ],
)
def test_preprocessing_that_keeps_images_is_not(names: str) -> None:
    both = [f"{key}=resize,{names}" for key in ("data_augmentations", "val_augmentations")]
    assert not [one for one in of(*both).cautions() if "random numbers" not in one]


STREAM = "dataset=pathfinder_14_stream"


@pytest.mark.parametrize(
    ("text", "place"),
    [
        ("timesteps=4", "in aux"),
        ("window=64", "in stream_settings"),
        ("aux.lr=1", r"in experiment_params\(\)"),
        ("aux={window: 64}", "in stream_settings"),
        ("stream_settings={stream_seed: 3}", r"in experiment_params\(\)"),
        ("stream_settings={timesteps: 3}", "in aux"),
        ("seed=1", "in the command line, as --seed"),  # and is not split_seed
        ("max_minutes=3", "in the command line, as --max-minutes"),
    ],
)
def test_a_setting_in_a_wrong_place_is_told_where_it_belongs(text: str, place: str) -> None:
    with pytest.raises(UserError, match=f"is not known; it belongs {place}"):
        of(text)


def test_a_streams_length_that_is_no_number_is_left_to_the_generators_check() -> None:
    assert of(STREAM, "stream_settings={contour_length: '14'}").stream_settings


@pytest.mark.parametrize("script", [hgru, ff_5])
def test_an_option_beside_aux_is_an_error(script: Any) -> None:
    for params in ({"timesteps": 4}, {**script.experiment_params(), "kernel_size": 4}):
        name = list(params)[-1]
        with pytest.raises(UserError, match=f"{name} is an option .* in aux: .*'{name}': 4"):
            script.build_model(params)


@pytest.mark.parametrize(
    ("texts", "part"),
    [
        (["stream_settings={contour_lenght: 3}"], "'contour_length'"),
        ([STREAM, "stream_settings={windw: 64}"], "'window'"),
        ([STREAM, "stream_settings={contour_length: 3}"], "pathfinder_3_stream"),
        (
            [
                "val_dataset=pathfinder_9_stream",
                *("dataset=pathfinder_6_stream", "stream_settings={contour_length: 6}"),
            ],
            "val_dataset is pathfinder_9_stream",
        ),
    ],
)
def test_a_stream_s_settings_are_a_stream_s_and_not_against_its_name(
    texts: list[str], part: str
) -> None:
    with pytest.raises(UserError, match=part):
        of(*texts)


@pytest.mark.parametrize(
    ("texts", "parts"),
    [
        (["stream_seed=3", "stream_settings={window: 64}"], ["stream_seed=3", "window"]),
        (
            [STREAM, "curriculum_until=90", "curriculum_alone=no"],
            ["no curriculum", "curriculum_until=90", "alone"],
        ),
        ([STREAM, "curriculum=6", "curriculum_until=90"], ["curriculum_until is 90"]),
        (["initial_weights="], ["--set initial_weights= gives no value"]),  # "$WEIGHTS", likewise
        ([STREAM, "curriculum=6", "curriculum_review=1"], ["curriculum_review is 1"]),
        ([STREAM, "curriculum=14", "curriculum_images=9"], ["curriculum=[14]", "images=9"]),
        ([STREAM, "val_dataset=mine", "stream_val_images=64"], ["mine is no", "val_images=64"]),
        (
            ["val_dataset=pathfinder_9_stream", "stream_epoch_images=64"],
            ["curv_contour_length_14_full is no", "epoch_images=64"],
        ),
    ],
)
def test_a_setting_without_effect_is_said(texts: list[str], parts: list[str]) -> None:
    (caution,) = of(*texts).cautions()
    for part in parts:
        assert part in caution


@pytest.mark.parametrize(
    "texts",
    [
        [STREAM, "stream_seed=3", "stream_settings={window: 64, contour_length: 14}"],
        ["val_dataset=pathfinder_9_stream", "stream_val_images=64", "im_size=300,300"],
        [STREAM, "curriculum=6", "curriculum_until=1", "curriculum_review=0"],
        [STREAM, "curriculum=6", "val_dataset=mine", "stream_val_images=64"],
    ],
)
def test_a_setting_with_effect_is_not(texts: list[str]) -> None:
    assert not of(*texts).cautions()


def test_an_option_without_effect_is_said() -> None:
    for options in (
        {"reuse": False},
        {"batch_norm_validation": "running"},
        {"eta_init": 0.5},
        {"multiplicative_excitation": False, "lesion_kappa": True},
        {"multiplicative_excitation": False, "lesion_omega": True},
        {"lesion_alpha": True, "alpha": False},
        {"lesion_mu": True, "mu": False},
    ):
        (caution,) = idle_options(RecurrentNetwork(timesteps=2, h_ext=3, **options), {})
        assert [*options][-1] in caution
    network = RecurrentNetwork(timesteps=2, h_ext=3, batch_norm=True, reuse=False, lesion_mu=True)
    assert not idle_options(network, {}) and not idle_options(FeedforwardNetwork(), {})


def test_aux_that_build_model_does_not_pass_on_is_said() -> None:
    aux = {"timesteps": 3, "constrain": True, "layers": 4}
    own = torch.nn.Sequential(HGRU(2, timesteps=3, h_ext=3), HGRU(2, timesteps=2, h_ext=3))
    for network, ignored in (
        (RecurrentNetwork(timesteps=3, h_ext=3, constrain=True), []),
        (RecurrentNetwork(timesteps=2, h_ext=3), ["timesteps=3", "constrain=True"]),
        (own, ["constrain=True"]),
        (FeedforwardNetwork(layers=2), ["layers=4"]),
    ):
        cautions = idle_options(network, aux)
        assert [one.split("aux.")[1].split()[0] for one in cautions] == ignored


def test_the_options_of_the_command_line_are_known() -> None:
    assert {*vars(parser("", of()).parse_args([]))} == {*COMMAND_LINE, "overrides"}


def test_a_name_that_the_script_made_up_stays() -> None:
    assert of("dataset=mine", "model_name=m", exp_name="pilot").exp_name == "pilot"
    assert of("dataset=mine", model_name="m", exp_name="m_hers").exp_name == "m_hers"


def test_the_name_follows_model_and_data() -> None:
    assert of("dataset=mine").exp_name == "hgru_mine"
    assert of("model_name=mine").exp_name == "mine_curv_contour_length_14_full"
    assert of("model_name=mine", "exp_name=x").exp_name == "x"
    assert of().exp_name == "hgru_curv_contour_length_14_full"


def test_an_experiment_reads_as_attributes_and_as_a_mapping() -> None:
    exp = of("lr=0.5", "aux.timesteps=2", aux={"h_ext": 3})
    assert exp.lr == exp["lr"] == exp.as_dict()["lr"] == 0.5
    assert exp.aux == {"h_ext": 3, "timesteps": 2}
    assert exp.overrides == ("lr=0.5", "aux.timesteps=2")
    assert exp.changed == {"lr", "aux.timesteps"}
    assert list(exp) == list(SETTINGS) and "nonsense" not in exp
    assert Experiment.of(exp.as_dict()).as_dict() == exp.as_dict()  # as a run's record gives it


def test_nothing_is_shared_with_the_script_s_dictionary() -> None:
    params = hgru.experiment_params()
    exp = Experiment.of(params, ["aux.timesteps=2"])
    exp.as_dict()["aux"]["timesteps"] = 3
    params["data_augmentations"].clear()
    assert params["aux"] == {} and exp.aux == {"timesteps": 2} and exp.data_augmentations


def test_numpy_s_numbers_in_dictionaries_stand_for_python_s() -> None:
    aux = {"timesteps": np.int64(3), "readout_epsilon": np.float64(0.5), "mu": np.bool_(False)}
    exp = of(aux=aux, stream_settings={"margin": np.array([3, 4]), "border": np.int32(6)})
    assert exp.aux == {"timesteps": 3, "readout_epsilon": 0.5, "mu": False}
    assert exp.aux["mu"] is False and type(exp.aux["timesteps"]) is int
    assert type(of(aux={"eta_init": 1}).aux["eta_init"]) is float
    assert exp.stream_settings == {"margin": [3, 4], "border": 6}
    with pytest.raises(UserError, match="found 0"):
        of(aux={"timesteps": np.int64(0)})


def test_of_an_override_that_is_given_again_the_last_counts() -> None:
    exp = of("lr=1", "lr=2", "lr=1")
    assert exp.lr == 1 and exp.overrides == ("lr=2", "lr=1")


def test_differences_name_key_and_values() -> None:
    ours, theirs = of(), of("lr=0.5").as_dict()
    assert differences(theirs, ours) == ["lr: 0.5 there, 0.001 here"]
    del theirs["log_iters"]  # as in a checkpoint from before there was this setting
    assert len(differences(theirs, ours)) == 1
    assert "log_iters: 10 there, 5 here" in differences(theirs, of("log_iters=5"))
    assert "gone: 3 there, None here" in differences({**theirs, "gone": 3}, ours)


def test_every_option_of_the_networks_is_known() -> None:
    known = {"recurrent": (RecurrentNetwork, HGRU), "feedforward": (FeedforwardNetwork,)}
    options = {
        name
        for networks in known.values()
        for network in networks
        for name in inspect.signature(network).parameters
    }
    assert options - {"generator", "channels", "options"} == set(AUX)


@pytest.mark.parametrize("script", [hgru, ff_5])
def test_scripts_show_all_that_changes_what_is_learned(script: Any) -> None:
    hidden = {"log_iters", "checkpoint_minutes", "keep_checkpoints", "keep_every"}
    assert set(script.experiment_params()) == set(SETTINGS) - hidden


def test_the_table_has_every_setting_and_option() -> None:
    rows = [*settings_table().splitlines(), *options_table().splitlines()]
    for name in [*SETTINGS, *AUX]:
        assert sum(row.startswith(f"| `{name}` |") and row.count("|") == 5 for row in rows) == (
            2 if name == "aux" else 1
        )


def test_the_readme_holds_the_table_of_settings():
    readme = (CLONE / "README.md").read_text(encoding="utf-8")
    assert settings_table() in readme
