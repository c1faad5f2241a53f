"""The choice of a runtime, as the estimators that have a network make it."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any, Self, cast, get_args

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.utils.validation import check_is_fitted

from sklearn_cbir._batches import ArraySource, ImageSource
from sklearn_cbir._devices import resolve_device
from sklearn_cbir._network import Embedder, MultiScale, Network
from sklearn_cbir._runtimes._computed import (
    Computed,
    cannot_be_converted,
    is_enough,
    usable,
    warn_once,
)
from sklearn_cbir._typing import Runtime
from sklearn_cbir._validation import check_choice

if TYPE_CHECKING:
    from sklearn_cbir._runtimes._computed import Used

# What is asked for, and for how many images in all a choice was made.
STATE = {"runtime", "_n_settled"}
check_runtime = partial(check_choice, options=get_args(Runtime))


class ByRuntime:
    """Mixin of estimators that can use one of several runtimes for their vectors."""

    runtime: Runtime = "auto"  # files of earlier versions lack it
    device: str | torch.device
    image_shape_: tuple[int, ...] | None
    _network_state: dict[str, Any]

    def _infer(self, network: Embedder, source: ArraySource | ImageSource) -> NDArray[np.float32]:
        """Return the vectors that `network` makes, batch by batch."""
        raise NotImplementedError

    def _seen(self, network: Network, source: ArraySource | ImageSource) -> Network | MultiScale:
        """Return what makes the vectors that `transform` gives."""
        return network

    @property
    def runtime_(self) -> Used:
        """The runtime in use here; "torch" after a conversion of the network has failed."""
        check_is_fitted(self)
        network = vars(self).get("_network")
        if network is not None and cannot_be_converted(network):
            return "torch"
        return self._runtime_here()[0]

    def _usable_runtime(self, network: Network) -> Used:
        """Return the runtime in use here; warn if it is not the requested one."""
        runtime, reason = self._runtime_here()
        if reason is not None and self.runtime == "openvino":
            if "_n_settled" in vars(self):
                raise ImportError(f"Other workers compute with OpenVINO, but here {reason}.")
            warn_once(network, f"runtime='openvino': {reason}. torch computes instead.")
        return runtime

    def _vectors(self, network: Network, source: ArraySource | ImageSource) -> NDArray[np.float32]:
        """Return the vectors of images or rows, by the runtime that is used here."""
        seen = self._seen(network, source)
        if isinstance(source, ArraySource) or resolve_device(self.device).type != "cpu":
            return self._infer(seen, source)
        computed = Computed(
            seen, self._usable_runtime(network), self.runtime == "auto", len(source)
        )
        vectors = self._infer(computed, source)
        if computed.failed is not None and self.runtime == "openvino":
            warn_once(
                network,
                f"runtime='openvino': the network cannot be converted ({computed.failed}). "
                "torch computes instead. Use runtime='torch'.",
            )
        return vectors

    def _runtime_here(self) -> tuple[Used, str | None]:
        """Return the runtime in use here, and why it is not the requested one."""
        spec = self._network_state["spec"]["trunk"]
        return usable(self.runtime, spec, resolve_device(self.device))

    def _settled(self, n_images: int) -> Self:
        """Return this with the runtime for so many images, however many of them come at once."""
        settled = type(self).__new__(type(self))
        vars(settled).update(vars(self), _n_settled=n_images)
        if self.runtime == "auto":
            settled.runtime = self._runtime_here()[0]
            if settled.runtime == "openvino" and not is_enough(n_images, self._size()):
                settled.runtime = "torch"
        return settled

    def _size(self) -> tuple[int, ...]:
        """Return height and width of the images that the network was fitted on."""
        size = self._network_state["reading"]["size"]
        if size is None:
            return cast("tuple[int, ...]", self.image_shape_)[:2]
        return size if isinstance(size, tuple) else (size, size)

    def _in_result(self, state: dict[str, Any]) -> dict[str, Any]:
        """Return the part of a state on which results depend, with the runtime in use here."""
        state = {name: value for name, value in state.items() if name not in STATE}
        return state | {"runtime": self._runtime_here()[0]}
