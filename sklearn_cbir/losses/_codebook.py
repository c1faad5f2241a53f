"""Losses on bits with one fixed code per class, chosen before training: ``loss(outputs, y)``."""

from math import comb
from typing import Literal, get_args

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F

from sklearn_cbir._typing import LastLayer, Sampling
from sklearn_cbir._validation import check_choice, check_real
from sklearn_cbir.losses._base import (
    Loss,
    check_is_set_up,
    class_targets,
    count_labels,
    full_precision,
    label_shares,
    on_labeled_rows,
    row_weights,
)

Quantization = Literal["square", "log_cosh"]

_MOST_BITS_LISTED = 16  # 65,536 codes; of longer ones a sample is drawn
_LEAST_DRAWN = 4096


def hash_centers(
    n_classes: int, n_bits: int, generator: torch.Generator | None = None
) -> torch.Tensor:
    """Draw one code per class, far from each other.

    If there is a Hadamard matrix that is large enough, the codes are its rows and
    their negatives: any two differ in half of the bits or in all. Else codes are
    picked one by one, each as far as possible from those before it: from all
    codes if they have up to 16 bits, else from random ones, with as many ones as
    zeros if there are enough of these.

    Parameters
    ----------
    n_classes : int
        Number of codes.

    n_bits : int
        Length of a code.

    generator : torch.Generator, default=None
        Source of randomness; None is torch's own.

    Returns
    -------
    tensor of shape (n_classes, n_bits), float32
        -1 and +1, no two rows equal.

    Raises
    ------
    ValueError
        If there are fewer codes of that length than classes.

    Examples
    --------
    >>> centers = hash_centers(10, 12)
    >>> distances = (12 - centers @ centers.T) / 2
    >>> distances.fill_diagonal_(12).min()
    tensor(6.)
    """
    if n_classes > 2**n_bits:
        raise ValueError(
            f"{n_bits} bits make {2**n_bits} codes, but there are {n_classes} classes, each with "
            f"a code of its own. Use n_bits={(n_classes - 1).bit_length()} or more."
        )
    hadamard = _hadamard(n_bits)
    if hadamard is None or n_classes > 2 * n_bits:
        return _spread_codes(n_classes, n_bits, generator)
    signs = 1.0 - 2.0 * (torch.rand(n_bits, 1, generator=generator) < 0.5).float()
    rows = signs * torch.from_numpy(hadamard)[torch.randperm(n_bits, generator=generator)]
    # The first n_bits rows are those of H in random order and sign, the others their negatives.
    return torch.cat([rows, -rows])[:n_classes]


def _hadamard(n: int) -> npt.NDArray[np.float32] | None:
    """Return a Hadamard matrix of Paley or Sylvester (n, n), or None where neither makes one."""
    if n in (1, 2):
        return np.array([[1, 1], [1, -1]], dtype=np.float32)[:n, :n]
    if n % 4:
        return None
    if all((n - 1) % divisor for divisor in range(2, int((n - 1) ** 0.5) + 1)):
        return _paley(n - 1)
    half = _hadamard(n // 2)
    return None if half is None else np.kron([[1, 1], [1, -1]], half).astype(np.float32)


def _paley(prime: int) -> npt.NDArray[np.float32]:
    """Return the matrix of the quadratic residues of a prime that is 3 modulo 4."""
    numbers = np.arange(prime)
    is_residue = np.isin(numbers, numbers[1:] ** 2 % prime)
    circulant = np.where(is_residue, 1, -1)[(numbers[None, :] - numbers[:, None]) % prime]
    matrix = np.ones((prime + 1, prime + 1), dtype=np.float32)
    matrix[1:, 1:] = circulant
    matrix[1:, 0] = -1
    matrix[1:, 1:][numbers, numbers] = 1
    return matrix


def _spread_codes(n_classes: int, n_bits: int, generator: torch.Generator | None) -> torch.Tensor:
    """Pick codes far from each other, one by one (n_classes, n_bits)."""
    pool = 2.0 * _pool_of_codes(n_classes, n_bits, generator) - 1
    chosen = [0]
    nearest = torch.full((len(pool),), torch.inf)
    for _ in range(n_classes - 1):
        nearest = torch.minimum(nearest, n_bits - pool @ pool[chosen[-1]])
        chosen.append(int(nearest.argmax()))
    return pool[chosen]


def _pool_of_codes(n_classes: int, n_bits: int, generator: torch.Generator | None) -> torch.Tensor:
    """Return at least `n_classes` codes of 0 and 1 in random order, no two of them equal."""
    n_drawn = max(2 * n_classes, _LEAST_DRAWN)
    if n_bits <= _MOST_BITS_LISTED:
        n_drawn = 2**n_bits
    elif comb(n_bits, n_bits // 2) >= 2 * n_drawn:
        pool = _half_ones(n_drawn, n_bits, generator)
        while len(pool) < n_classes:  # hardly ever: four fifths of the codes differ
            pool = _half_ones(n_drawn, n_bits, generator)
        return pool
    numbers = torch.randperm(2**n_bits, generator=generator)[:n_drawn]
    return numbers[:, None].bitwise_right_shift(torch.arange(n_bits)).bitwise_and(1)


def _half_ones(n_drawn: int, n_bits: int, generator: torch.Generator | None) -> torch.Tensor:
    """Draw codes with a random half of their bits 1, and drop those that came before."""
    order = torch.rand(n_drawn, n_bits, generator=generator).argsort(dim=1)
    codes = order < n_bits // 2
    first = np.unique(np.packbits(codes.numpy(), axis=1), axis=0, return_index=True)[1]
    return codes[np.sort(first)]


class _CodebookLoss(Loss):
    """One fixed code per class, drawn before training."""

    output: LastLayer = "bits"
    sampling: Sampling = "uniform"
    sample_weight = True
    centers: torch.Tensor | None

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("centers", None)

    def setup(
        self,
        *,
        n_outputs: int,
        y: npt.ArrayLike | torch.Tensor,
        generator: torch.Generator | None = None,
    ) -> None:
        """Draw the classes' codes."""
        self.centers = hash_centers(len(count_labels(y)), n_outputs, generator)


class CSQLoss(_CodebookLoss):
    """Central similarity quantization: outputs learn the code of a class [1]_.

    The binary cross entropy between the bits of a row's center and ``(1 +
    tanh(u)) / 2`` of its outputs u, plus a quantization term. The center of a
    row is the code of its class; with several labels, the majority of their
    codes, equation 2 of [1]_, and bits without a majority come from one random
    code. [1]_ takes Hadamard matrices if the length is a power of 2, else
    random centers; for the codes here see `hash_centers`.

    Parameters
    ----------
    quantization_weight : float, default=0.0001
        Weight of the quantization term. In the authors' code, the default is
        0.05; their commands have 0.05 for residual networks, 0.001, and 0.0001
        for AlexNet with 64 bits.

    quantization : {"square", "log_cosh"}, default="square"
        The mean of ``(abs(tanh(u)) - 1) ** 2``, as in the authors' code, or of
        ``log(cosh(abs(tanh(u)) - 1))``, as in [1]_. The authors' code can also
        add a likelihood of pairs, but their commands do not use it.

    Attributes
    ----------
    centers : tensor of shape (n_classes, n_bits)
        Codes of -1 and +1; made by `setup`.

    ties : tensor of shape (n_bits,)
        The random code, for bits without a majority.

    References
    ----------
    .. [1] L. Yuan, T. Wang, X. Zhang, F. E. H. Tay, Z. Jie, W. Liu, J. Feng.
       "Central similarity quantization for efficient image and video
       retrieval". CVPR 2020.

    Examples
    --------
    >>> import torch
    >>> loss = CSQLoss(quantization_weight=0)
    >>> loss.setup(n_outputs=2, y=torch.tensor([0, 1]))
    >>> round(loss(torch.zeros(1, 2), torch.tensor([0])).item(), 4)
    0.6931
    """

    ties: torch.Tensor | None

    quantization: Quantization = "square"

    def __init__(
        self, quantization_weight: float = 0.0001, quantization: Quantization = "square"
    ) -> None:
        super().__init__()
        self.quantization_weight: float = check_real(
            quantization_weight, "quantization_weight", minimum=0
        )
        self.quantization = check_choice(quantization, "quantization", get_args(Quantization))
        self.register_buffer("ties", None)

    def setup(
        self,
        *,
        n_outputs: int,
        y: npt.ArrayLike | torch.Tensor,
        generator: torch.Generator | None = None,
    ) -> None:
        """Draw the classes' codes, and one for bits without a majority."""
        super().setup(n_outputs=n_outputs, y=y, generator=generator)
        self.ties = 1.0 - 2.0 * (torch.rand(n_outputs, generator=generator) < 0.5).float()

    @on_labeled_rows
    def forward(
        self, outputs: torch.Tensor, y: torch.Tensor, *, sample_weight: torch.Tensor | None = None
    ) -> torch.Tensor:
        """Loss of outputs (n, n_bits)."""
        centers, ties = check_is_set_up(self, self.centers), check_is_set_up(self, self.ties)
        outputs = full_precision(outputs)
        weights = row_weights(sample_weight, outputs)
        labels = class_targets(y, len(centers), outputs.dtype)
        votes = labels @ centers.to(outputs.dtype)
        bits = torch.where(votes == 0, ties, votes) > 0  # (n, n_bits)
        # (1 + tanh(u)) / 2 is the sigmoid of 2 u.
        costs = F.binary_cross_entropy_with_logits(
            2 * outputs, bits.to(outputs.dtype), reduction="none"
        )
        errors = torch.tanh(outputs).abs() - 1
        quantized = errors.square() if self.quantization == "square" else errors.cosh().log()
        quantization = (weights * quantized).mean()
        return (weights * costs).mean() + self.quantization_weight * quantization


class OrthoHashLoss(_CodebookLoss):
    """One loss for all: make the cosine with the code of the right class the largest.

    Cross entropy of ``scale (cos(u, c) - margin t)`` for outputs u, the codes c
    of all classes and t = 1 for a row's own class, else 0: equation 6 of [1]_.
    Unlike in [1]_, the outputs are not batch-normalized, since bits here are the
    signs of the outputs themselves; see `hash_centers` for the codes. Each 0/1
    label of a row gets an equal share, as in [1]_.

    Parameters
    ----------
    scale : float, default=8.0
        Factor of the cosines.

    margin : float, default=0.2
        Amount by which the cosine with the right code must be larger. The
        authors' code has 0.2, and 0.3 for CIFAR-10.

    Attributes
    ----------
    centers : tensor of shape (n_classes, n_bits)
        Codes of -1 and +1; made by `setup`.

    References
    ----------
    .. [1] J. T. Hoe, K. W. Ng, T. Zhang, C. S. Chan, Y.-Z. Song, T. Xiang. "One
       loss for all: deep hashing with a single cosine similarity based
       learning objective". NeurIPS 2021.

    Examples
    --------
    >>> import torch
    >>> loss = OrthoHashLoss(margin=0)
    >>> loss.setup(n_outputs=2, y=torch.tensor([0, 1]))
    >>> round(loss(torch.zeros(1, 2), torch.tensor([0])).item(), 4)
    0.6931
    """

    def __init__(self, scale: float = 8.0, margin: float = 0.2) -> None:
        super().__init__()
        self.scale: float = check_real(scale, "scale", minimum=0)
        self.margin: float = check_real(margin, "margin", minimum=0)

    @on_labeled_rows
    def forward(
        self, outputs: torch.Tensor, y: torch.Tensor, *, sample_weight: torch.Tensor | None = None
    ) -> torch.Tensor:
        """Loss of outputs (n, n_bits)."""
        centers = check_is_set_up(self, self.centers)
        outputs = full_precision(outputs)
        n_classes, n_bits = centers.shape
        cosines = F.normalize(outputs, dim=1) @ centers.to(outputs.dtype).T / n_bits**0.5
        shares = label_shares(y, n_classes, outputs.dtype)
        margins = self.margin * (shares > 0).to(shares.dtype)
        weights = row_weights(sample_weight, outputs)
        return F.cross_entropy(self.scale * (cosines - margins), weights * shares)
