"""The zoo's architectures: random weights, small real sizes. Each entry says its inputs without the batch axis.

Every family's package is imported by its own builder, so that a machine lacks only the rows it cannot make.
"""

from __future__ import annotations

import copy
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from harness import crops

Build = Callable[[], Any]
HOW_TO = Path(__file__).resolve().parents[1] / "docs" / "how-to"
SETTLED = 16
"""Pictures that batch normalizations see."""
EAGER = {"attn_implementation": "eager"}


@dataclass(frozen=True)
class Entry:
    """One architecture. ``inputs``: name → shape of one sample, without the batch axis."""

    family: str
    task: str
    build: Build
    inputs: Mapping[str, tuple[int, ...]] = field(default_factory=lambda: {"images": (3, 64, 64)})


def _wrapped(inner: Any, take: Callable[..., Any]) -> Any:
    """``inner`` as a module whose answer is what ``take`` gives of it: tensors alone."""
    from torch import nn

    class Wrapped(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = inner

        def forward(self, *inputs: Any) -> Any:
            return take(self.inner, *inputs)

    return Wrapped()


def _of_torchvision(name: str, **options: Any) -> Build:
    def build() -> Any:
        from torchvision import models

        return models.get_model(name, weights=None, **options)

    return build


def _segmenter_of_torchvision(name: str) -> Build:
    def build() -> Any:
        return _wrapped(_of_torchvision(name, weights_backbone=None)(), lambda inner, images: inner(images)["out"])

    return build


def _detector_of_torchvision(name: str) -> Build:
    """Backbone and heads: what comes after is boxes and NMS, the decoder's work."""

    def take(inner: Any, images: Any) -> Any:
        levels = list(inner.backbone(images).values())
        heads = inner.rpn.head(levels) if hasattr(inner, "rpn") else inner.head(levels)
        if isinstance(heads, dict):
            return tuple(heads[name] for name in sorted(heads))
        return tuple(level for part in heads for level in part)

    return lambda: _wrapped(_of_torchvision(name, weights_backbone=None)(), take)


def _flow() -> Any:
    return _wrapped(
        _of_torchvision("raft_small")(), lambda inner, left, right: inner(left, right, num_flow_updates=2)[-1]
    )


def _of_timm(name: str, **options: Any) -> Build:
    def build() -> Any:
        import timm

        return timm.create_model(name, pretrained=False, num_classes=10, **options)

    return build


def _of_smp(name: str, encoder: str = "resnet18") -> Build:
    def build() -> Any:
        import segmentation_models_pytorch as smp

        return getattr(smp, name)(encoder_name=encoder, encoder_weights=None, classes=5)

    return build


def _of_ultralytics(name: str, kind: str = "DetectionModel") -> Build:
    def build() -> Any:
        from ultralytics.nn import tasks

        made = getattr(tasks, kind)(f"{name}.yaml", verbose=False)
        made.model[-1].dynamic = True  # the how-to's recipe: anchors follow the input's size
        made.model[-1].export = True
        return made

    return build


def _of_page(page: str, changes: Mapping[str, str], call: str) -> Build:
    """The network that the Python of a how-to page makes, as it stands there but for ``changes``."""

    def build() -> Any:
        text = (HOW_TO / f"{page}.md").read_text(encoding="utf-8")
        code = "\n".join(re.findall(r"```python\n(.*?)```", text, re.DOTALL))
        for stands, instead in changes.items():
            if stands not in code:
                raise LookupError(f"{page}.md no longer says {stands!r}")
            code = code.replace(stands, instead)
        names: dict[str, Any] = {"__name__": page}
        exec(compile(code, f"{page}.md", "exec"), names)
        return eval(call, names)

    return build


def _of_transformers(network: str, config: str, take: Callable[..., Any], **options: Any) -> Build:
    def build() -> Any:
        import transformers

        known = {key: make(transformers) if callable(make) else make for key, make in options.items()}
        made = getattr(transformers, config)(**known)
        return _wrapped(getattr(transformers, network)._from_config(made, **EAGER), take)

    return build


def _boxes(inner: Any, images: Any) -> Any:
    found = inner(pixel_values=images, return_dict=True)
    return found.logits, found.pred_boxes


def _field(name: str) -> Callable[..., Any]:
    return lambda inner, images: getattr(inner(pixel_values=images, return_dict=True), name)


def _resnet(transformers: Any) -> Any:
    return transformers.ResNetConfig(
        embedding_size=16, hidden_sizes=[16, 32, 48, 64], depths=[1, 1, 1, 1], layer_type="basic",
        out_features=["stage2", "stage3", "stage4"],
    )  # fmt: skip


def _last_of_resnet(transformers: Any) -> Any:
    return transformers.ResNetConfig(
        embedding_size=16, hidden_sizes=[16, 32, 48, 64], depths=[1, 1, 1, 1], out_features=["stage4"]
    )


def _rt_detr_resnet(transformers: Any) -> Any:
    return transformers.RTDetrResNetConfig(
        embedding_size=16, hidden_sizes=[16, 32, 48, 64], depths=[1, 1, 1, 1], layer_type="basic",
        out_features=["stage2", "stage3", "stage4"],
    )  # fmt: skip


def _dinov2(transformers: Any) -> Any:
    return transformers.Dinov2Config(
        hidden_size=48, num_hidden_layers=4, num_attention_heads=3, image_size=56, patch_size=14,
        out_features=["stage1", "stage2", "stage3", "stage4"], reshape_hidden_states=False, apply_layernorm=True,
    )  # fmt: skip


def _vit(transformers: Any) -> Any:
    return transformers.VitPoseBackboneConfig(
        hidden_size=48, num_hidden_layers=2, num_attention_heads=3, image_size=[64, 48], patch_size=[16, 16],
        out_features=["stage2"],
    )  # fmt: skip


DETR = {
    "use_timm_backbone": False, "use_pretrained_backbone": False, "backbone": None, "d_model": 64,
    "encoder_layers": 1, "decoder_layers": 2, "encoder_ffn_dim": 128, "decoder_ffn_dim": 128,
    "encoder_attention_heads": 4, "decoder_attention_heads": 4, "num_queries": 10, "num_labels": 5,
}  # fmt: skip
RT_DETR = {
    "encoder_in_channels": [32, 48, 64], "encoder_hidden_dim": 32, "d_model": 32, "num_queries": 10,
    "encoder_ffn_dim": 64, "decoder_ffn_dim": 64, "decoder_layers": 2, "encoder_attention_heads": 2,
    "decoder_attention_heads": 2, "decoder_in_channels": [32, 32, 32], "num_labels": 5, "num_denoising": 0,
}  # fmt: skip
TINY_VIT = {
    "hidden_size": 48, "num_hidden_layers": 2, "num_attention_heads": 3, "intermediate_size": 96,
}  # fmt: skip
TWO_STAGES = {
    "num_encoder_blocks": 2, "depths": [1, 1], "sr_ratios": [4, 2], "hidden_sizes": [16, 32], "patch_sizes": [7, 3],
    "strides": [4, 2], "num_attention_heads": [1, 2], "mlp_ratios": [2, 2],
}  # fmt: skip


def _recurrent(kind: str, *, bidirectional: bool) -> Build:
    """A text-line recognizer: convolutions, then a recurrent head over the columns."""

    def build() -> Any:
        import torch
        from torch import nn

        class Recognizer(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.features = nn.Sequential(
                    nn.Conv2d(3, 16, 3, 2, 1), nn.ReLU(), nn.Conv2d(16, 32, 3, 2, 1), nn.BatchNorm2d(32), nn.ReLU()
                )
                self.head = getattr(nn, kind)(32, 24, batch_first=True, bidirectional=bidirectional)
                self.classes = nn.Linear(48 if bidirectional else 24, 20)

            def forward(self, images: torch.Tensor) -> torch.Tensor:
                columns = self.features(images).mean(2).transpose(1, 2)
                return self.classes(self.head(columns)[0])

        return Recognizer()

    return build


def _super_resolution() -> Any:
    from torch import nn

    return nn.Sequential(
        nn.Conv2d(3, 32, 5, padding=2), nn.ReLU(), nn.Conv2d(32, 32, 3, padding=1), nn.ReLU(),
        nn.Conv2d(32, 3 * 4, 3, padding=1), nn.PixelShuffle(2),
    )  # fmt: skip


def _depth() -> Any:
    """An encoder and decoder with skips; inverse depth by a sigmoid."""
    import torch
    from torch import nn

    class Depth(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.down = nn.ModuleList(
                nn.Sequential(nn.Conv2d(a, b, 3, 2, 1), nn.BatchNorm2d(b), nn.ELU()) for a, b in ((3, 16), (16, 32))
            )
            self.up = nn.ModuleList(nn.Conv2d(a, b, 3, padding=1) for a, b in ((32, 16), (32, 8)))
            self.last = nn.Conv2d(8, 1, 1)

        def forward(self, images: torch.Tensor) -> torch.Tensor:
            first = self.down[0](images)
            inner = nn.functional.interpolate(self.up[0](self.down[1](first)), scale_factor=2.0, mode="nearest")
            joined = torch.cat([inner, first], 1)
            outer = nn.functional.interpolate(self.up[1](joined), scale_factor=2.0, mode="bilinear")
            return torch.sigmoid(self.last(outer))

    return Depth()


def _sized(side: int) -> dict[str, tuple[int, ...]]:
    return {"images": (3, side, side)}


CLASSIFIERS = {
    "alexnet": 96, "vgg11_bn": 64, "resnet18": 64, "resnext50_32x4d": 64, "densenet121": 64, "squeezenet1_1": 64,
    "mobilenet_v2": 64, "mobilenet_v3_small": 64, "mnasnet0_5": 64, "shufflenet_v2_x0_5": 64, "efficientnet_b0": 64,
    "efficientnet_v2_s": 64, "regnet_y_400mf": 64, "convnext_tiny": 64, "swin_t": 64, "swin_v2_t": 64,
}  # fmt: skip
TIMM = {
    "vit_tiny_patch16_224": 224, "deit_tiny_patch16_224": 224, "swin_tiny_patch4_window7_224": 224,
    "convnext_atto": 64, "convnextv2_atto": 64, "efficientvit_b0": 64, "efficientvit_m0": 224, "mobilevit_xxs": 64,
    "mobilevitv2_050": 64, "mobilenetv4_conv_small": 64, "repvit_m0_9": 64, "fastvit_t8": 64,
    "edgenext_xx_small": 64, "ghostnet_100": 64, "hrnet_w18_small": 64, "resnet10t": 64, "regnety_002": 64,
    "tf_efficientnet_lite0": 64, "mixer_s16_224": 224, "pvt_v2_b0": 64, "poolformer_s12": 64, "levit_128s": 224,
    "xcit_nano_12_p16_224": 64, "coat_lite_tiny": 224, "cait_xxs24_224": 224, "crossvit_tiny_240": 240,
    "res2net50_26w_4s": 64, "dla34": 64, "tinynet_e": 64, "lcnet_050": 64, "inception_next_atto": 64,
    "starnet_s1": 64, "mambaout_femto": 64, "eva02_tiny_patch14_224": 224, "beit_base_patch16_224": 224,
    "csatv2": 64,
}  # fmt: skip
YOLO = {
    "yolov5n": "DetectionModel", "yolov8n": "DetectionModel", "yolov8n-seg": "SegmentationModel",
    "yolov8n-pose": "PoseModel", "yolov8n-obb": "OBBModel", "yolov9t": "DetectionModel",
    "yolov10n": "DetectionModel", "yolo11n": "DetectionModel", "yolo12n": "DetectionModel",
}  # fmt: skip

RANDOM = {"SIZE = 640": "SIZE = 128", "(weights=weights)": "(weights=None, weights_backbone=None)"}
ZOO: dict[str, Entry] = {
    **{
        f"torchvision/{name}": Entry("torchvision", "classification", _of_torchvision(name), _sized(side))
        for name, side in CLASSIFIERS.items()
    },
    "torchvision/googlenet": Entry(
        "torchvision", "classification", _of_torchvision("googlenet", aux_logits=False, init_weights=False)
    ),
    "torchvision/vit_b_32": Entry("torchvision", "classification", _of_torchvision("vit_b_32", image_size=64)),
    **{
        f"torchvision/{name}": Entry("torchvision", "segmentation", _segmenter_of_torchvision(name))
        for name in ("fcn_resnet50", "deeplabv3_mobilenet_v3_large", "lraspp_mobilenet_v3_large")
    },
    **{
        f"torchvision/{name}": Entry("torchvision", "detection", _detector_of_torchvision(name), _sized(128))
        for name in (
            "fasterrcnn_mobilenet_v3_large_320_fpn", "ssdlite320_mobilenet_v3_large", "retinanet_resnet50_fpn",
            "fcos_resnet50_fpn", "maskrcnn_resnet50_fpn", "keypointrcnn_resnet50_fpn",
        )
    },
    "torchvision/raft_small": Entry(
        "torchvision", "optical flow", _flow, {"left": (3, 128, 128), "right": (3, 128, 128)}
    ),
    **{
        f"torchvision/{name}": Entry("torchvision", "video", _of_torchvision(name), {"clip": (3, 8, 64, 64)})
        for name in ("r3d_18", "mc3_18", "r2plus1d_18")
    },
    **{f"timm/{name}": Entry("timm", "classification", _of_timm(name), _sized(side)) for name, side in TIMM.items()},
    **{
        f"smp/{name}": Entry("smp", "segmentation", _of_smp(name), _sized(128))
        for name in ("Unet", "FPN", "Linknet", "DeepLabV3Plus", "MAnet", "PAN", "PSPNet", "UPerNet", "UnetPlusPlus")
    },
    **{
        f"ultralytics/{name}": Entry("ultralytics", "detection", _of_ultralytics(name, kind), _sized(128))
        for name, kind in YOLO.items()
    },
    "ultralytics/how-to": Entry(
        "ultralytics", "detection", _of_page("ultralytics", {"best.pt": "yolov8n.yaml"}, "build()"), _sized(128)
    ),
    "torchvision/how-to": Entry(
        "torchvision", "detection",
        _of_page("torchvision-detector", RANDOM, "build()"),
        _sized(128),
    ),
    "transformers/detr": Entry(
        "transformers", "detection",
        _of_transformers("DetrForObjectDetection", "DetrConfig", _boxes, backbone_config=_last_of_resnet, **DETR),
        _sized(96),
    ),
    "transformers/conditional-detr": Entry(
        "transformers", "detection",
        _of_transformers("ConditionalDetrForObjectDetection", "ConditionalDetrConfig", _boxes,
                         backbone_config=_last_of_resnet, **DETR),
        _sized(96),
    ),
    "transformers/rt-detr": Entry(
        "transformers", "detection",
        _of_transformers("RTDetrForObjectDetection", "RTDetrConfig", _boxes, backbone_config=_rt_detr_resnet,
                         disable_custom_kernels=True, **RT_DETR),
        _sized(96),
    ),
    "transformers/rt-detr-v2": Entry(
        "transformers", "detection",
        _of_transformers("RTDetrV2ForObjectDetection", "RTDetrV2Config", _boxes, backbone_config=_rt_detr_resnet,
                         **RT_DETR),
        _sized(96),
    ),
    "transformers/yolos": Entry(
        "transformers", "detection",
        _of_transformers("YolosForObjectDetection", "YolosConfig", _boxes, image_size=[64, 64], num_labels=5,
                         num_detection_tokens=10, **TINY_VIT),
    ),
    "transformers/segformer": Entry(
        "transformers", "segmentation",
        _of_transformers("SegformerForSemanticSegmentation", "SegformerConfig", _field("logits"),
                         decoder_hidden_size=32, num_labels=5, **TWO_STAGES),
    ),
    "transformers/upernet": Entry(
        "transformers", "segmentation",
        _of_transformers("UperNetForSemanticSegmentation", "UperNetConfig", _field("logits"),
                         backbone_config=_resnet, hidden_size=32, num_labels=5, pool_scales=[1, 2],
                         use_auxiliary_head=False),
    ),
    "transformers/dpt": Entry(
        "transformers", "depth",
        _of_transformers("DPTForDepthEstimation", "DPTConfig", _field("predicted_depth"), image_size=64,
                         patch_size=16, backbone_out_indices=[0, 1, 2, 3], neck_hidden_sizes=[16, 16, 24, 24],
                         fusion_hidden_size=16, **(TINY_VIT | {"num_hidden_layers": 4})),
    ),
    "transformers/glpn": Entry(
        "transformers", "depth",
        _of_transformers("GLPNForDepthEstimation", "GLPNConfig", _field("predicted_depth"), decoder_hidden_size=16,
                         **TWO_STAGES),
    ),
    "transformers/depth-anything": Entry(
        "transformers", "depth",
        _of_transformers("DepthAnythingForDepthEstimation", "DepthAnythingConfig", _field("predicted_depth"),
                         backbone_config=_dinov2, patch_size=14, reassemble_hidden_size=48,
                         neck_hidden_sizes=[16, 16, 24, 24], fusion_hidden_size=16, head_hidden_size=8),
        _sized(56),
    ),
    "transformers/vitpose": Entry(
        "transformers", "pose",
        _of_transformers("VitPoseForPoseEstimation", "VitPoseConfig", _field("heatmaps"), backbone_config=_vit,
                         num_labels=17, use_simple_decoder=True),
        {"images": (3, 64, 48)},
    ),
    "transformers/swin2sr": Entry(
        "transformers", "super-resolution",
        _of_transformers("Swin2SRForImageSuperResolution", "Swin2SRConfig", _field("reconstruction"), image_size=32,
                         embed_dim=24, depths=[1], num_heads=[2], window_size=8, upscale=2),
        _sized(32),
    ),
    "transformers/dinov2": Entry(
        "transformers", "classification",
        _of_transformers("Dinov2ForImageClassification", "Dinov2Config", _field("logits"), image_size=56,
                         patch_size=14, num_labels=10, **{key: TINY_VIT[key] for key in tuple(TINY_VIT)[:3]}),
        _sized(56),
    ),
    "transformers/resnet": Entry(
        "transformers", "classification",
        _of_transformers("ResNetForImageClassification", "ResNetConfig", _field("logits"), embedding_size=16,
                         hidden_sizes=[16, 32], depths=[1, 1], num_labels=10),
    ),
    "transformers/clip-vision": Entry(
        "transformers", "embedding",
        _of_transformers("CLIPVisionModelWithProjection", "CLIPVisionConfig", _field("image_embeds"), image_size=64,
                         patch_size=16, projection_dim=32, **TINY_VIT),
    ),
    "transformers/videomae": Entry(
        "transformers", "video",
        _of_transformers("VideoMAEForVideoClassification", "VideoMAEConfig", _field("logits"), image_size=32,
                         patch_size=16, num_frames=4, num_labels=10, **TINY_VIT),
        {"clip": (4, 3, 32, 32)},
    ),
    "transformers/maskformer": Entry(
        "transformers", "masks",
        _of_transformers(
            "MaskFormerForInstanceSegmentation", "MaskFormerConfig",
            lambda inner, images: tuple(
                getattr(inner(pixel_values=images, return_dict=True), name)
                for name in ("class_queries_logits", "masks_queries_logits")
            ),
            backbone_config=_resnet, fpn_feature_size=32, mask_feature_size=32, num_labels=5,
            decoder_config=lambda transformers: transformers.DetrConfig(
                **(DETR | {"d_model": 32, "backbone_config": _last_of_resnet(transformers)})
            ),  # no backbone of its own: a missing one is looked up on the network
        ),
        _sized(96),
    ),
    "own/crnn-lstm": Entry("own", "recurrent", _recurrent("LSTM", bidirectional=True), {"images": (3, 32, 96)}),
    "own/crnn-gru": Entry("own", "recurrent", _recurrent("GRU", bidirectional=False), {"images": (3, 32, 96)}),
    "own/espcn": Entry("own", "super-resolution", lambda: _super_resolution()),
    "own/depth": Entry("own", "depth", lambda: _depth()),
}  # fmt: skip
CI = (
    "transformers/yolos", "transformers/segformer", "transformers/upernet", "transformers/glpn",
    "transformers/vitpose", "transformers/swin2sr", "transformers/dinov2", "transformers/resnet",
    "transformers/clip-vision", "transformers/videomae",
)  # fmt: skip
"""The ten that the tests take on every change: nothing but transformers is needed."""


def frames(entry: Entry, count: int) -> dict[str, np.ndarray]:
    """Real samples of every input, normalized: float32 [count, ...]."""
    made = {}
    for seed, (name, shape) in enumerate(entry.inputs.items()):
        channels = shape.index(3)
        height, width = shape[-2:]
        extra = int(np.prod(shape)) // (3 * height * width)
        source = crops(max(height, width), seed)
        pictures = np.stack([next(source)[:height, :width] for _ in range(count * extra)])
        scaled = (pictures.astype(np.float32) / np.float32(255) - np.float32(0.45)) / np.float32(0.225)
        stack = scaled.transpose(0, 3, 1, 2)  # [count * extra, 3, height, width]
        if len(shape) == 4:
            stack = stack.reshape(count, extra, 3, height, width)
            stack = stack.swapaxes(1, 2) if channels == 0 else stack
        made[name] = np.ascontiguousarray(stack)
    return made


def build(name: str) -> Any:
    """The network of that name in evaluation mode, its weights drawn with seed 0."""
    import torch

    torch.manual_seed(0)
    network = ZOO[name].build().eval()
    _settle(network, ZOO[name])
    return network


def _settle(network: Any, entry: Entry) -> None:
    """Give batch normalizations the statistics of real pictures, as training would: with those that they begin with,
    what a network of random weights computes dies out layer by layer, and its outputs say the same of every picture.

    A copy runs: a call would leave tensors of its shapes in networks that keep them.
    """
    import torch
    from torch.nn.modules.batchnorm import _BatchNorm

    twin = copy.deepcopy(network)
    norms = [part for part in twin.modules() if isinstance(part, _BatchNorm) and part.track_running_stats]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # the plain mean of what it sees
        norm.train()
    if norms:
        with torch.no_grad():
            twin(*(torch.from_numpy(array) for array in frames(entry, SETTLED).values()))
        network.load_state_dict(twin.state_dict())
