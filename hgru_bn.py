"""The hGRU with batch normalisation inside the circuit, one set of scales for all steps.

Run it:  python hgru_bn.py  (--help lists the options)
"""

import training  # first: it hears signals while PyTorch is imported

# isort: split
import torch

from models.options import aux_of
from models.recurrent import RecurrentNetwork


def experiment_params() -> dict:
    """Settings of the experiment: edit them here, or override one with --set key=value.

    --help says what each may be, and lists a few more that do not change what is learned.
    """
    exp: dict = {}
    # What is learned, and how.
    exp["model_name"] = "hgru_bn"
    exp["lr"] = 1e-3
    exp["lr_schedule"] = "constant"  # or "cosine", "cooldown": lr falls to 0
    exp["warmup_iters"] = 0  # updates over which lr grows to its value
    exp["optimizer"] = "nadam"
    exp["updates"] = "all"  # or "as_released": train what the release's graph trained
    exp["clip_gradients"] = None  # or the largest global norm, e.g. 7.0
    exp["loss_function"] = "cce"
    exp["score_metric"] = "accuracy"
    exp["batch_size"] = 32  # of training and validation, over all processes
    exp["epochs"] = 2
    exp["initial_weights"] = None  # or trained ones to begin with: a file or a run
    # Options of the network, laid over those below (layers/hgru.py, models/recurrent.py).
    exp["aux"] = {}
    # From which images.
    exp["dataset"] = "curv_contour_length_14_full"
    exp["val_dataset"] = None  # or the name of another set to validate on
    exp["data_augmentations"] = [
        "grayscale",
        # "left_right",
        # "up_down",
        "uint8_rescale",
        "singleton",
        "resize",
        # "per_image_standardization",  (then below too)
        "zero_one",
    ]
    exp["val_augmentations"] = ["grayscale", "uint8_rescale", "singleton", "resize", "zero_one"]
    exp["im_size"] = None  # [H, W] of the images; None: as they are found
    exp["model_input_image_size"] = None  # [H, W] that the network is given; None: the data set's
    exp["shuffle_train"] = True
    exp["shuffle_val"] = True
    exp["split_seed"] = 0  # of the split into train and val, where there are no records
    exp["stream_epoch_images"] = 900_000  # these nine where images are drawn while training
    exp["stream_val_images"] = 10_000
    exp["stream_seed"] = 0
    exp["stream_settings"] = {}  # e.g. {"continuity": 0.8}
    exp["curriculum"] = None  # or shorter contours to begin with, e.g. [6, 9]
    exp["curriculum_until"] = 0.9  # the accuracy at which the next length begins
    exp["curriculum_images"] = 300_000  # after which it begins at the latest
    exp["curriculum_review"] = 2  # each so-many-th image is of the lengths before; 0: none
    exp["curriculum_alone"] = True  # in the end the set's own length is shown alone
    # What is measured and kept.
    exp["exp_name"] = f"{exp['model_name']}_{exp['dataset']}"
    exp["validation_iters"] = 1000  # steps from one validation to the next
    exp["num_validation_evals"] = 50  # batches of each validation
    exp["save_weights"] = True
    return exp


def build_model(params: dict | None = None) -> torch.nn.Module:
    """Gabor drive → hGRU → normalisation → readout; None means the parameters above."""
    params = experiment_params() if params is None else params
    circuit = {
        "timesteps": 8,
        "h_ext": 15,  # width of the horizontal kernel in pixels
        "symmetric_weights": True,
        "recurrent_nl": "tanh",
        "adaptation": False,
        "normal_initializer": True,
        "batch_norm": True,
        "reuse": True,  # one normalisation shared by all steps
    }
    return RecurrentNetwork(**{**circuit, **aux_of(params)})


if __name__ == "__main__":
    training.main(experiment_params, build_model)
