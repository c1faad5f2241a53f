"""A fit that goes on from a fitted network: what must be equal, and what it takes over."""

from itertools import zip_longest

import numpy as np
import torch
from torch import nn

from sklearn_cbir._hidden_state import hidden_state, set_hidden_state
from sklearn_cbir._labels import KINDS, comparable_labels
from sklearn_cbir._module_state import load_values
from sklearn_cbir._network import as_arrays, class_of, own_attributes
from sklearn_cbir._validation import shortened
from sklearn_cbir.backbones._rows import RowStatistics
from sklearn_cbir.images import Resizing

# What of a network's spec follows which parameter; file sizes and the like are in `reading`.
_PARAMETERS = {
    "unit_length": "normalize",
    "enhance": "enhance",
    "hash_layer": "hash_layer",
    "backbone": "backbone",
    "pooling": "pooling",
    "image_size": "image_size",
}
_READING = {"resize": "resize_size"} | {
    name: f"the {name} of the backbone" for name in ("resize_mode", "interpolation", "fill")
}


class Start:
    """The state of an earlier fit in an estimator, from which the next fit goes on."""

    def __init__(self, estimator):
        fitted = vars(estimator)
        self.name = type(estimator).__name__
        width = "n_bits" if hasattr(estimator, "n_bits") else "n_components"
        self.parameters = _PARAMETERS | {"n_components": width}
        self.network = estimator._fitted_network()
        self.reading = fitted["_network_state"]["reading"]
        self.classes = fitted["classes_"]
        self.history = fitted["history_"]
        self.n_features = fitted.get("n_features_in_")
        self.feature_names = fitted.get("feature_names_in_")
        self.image_shape = fitted.get("image_shape_")
        # Files of earlier versions lack it: parameters of the loss start anew, weights are read.
        kept = fitted.get("_training_state")
        self.trunk = (kept or {}).get("trunk")
        self.attributes = own_attributes(vars(estimator))
        self.loss = kept["loss"] if kept else None
        self.held_out = kept["held_out"] if kept else None
        self.has_columns = kept and self.held_out is None

    def key(self):
        """Return the state of the earlier fit, which checkpoints of the next depend on."""
        weights = self.network.state_dict()
        return [as_arrays(weights), self.loss, self.held_out, self.trunk]

    def check(self, data, y, classes, feature_names=None):
        """Raise unless the next fit has the same kind of data and the same classes."""
        is_rows = isinstance(data, np.ndarray)
        kinds = [f"{n} features" if n else "images" for n in (self.n_features, 0)]
        kinds[1] = f"{data.shape[1]} features" if is_rows else "images"
        if kinds[0] != kinds[1]:
            raise ValueError(self._differs("X", *kinds))
        old, new = self.feature_names, feature_names
        if old is not None and new is not None and not np.array_equal(old, new):
            raise ValueError(self._differs("the names of features", *_difference(old, new)))
        if not _are_equal(self.classes, classes):
            old, new = (shortened(labels.tolist()) for labels in (self.classes, classes))
            raise ValueError(self._differs("the classes in y", old, new))
        kinds = ["0/1 columns" if columns else "one label per row" for columns in (True, False)]
        if self.has_columns is not None and self.has_columns != (y.ndim == 2):
            raise ValueError(self._differs("y", *(kinds if self.has_columns else kinds[::-1])))

    def backbone_parameters(self, image_size):
        """Return parameters of the backbone to replace, so that nothing need be there any more.

        No weights are read, no name is looked up, and its size is as it was.
        """
        if self.trunk is None:
            return {}
        if image_size is None and self.trunk["image_size"] is None:
            image_size = self.network.trunk.spec["image_size"]
        source = self.network.trunk.spec.get("source")
        return {"weights": None, "image_size": image_size, "source": source}

    def row_statistics(self) -> RowStatistics:
        """Return means and standard deviations that the earlier fit scaled columns by."""
        spec = self.network.trunk.spec
        return {"mean": spec["mean"], "std": spec["std"]}

    def check_reading(self, source):
        """Raise unless images are read in the same size and way."""
        shape = source.images.image_shape
        new = {"size": source.size, "resize": source.resize, **vars(source.resizing)}
        old = self.reading | vars(Resizing.of(self.reading))  # files of earlier versions lack keys
        if old["size"] != new["size"]:
            sizes = [reading["size"] or "that of the arrays" for reading in (old, new)]
            raise ValueError(self._differs("the size of images", *sizes))
        for name, parameter in _READING.items():
            if old[name] != new[name]:
                raise ValueError(self._differs(parameter, old[name], new[name]))
        before, now = (None if some is None else some[:2] for some in (self.image_shape, shape))
        if old["size"] is None and before != now:
            raise ValueError(self._differs("the size of images", before, now))

    def carry_over(self, network, loss):
        """Load the weights, and all other trained values, into a new network and a new loss."""
        self._check_spec(network)
        state = self.network.state_dict()
        if _shapes(state) != _shapes(network.state_dict()):
            raise ValueError(self._differs("the backbone", "of other layers", "of these"))
        load_values(network, state)
        if self.trunk is not None and self.trunk["fresh_norms"] is not None:
            network.trunk.keep_statistics(self.trunk["fresh_norms"])
        for name in ("features", "pooling"):
            part = getattr(self.network.trunk, name, None)
            if isinstance(part, nn.Module):
                set_hidden_state(getattr(network.trunk, name), hidden_state(part))
        if self.loss is not None and self.loss["class"] == class_of(loss):
            state = {k: torch.from_numpy(np.array(v)) for k, v in self.loss["state"].items()}
            found = _shapes(state), _shapes(_learned(loss))
            if found[0] != found[1]:
                raise ValueError(self._differs("what the loss learns", *found))
            load_values(loss, state)

    def _check_spec(self, network):
        old, new = self.network.spec, network.spec
        for spec, other in ((old, new), (old["trunk"], new["trunk"])):
            for name, parameter in self.parameters.items():
                one, two = (_comparable(part.get(name)) for part in (spec, other))
                if one != two:
                    lines = (str(value).splitlines() for value in (one, two))
                    raise ValueError(self._differs(parameter, *_difference(*lines)))
        if self.trunk is not None:
            self._check_attributes(self.trunk["attributes"], self.attributes)
        for name in ("mean", "std"):
            if not np.array_equal(old["trunk"].get(name), new["trunk"].get(name)):
                raise ValueError(self._differs(name, old["trunk"][name], new["trunk"][name]))
        if old["n_classes"] != new["n_classes"]:
            ends = [f"{spec['n_classes'] or 'no'} class scores" for spec in (old, new)]
            raise ValueError(self._differs("what the loss takes", *ends))

    def _check_attributes(self, old, new):
        """Raise if an attribute of the user's modules, layers apart, was another before the fit."""
        for name in sorted(old.keys() | new.keys()):
            if old.get(name) != new.get(name):
                raise ValueError(self._differs(f"the attribute {name}", "one", "another"))

    def _differs(self, what, old, new):
        return (
            f"warm_start=True continues with the fitted network of this {self.name}, but {what} "
            f"differs: {old} then, {new} now. Keep it as it was, or use warm_start=False to "
            "train a new network."
        )

    def continued(self, history):
        """Return the history of all fits so far, its epochs numbered on."""
        done = len(self.history)
        return [*self.history, *(epoch | {"epoch": done + epoch["epoch"]} for epoch in history)]


def _difference(one, two):
    """Return the first lines, or names, of two lists that differ."""
    pairs = zip_longest(one, two, fillvalue="nothing")
    return next((a.strip()[:80], b.strip()[:80]) for a, b in pairs if a != b)


def _learned(loss):
    """Parameters and persistent buffers of a loss."""
    state = loss.state_dict() if isinstance(loss, nn.Module) else {}
    return {name: value for name, value in state.items() if torch.is_tensor(value)}


def _shapes(state):
    return {name: tuple(value.shape) for name, value in state.items() if torch.is_tensor(value)}


def _comparable(value):
    return repr(value) if isinstance(value, nn.Module) else value


def _are_equal(old, new):
    kinds = [KINDS.get(labels.dtype.kind, "text") for labels in (old, new)]
    return kinds[0] == kinds[1] and np.array_equal(*comparable_labels(old, new))
