"""The hGRU with batch normalisation inside the circuit, one set of scales for all steps.

Run it:  python hgru_bn.py  (--help lists the options)
"""

import torch

import training
from models.recurrent import RecurrentNetwork


def experiment_params() -> dict:
    """Parameters of the experiment: edit them here, or override one with --set key=value."""
    exp: dict = {}
    exp["lr"] = 1e-3
    exp["loss_function"] = "cce"
    exp["optimizer"] = "nadam"
    exp["dataset"] = "curv_contour_length_14_full"
    exp["data_augmentations"] = [
        "grayscale",
        # 'left_right',
        # 'up_down',
        "uint8_rescale",
        "singleton",
        "resize",
        # 'per_image_standardization',
        "zero_one",
    ]
    exp["val_augmentations"] = list(exp["data_augmentations"])
    exp["batch_size"] = 32  # of training and validation, over all processes
    exp["epochs"] = 2
    exp["model_name"] = "hgru_bn"
    exp["exp_name"] = f"{exp['model_name']}_{exp['dataset']}"
    exp["clip_gradients"] = None  # or the largest global norm, e.g. 7.0
    exp["save_weights"] = True
    exp["validation_iters"] = 1000  # steps from one validation to the next
    exp["num_validation_evals"] = 50  # batches of each validation
    exp["shuffle_train"] = True
    exp["shuffle_val"] = True
    exp["val_dataset"] = None  # or the name of another set to validate on
    exp["aux"] = {}  # options of the hGRU layer (layers/hgru.py), laid over those below
    return exp


def build_model(params: dict | None = None) -> torch.nn.Module:
    """Gabor drive → hGRU → normalisation → readout; None means the parameters above."""
    params = params or experiment_params()
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
    return RecurrentNetwork(**{**circuit, **(params.get("aux") or {})})


if __name__ == "__main__":
    training.main(experiment_params, build_model)
