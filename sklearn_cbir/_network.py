"""The network of an estimator: trunk, neck and classifier."""

import torch
from torch import nn
from torch.nn import functional


class Network(nn.Module):
    """Trunk, a linear neck that makes the vector, and a classifier for losses that need one."""

    def __init__(self, trunk, n_components=None, n_classes=None, unit_length=False):
        super().__init__()
        self.trunk = trunk
        self.width = n_components or trunk.width
        self.neck = nn.Linear(trunk.width, n_components) if n_components else nn.Identity()
        self.classifier = nn.Linear(self.width, n_classes) if n_classes else None
        self.unit_length = unit_length
        self.trunk_is_frozen = False

    @property
    def spec(self):
        """Plain values to build it again, without weights."""
        return {
            "trunk": self.trunk.spec,
            "n_components": self.width if isinstance(self.neck, nn.Linear) else None,
            "n_classes": self.classifier.out_features if self.classifier else None,
            "unit_length": self.unit_length,
        }

    def head_parameters(self):
        """Return the named parameters that do not belong to the trunk."""
        return [(n, p) for n, p in self.named_parameters() if not n.startswith("trunk.")]

    def freeze_trunk(self, frozen):
        """Train the head alone, with the trunk in eval mode, or everything."""
        self.trunk_is_frozen = frozen

    def train(self, mode=True):
        """Set the mode; a frozen trunk stays in eval mode."""
        super().train(mode)
        if self.trunk_is_frozen:
            self.trunk.eval()
        return self

    def vectors(self, x):
        """Return what the neck gives, (n, width), of any length."""
        with torch.set_grad_enabled(torch.is_grad_enabled() and not self.trunk_is_frozen):
            features = self.trunk(x)
        return self.neck(features)

    def embed(self, x):
        """Return the vector that `transform` gives, (n, width)."""
        vectors = self.vectors(x)
        return functional.normalize(vectors) if self.unit_length else vectors

    def forward(self, x):
        """Return what the loss takes: class scores, or the vectors that `transform` gives."""
        return self.embed(x) if self.classifier is None else self.classifier(self.vectors(x))


class PassRows(nn.Module):
    """Feature rows as they are: the trunk of an estimator that trains nothing."""

    image_size = None

    def __init__(self, n_features):
        super().__init__()
        self.width = n_features
        self.spec = {"n_features": n_features}

    def forward(self, x):
        return x
