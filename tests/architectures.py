"""Architectures of torchvision and timm, without trained weights, for tests of any network."""

import torch
from torch import nn
from torch.overrides import TorchFunctionMode

from dwp.torchvision_import import torchvision_datasets

torchvision_datasets()  # before either package is imported

import timm  # noqa: E402
import torchvision  # noqa: E402

TORCHVISION = torchvision.models.list_models(module=torchvision.models)

# Plain, dense and dilated convolutions, depthwise ones, kernels from 1×1 to 9×9 and oblong, weights that are
# standardised or padded by a forward of their own, attention, mixers, and recurrences.
TIMM = [
    "test_resnet", "test_vit", "test_convnext", "test_efficientnet", "test_byobnet", "test_nfnet",
    "test_mambaout", "tf_mixnet_s", "ghostnet_050", "edgenext_xx_small", "mobilevit_xxs",
    "mobilenetv4_conv_small_050", "levit_128s", "xcit_nano_12_p16_224", "regnetx_002", "dla46_c",
    "fastvit_t8", "pit_ti_224", "tinynet_e", "skresnet18", "inception_next_atto", "resmlp_12_224",
    "gmlp_ti16_224", "sequencer2d_s", "lambda_resnet26t", "pvt_v2_b0", "crossvit_tiny_240", "convit_tiny",
    "lcnet_035", "efficientvit_m0", "shvit_s1", "davit_tiny", "starnet_s1",
]  # fmt: skip


class _OnMeta(TorchFunctionMode):
    """Create parameters without values; unlike `torch.device("meta")` it leaves computed sizes alone."""

    def __torch_function__(self, function, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        return function(*args, **(kwargs | {"device": "meta"} if function is torch.empty else kwargs))


def build(name: str, *, meta: bool = False) -> nn.Module:
    """Return a model in evaluation mode, from timm if it has this name there only."""
    torch.manual_seed(0)
    make = torchvision.models.get_model if name in TORCHVISION else timm.create_model
    if not meta:
        return make(name).eval()
    with _OnMeta():
        return make(name).eval().to("meta")


def images(name: str, model: nn.Module, number: int = 1) -> torch.Tensor:
    """Return noise of the shape and on the device of the model's images."""
    size = model.default_cfg["input_size"][-1] if hasattr(model, "default_cfg") else 224
    size = 299 if name == "inception_v3" else size
    return torch.randn(number, 3, size, size, device=next(model.parameters()).device)
