"""The encoders of the table, and where their weights are."""

from dataclasses import dataclass
from pathlib import Path

import joblib

from _data import find_weights


@dataclass(frozen=True)
class Encoder:
    """A pretrained network by name, the size that it sees, and the licence of its weights.

    `tag` are the weights of open_clip that are meant, and `licence` is that of the page that
    publishes them; timm states the licence of its own.
    """

    backbone: str
    image_size: int = 224  # px
    tag: str | None = None
    licence: str | None = None

    def weights(self, folder, download):
        """Return the file in `folder`, else a word that fetches what is published, else None."""
        file = find_weights(folder, self.backbone)
        if file is not None:
            return str(file)
        return (self.tag or "pretrained") if download else None


# What people ask for by name today: small ones first, then those without labels, then with words.
ENCODERS = (
    Encoder("squeezenet1_0"),
    Encoder("mobilenet_v2"),
    Encoder("resnet50"),
    Encoder("timm/tf_efficientnet_lite0.in1k"),
    Encoder("timm/tf_efficientnet_lite2.in1k", 260),
    Encoder("timm/mobilenetv4_conv_medium.e500_r256_in1k", 256),
    Encoder("timm/convnextv2_tiny.fcmae_ft_in22k_in1k"),
    Encoder("timm/vit_small_patch14_reg4_dinov2.lvd142m"),  # of 518 px, as are all of DINOv2
    Encoder("timm/vit_base_patch14_reg4_dinov2.lvd142m"),
    Encoder("timm/convnext_tiny.dinov3_lvd1689m"),
    Encoder("timm/vit_small_patch16_dinov3.lvd1689m", 256),
    Encoder("timm/vit_base_patch16_dinov3.lvd1689m", 256),
    Encoder("open_clip/MobileCLIP2-S0", 256, "dfndr2b", "apple-amlr"),
    Encoder("open_clip/ViT-B-32", 224, "datacomp_xl_s13b_b90k", "mit"),
    Encoder("open_clip/ViT-B-16-SigLIP2", 224, "webli", "apache-2.0"),
    Encoder("open_clip/PE-Core-B-16", 224, "meta", "apache-2.0"),
)


def chosen(names):
    """Return the encoders of these names, the whole list for None; others are seen at 224 px."""
    if names is None:
        return ENCODERS
    known = {encoder.backbone: encoder for encoder in ENCODERS}
    return [known.get(name, Encoder(name)) for name in names]


def of_encoder(encoder, weights):
    """Return, as plain values, which encoder it is."""
    content = joblib.hash(Path(weights).read_bytes())[:8] if Path(weights).is_file() else weights
    return {"backbone": encoder.backbone, "image_size": encoder.image_size, "weights": content}
