"""Read trained weights from files that others made, without running anything in them."""

from __future__ import annotations

import pickle
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor

from ddaudit.containers import check_safetensors
from ddaudit.errors import BadInput
from ddaudit.files import afford, kind_of, write_bytes
from ddaudit.models.arch import Arch
from ddaudit.models.building import build
from ddaudit.models.layouts import TOP, Weights, find_weights, state_dicts
from ddaudit.models.network import Network
from ddaudit.unpickle import unpickle

_ARCH = "ddaudit_arch"


def load_checkpoint(
    path: str | Path,
    *,
    arch: Arch,
    shape: tuple[int, int, int],
    num_classes: int,
    mean: Sequence[float],
    std: Sequence[float],
    entry: str | None = None,
) -> Network:
    """A network with the weights of a ``.safetensors``, ``.pt`` or ``.pth`` file, in eval mode.

    Pickled files go through torch's restricted unpickler only (tensors and containers, no code).

    Args:
        path: the file. Weights may be nested and prefixed in any way, see :func:`ddaudit.models.layouts.find_weights`.
        arch: what the weights are for, unless the file says so itself (see :func:`save_checkpoint`). ``shape``
            (C, H, W), ``num_classes``, ``mean`` and ``std`` as for ``build``; the normalisation must be the one
            the weights were trained with.
        entry: which weights, where the file holds several that fit, such as plain and averaged ones.

    Raises:
        BadInput: missing, truncated, unsafe or foreign content, weights of another architecture, or several of this one
            and no ``entry``.
    """
    content, stated = read_weights(Path(path)), _stated_arch(Path(path))

    def filled(wanted: Arch) -> Network:
        network = build(wanted, shape=shape, num_classes=num_classes, seed=0, mean=mean, std=std)
        return load_state(network, content, where=path, entry=entry).eval()

    if stated:
        return filled(_believed(stated, arch, Path(path)))
    try:
        return filled(arch)
    except BadInput as error:
        others = [a for state in state_dicts(content) for a in candidates(state) if a != arch]
        fitting = [str(a) for a in dict.fromkeys(others) if _fits(filled, a)]
        if not fitting:
            raise
        what = f"does not fit {arch} ({error.what})"
        todo = (
            f"Its weights fit --arch {' or '.join(fitting)}; activation and pooling leave no trace in them and "
            "must be those of its training."
        )
        raise BadInput(path, what, todo) from None


def save_checkpoint(path: str | Path, network: Network) -> None:
    """Write a network's weights and normalisation as safetensors, with the name of its architecture."""
    from safetensors.torch import save as to_bytes

    state = {k: v.detach().cpu().contiguous().clone() for k, v in network.state_dict().items()}
    write_bytes(path, to_bytes(state, metadata={_ARCH: str(network.arch)}))


def candidates(state: Mapping[str, Tensor]) -> list[Arch]:
    """The architectures of the field that a state dict may belong to, by its convolutions and their width."""
    maps = [v for k, v in state.items() if k.endswith("weight") and v.ndim == 4]
    norms: tuple[str, ...] = ("instance", "batch", "layer", "group", "none")
    found = [Arch("mlp"), Arch("lenet"), Arch("alexnet")]
    if maps:
        width = int(maps[0].shape[0])
        norms = norms if width % 4 == 0 else tuple(n for n in norms if n != "group")
        found = [Arch(depth=min(len(maps), 8), width=width, norm=norm) for norm in norms] + found
        found += [Arch(f, norm=n) for f in ("vgg11", "resnet18") for n in ("instance", "batch")]
    return found


def _fits(filled: Callable[[Arch], Network], arch: Arch) -> bool:
    try:
        filled(arch)
    except BadInput:
        return False
    return True


def _stated_arch(path: Path) -> str | None:
    """The architecture that a file of ours names."""
    if path.suffix != ".safetensors":
        return None
    from safetensors import safe_open

    with safe_open(path, framework="pt") as file:
        return dict(file.metadata() or {}).get(_ARCH)


def _believed(stated: str, arch: Arch, path: Path) -> Arch:
    """The architecture that a file names. Code is run only where the user named it, and nothing huge is built.

    Raises:
        BadInput: it names code that the user did not, or a network far larger than a file may be.
    """
    if ".py:" in stated:
        own = stated.rpartition("@")[0] or stated
        if own != arch.own:
            what = f"holds weights of an architecture of somebody's own ({stated})"
            raise BadInput(path, what, f"Where you trust that code: --arch {own}.")
        return arch
    try:
        named = Arch.parse(stated)
    except BadInput as error:
        what = f"was saved as '{stated}' ({error.what})"
        todo = "Is it of a newer ddaudit, or of a package that is not installed?"
        raise BadInput(path, what, todo) from None
    if named.family in ("convnet", "mlp"):
        afford(path, 36 * named.width * (named.width * (named.depth - 1) + 3), "weights")
    return named


def load_state(
    network: Network, state: object, *, where: object = "state dict", entry: str | None = None
) -> Network:
    """Copy weights into ``network`` (in place; also returned).

    Args:
        state: a state dict, or containers that hold one, as :func:`ddaudit.models.layouts.find_weights` reads them. The
            network keeps its own Normalize constants unless the state carries them.
        entry: which weights, where there are several. ``network.origin`` says what was taken.

    Raises:
        BadInput: names or shapes do not fit, there are several that do, or weights are integers or not finite.
    """
    target = network.state_dict()
    fit = f"Is it a {network.arch} for {network.shape} images and {network.num_classes} classes? --arch names another."
    found = find_weights(
        state, target, family=network.arch.family, entry=entry, where=where, fit=fit
    )
    for key, value in found.tensors.items():
        if value.is_complex() or value.is_quantized or value.layout != torch.strided:
            raise BadInput(
                where, f"{key!r} is not a plain real tensor ({value.dtype}, {value.layout})"
            )
        if value.is_meta:
            raise BadInput(where, f"{key!r} holds no numbers (it was saved from the meta device)")
        if target[key].is_floating_point() and not value.is_floating_point():
            kind = str(value.dtype).removeprefix("torch.")
            what = f"{key!r} holds integers ({kind}): quantised weights are not read"
            raise BadInput(where, what, "Save them in floating point.")
        wide = value.float()  # PyTorch computes nothing with float8 and unsigned types
        if not torch.isfinite(wide).all():
            raise BadInput(where, f"{key!r} holds NaN or infinity", "Its training diverged.")
        if key == "normalize.std" and not (wide > 0).all():
            raise BadInput(where, f"{key!r} is not positive")
    cast = {k: v.to(target[k].dtype) for k, v in found.tensors.items()}
    network.load_state_dict({**target, **cast})
    network.origin = _origin(found)
    return network


def _origin(found: Weights) -> str | None:
    """What was taken of a file, where that has to be said."""
    said = []
    if found.entry != TOP:
        left = f", not {', '.join(found.others[:3])}" if found.others else ""
        said.append(f"the weights are the file's entry '{found.entry}'{left}")
    if found.normalisation:
        said.append(f"pixels are normalised by the file's {found.normalisation}")
    return "; ".join(said) or None


def read_weights(path: Path) -> object:
    """What a file holds; every way a file can be wrong becomes one line."""
    if kind_of(path) is None:
        raise BadInput(path, "no such checkpoint file")
    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            check_safetensors(path)
            return load_file(path, device="cpu")
        return unpickle(path)
    except BadInput:
        raise
    except pickle.UnpicklingError as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else "damaged pickle"
        code = re.search(r"GLOBAL (\S+)", str(error))
        unsafe = "weights only" in str(error).lower() or "unsupported" in str(error).lower()
        what = (
            f"holds more than weights{f' ({code.group(1)})' if code else ''} and is not opened"
            if unsafe
            else f"is not a readable checkpoint ({reason})"
        )
        raise BadInput(
            path, what, "Save its weights alone: torch.save(model.state_dict(), FILE)."
        ) from None
    except Exception as error:  # zip, safetensors and pickle readers raise a dozen unrelated types
        reason = (str(error).strip().splitlines() or [""])[0][:120]
        raise BadInput(
            path,
            f"is not a readable checkpoint ({type(error).__name__}: {reason})",
            "Is it truncated? Save a plain state dict, best as .safetensors.",
        ) from None
