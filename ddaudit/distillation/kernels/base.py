"""Kernels of images as parts of a recipe: an embedding, a Gram matrix, and gradients per record.

A kernel reads no data set, so it is public in a private method: it is fixed, or as public as the networks it is on.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, Literal, Protocol

import torch
from torch import Tensor

from ddaudit.distillation.kernels.ntk import dense_ntk
from ddaudit.distillation.kernels.ridge import Pull
from ddaudit.distillation.kernels.scattering import scatter, standardise_groups
from ddaudit.errors import DDAuditError
from ddaudit.models import Network


class Kernel(Protocol):
    """A kernel between images; a frozen dataclass."""

    __dataclass_fields__: ClassVar[dict[str, Any]]

    @property
    def costly(self) -> bool:
        """True when embeddings are worth remembering."""

    def embed(self, x: Tensor) -> Tensor:
        """(N, F) what the kernel sees of images x (N, C, H, W), differentiable."""

    def gram(self, a: Tensor, b: Tensor) -> Tensor:
        """(..., N, M) kernel between embedded images (..., N, F) and (..., M, F), differentiable."""

    def pulls(self, z: Tensor, support: Tensor, pull: Pull) -> Tensor:
        """(B, M, F) gradient of every record's loss in the embedded support set.

        Args:
            z: (B, F) embedded records.
            support: (M, F) embedded support set.
            pull: how each record's loss depends on the kernel values.
        """

    def pixel_pulls(self, images: Tensor, z: Tensor, support: Tensor, pull: Pull) -> Tensor:
        """(B, M, P) the same gradients in the pixels of the support images (M, C, H, W)."""


@dataclass(frozen=True)
class DenseNTK:
    """The tangent kernel of an infinitely wide fully connected ReLU network.

    Attributes:
        depth: hidden layers.
        w_std, b_std: standard deviations of weights and biases.

    Source: see :mod:`ddaudit.distillation.kernels.ntk`.
    """

    depth: int = 1
    w_std: float = 2**0.5
    b_std: float = 0.1

    def __post_init__(self) -> None:
        if self.depth < 1 or not self.w_std > 0 or not self.b_std > 0:
            # Without biases a blank image has no angle to others, and no derivative.
            raise ValueError("depth must be at least 1, w_std and b_std positive")

    @property
    def costly(self) -> bool:
        """Pixels are at hand."""
        return False

    def embed(self, x: Tensor) -> Tensor:
        """Flattened pixels."""
        return x.flatten(1)

    def gram(self, a: Tensor, b: Tensor) -> Tensor:
        """(..., N, M) tangent kernels."""
        d = a.shape[-1]
        left, right = a.square().sum(-1) / d, b.square().sum(-1) / d
        return self._of(a @ b.mT / d, left[..., :, None], right[..., None, :])

    def pulls(self, z: Tensor, support: Tensor, pull: Pull) -> Tensor:
        """(B, M, F): the kernel depends on inner products and norms, so slopes are combinations of images."""
        inner, norm = self._slopes(z, support)
        out = inner[..., None] * z[:, None] + 2 * norm[..., None] * support
        out *= pull.a[..., None]
        inner, norm = self._slopes(support, support)
        m, f = support.shape
        for part in torch.arange(m, device=z.device).split(max(1, _FLOATS // (m * f))):
            # Slope of k(s_n, s_m) in s_m, at [m, n].
            slopes = inner.mT[part][..., None] * support
            slopes += 2 * norm.mT[part][..., None] * support[part][:, None]
            out[:, part] -= _system(slopes, part, pull)
        return out / f

    def pixel_pulls(self, images: Tensor, z: Tensor, support: Tensor, pull: Pull) -> Tensor:
        """The embedding is the pixels."""
        return self.pulls(z, support, pull)

    def _of(self, inner: Tensor, left: Tensor, right: Tensor) -> Tensor:
        return dense_ntk(inner, left, right, depth=self.depth, w_std=self.w_std, b_std=self.b_std)

    def _slopes(self, a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
        """(N, M) derivatives of k(a_n, b_m) in their inner product / d and in |b_m|^2 / d."""
        d = a.shape[1]
        with torch.enable_grad():
            inner = (a @ b.T / d).detach().requires_grad_(True)
            left = (a.square().sum(1) / d).detach()[:, None]
            right = (b.square().sum(1) / d).detach().expand_as(inner).clone().requires_grad_(True)
            first, second = torch.autograd.grad(self._of(inner, left, right).sum(), (inner, right))
        return first, second


class _Linear:
    """A kernel that is the inner product of embeddings; subclasses say which."""

    def embed(self, x: Tensor) -> Tensor:
        """(N, F) what the kernel sees of images x (N, C, H, W), differentiable."""
        raise NotImplementedError

    def gram(self, a: Tensor, b: Tensor) -> Tensor:
        """(..., N, M) inner products. Constant factors would cancel: the ridge is relative."""
        return a @ b.mT

    def pulls(self, z: Tensor, support: Tensor, pull: Pull) -> Tensor:
        """(B, M, F): of low rank, because the slope of <s_m, s_n> in s_m does not depend on s_m."""
        a, b = pull.a, pull.b
        out = torch.einsum("bm,bf->bmf", a, z - b @ support)
        out -= torch.einsum("bm,bf->bmf", b, a @ support)
        out -= _ridge(pull)[:, None, None] * support
        return out

    def pixel_pulls(self, images: Tensor, z: Tensor, support: Tensor, pull: Pull) -> Tensor:
        """(B, M, P): every support image's pulls times its own Jacobian, one image after the other."""
        a, b, ridge = pull.a, pull.b, _ridge(pull)[:, None]
        out = z.new_empty(len(z), len(images), images[0].numel())
        for m, image in enumerate(images):
            jacobian = self.jacobian(image)
            zj, sj = z @ jacobian, support @ jacobian
            out[:, m] = a[:, m, None] * (zj - b @ sj) - b[:, m, None] * (a @ sj) - ridge * sj[m]
        return out

    def jacobian(self, image: Tensor) -> Tensor:
        """(F, P) derivative of an image's features (C, H, W) in its pixels: public, one per support image.

        A tangent per pixel is pushed forward: pixels are fewer than features.
        """

        def features(x: Tensor) -> Tensor:
            return self.embed(x[None])[0]

        def push(tangent: Tensor) -> Tensor:
            pushed: Tensor = torch.func.jvp(features, (image,), (tangent,))[1]
            return pushed

        image = image.detach()
        tangents = torch.eye(image.numel(), dtype=image.dtype, device=image.device)
        rows: Tensor = torch.func.vmap(push, chunk_size=_TANGENTS)(tangents.view(-1, *image.shape))
        return rows.T


@dataclass(frozen=True)
class Scattering(_Linear):
    """The inner product of scattering features ("ScatterNet").

    Attributes:
        scales, angles: of the scattering transform; 2 scales and 8 angles give 81 paths per channel. They fit
            8x8 images too (2x2 positions).
        standardise: groups of three paths to mean 0 and variance 1 at each position: "grey" for images of one
            channel, as DP-KIP's code does, "always" or "never".
        unit_norm: divide every image's features by their norm.

    Source: DP-KIP, TMLR 2024, arXiv 2301.13389, and its released code.
    """

    scales: int = 2
    angles: int = 8
    standardise: Literal["grey", "always", "never"] = "grey"
    unit_norm: bool = False

    def __post_init__(self) -> None:
        if self.scales < 1 or self.angles < 1:
            raise ValueError("scales and angles must be at least 1")
        if self.standardise not in ("grey", "always", "never"):
            raise ValueError(
                f"standardise is 'grey', 'always' or 'never', not '{self.standardise}'"
            )

    @property
    def costly(self) -> bool:
        """A hundred Fourier transforms per image."""
        return True

    def embed(self, x: Tensor) -> Tensor:
        """(N, F) scattering features."""
        z = scatter(x, scales=self.scales, angles=self.angles)
        if self.standardise == "always" or (self.standardise == "grey" and x.shape[1] == 1):
            z = standardise_groups(z)
        z = z.flatten(1)
        return z / z.norm(dim=1, keepdim=True).clamp_min(1e-12) if self.unit_norm else z


@dataclass(frozen=True)
class NetworkFeatures(_Linear):
    """The inner product of network embeddings: on each step's networks, of a recipe with networks.

    Attributes:
        models: networks of a step. On random ones whose weights have variance 2 / inputs, the kernel (times 2, plus
            ``bias``) goes to that of the Gaussian process which such networks are at infinite width.
        bias: added to the kernel.
        nets: the networks at hand; filled by :meth:`on`.

    Source: Zhou, Nezhadarya & Ba (FRePo), NeurIPS 2022, arXiv 2206.00719, section 3.1 (one trained network); Loo et
    al. (RFAD), NeurIPS 2022, arXiv 2210.12067, section 3.1 (8 random ones, bias 0.01).
    """

    models: int = 1
    bias: float = 0.0
    nets: tuple[Network, ...] = field(default=(), repr=False, compare=False)

    def __post_init__(self) -> None:
        if self.models < 1 or not self.bias >= 0:
            raise ValueError("kernel.models must be at least 1 and kernel.bias at least 0")

    @property
    def costly(self) -> bool:
        """The next step has other networks."""
        return False

    def on(self, *nets: Network) -> NetworkFeatures:
        """This kernel on networks."""
        return replace(self, nets=nets)

    def embed(self, x: Tensor) -> Tensor:
        """(N, F) embeddings.

        Raises:
            DDAuditError: there is no network.
        """
        if not self.nets:
            raise DDAuditError("kernel: network features without a network")
        if len(self.nets) == 1 and self.bias == 0:
            features: Tensor = self.nets[0].body.features(x)
            return features
        parts = [net.body.features(x) for net in self.nets]
        size = sum(part.shape[1] for part in parts)
        constant = x.new_full((len(x), 1), self.bias**0.5)
        return torch.cat([*(part * (2 / size) ** 0.5 for part in parts), constant], 1)


_TANGENTS = 64
"""Pixels differentiated at once: blocks that fit the cache."""
_FLOATS = 2**24
"""Slopes held at once (64 MiB)."""


def _ridge(pull: Pull) -> Tensor:
    """(B,) weight of the trace in every record's pull: twice, because both arguments of k(s_m, s_m) move."""
    return 2 * pull.reg / pull.a.shape[1] * (pull.a * pull.b).sum(1)


def _system(slopes: Tensor, part: Tensor, pull: Pull) -> Tensor:
    """(B, P, F) gradient of sum_mn a_m b_n Kr_mn in the support images at ``part`` (P,).

    ``slopes`` (P, M, F) holds d k(s_n, s_m) / d s_m at [m, n], m over ``part`` and n over all.
    """
    p, m, f = slopes.shape
    a, b = pull.a, pull.b
    # For every m: sum_n b_n slopes[m, n], as one matrix product.
    wide = slopes.permute(1, 0, 2).reshape(m, p * f)
    by_b, by_a = (b @ wide).view(-1, p, f), (a @ wide).view(-1, p, f)
    own = slopes[torch.arange(p), part]
    ridge = _ridge(pull)
    return a[:, part, None] * by_b + b[:, part, None] * by_a + ridge[:, None, None] * own


__all__ = ["DenseNTK", "Kernel", "NetworkFeatures", "Scattering"]
