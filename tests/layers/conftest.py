"""What the tests of the layers share."""

import pytest
import torch


@pytest.fixture(params=[True, False], ids=["tf32", "float32"])
def tf32(request):
    """Whether PyTorch's convolutions may round to TF32 during the test."""
    before = torch.backends.cudnn.allow_tf32
    torch.backends.cudnn.allow_tf32 = request.param
    yield request.param
    torch.backends.cudnn.allow_tf32 = before
