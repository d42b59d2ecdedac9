"""Read trained weights from files that others made, without running anything in them."""

from __future__ import annotations

import pickle
import warnings
import zipfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor

from ddaudit.errors import BadInput
from ddaudit.models.arch import Arch
from ddaudit.models.building import build
from ddaudit.models.network import Network

# Where the released code of the DC family puts weights that we keep under another name.
_RENAMES: dict[str, dict[str, str]] = {
    "mlp": {"fc_1.": "features.1.", "fc_2.": "features.3.", "fc_3.": "classifier."},
    "lenet": {"fc_1.": "features.7.", "fc_2.": "features.9.", "fc_3.": "classifier."},
    "alexnet": {"fc.": "classifier."},
    "resnet18": {
        p: f"features.{p}" for p in ("conv1.", "bn1.", "layer1.", "layer2.", "layer3.", "layer4.")
    },
}
_ARCH = "ddaudit_arch"
_WRAPPERS = ("state_dict", "model_state_dict", "model", "net", "network")


def load_checkpoint(
    path: str | Path,
    *,
    arch: Arch,
    shape: tuple[int, int, int],
    num_classes: int,
    mean: Sequence[float],
    std: Sequence[float],
) -> Network:
    """A network with the weights of a ``.safetensors``, ``.pt`` or ``.pth`` file, in eval mode.

    Pickled files go through torch's restricted unpickler only (tensors and containers, no code).

    Args:
        path: the file; a state dict, or a dict that holds one under "state_dict", "model" or "net".
        arch: what the weights are for, unless the file says so itself (see :func:`save_checkpoint`). ``shape``
            (C, H, W), ``num_classes``, ``mean`` and ``std`` as for ``build``; the normalisation must be the one
            the weights were trained with.

    Raises:
        BadInput: missing, truncated, unsafe or foreign content, or weights of another architecture.
    """
    state, stated = _read(Path(path)), _stated_arch(Path(path))

    def filled(wanted: Arch) -> Network:
        network = build(wanted, shape=shape, num_classes=num_classes, seed=0, mean=mean, std=std)
        return load_state(network, state, where=path).eval()

    if stated:
        return filled(Arch.parse(stated))
    try:
        return filled(arch)
    except BadInput as error:
        fitting = [str(a) for a in candidates(state) if a != arch and _fits(filled, a)]
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
    from safetensors.torch import save_file

    state = {k: v.detach().cpu().contiguous().clone() for k, v in network.state_dict().items()}
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    save_file(state, path, metadata={_ARCH: str(network.arch)})


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


def load_state(
    network: Network, state: Mapping[str, Tensor], *, where: object = "state dict"
) -> Network:
    """Copy weights into ``network`` (in place; also returned).

    Accepts our own names, and the plain names of the DC / BEARD code family ("features.0.weight",
    "classifier.bias", "conv1.weight" of its ResNet18), with or without DataParallel's "module." in
    front. The network keeps its own Normalize constants unless the state carries them.

    Raises:
        BadInput: names or shapes do not fit, or weights are not finite numbers.
    """
    target = network.state_dict()
    given = {_own_name(key, network.arch.family): value for key, value in state.items()}
    carried = {k: v for k, v in target.items() if k.startswith("normalize.") and k not in given}
    missing = [
        k
        for k in target
        if k not in given and k not in carried and not k.endswith("num_batches_tracked")
    ]
    extra = [k for k in given if k not in target]
    fit = f"Is it a {network.arch} for {network.shape} images and {network.num_classes} classes?"
    if missing or extra:
        what = f"lacks {missing[0]!r}" if missing else f"has an unexpected {extra[0]!r}"
        raise BadInput(
            where, f"{what} ({len(missing)} missing, {len(extra)} unexpected weights)", fit
        )
    for key, value in given.items():
        if not isinstance(value, Tensor) or value.shape != target[key].shape:
            shape = tuple(value.shape) if isinstance(value, Tensor) else type(value).__name__
            raise BadInput(where, f"{key!r} is {shape}, expected {tuple(target[key].shape)}", fit)
        if value.is_complex() or value.is_quantized or value.layout != torch.strided:
            raise BadInput(
                where, f"{key!r} is not a plain real tensor ({value.dtype}, {value.layout})"
            )
        if not torch.isfinite(value).all():
            raise BadInput(where, f"{key!r} holds NaN or infinity", "Its training diverged.")
        if key == "normalize.std" and not (value > 0).all():
            raise BadInput(where, f"{key!r} is not positive")
    network.load_state_dict({**target, **{k: v.to(target[k].dtype) for k, v in given.items()}})
    return network


def _own_name(key: str, family: str) -> str:
    """Our name of a weight that may carry the field's."""
    key = str(key).removeprefix("module.")
    if key.startswith(("body.", "normalize.")):
        return key
    if family == "own":
        return f"body.module.{key}"
    for theirs, ours in _RENAMES.get(family, {}).items():
        if key.startswith(theirs):
            return f"body.{ours}{key[len(theirs) :]}"
    return f"body.{key}"


def _read(path: Path) -> Mapping[str, Tensor]:
    """The state dict in a file; every way a file can be wrong becomes one line."""
    if not path.is_file():
        raise BadInput(path, "no such checkpoint file")
    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            loaded: object = load_file(path, device="cpu")
        else:
            _refuse_compressed(path)
            with warnings.catch_warnings():
                # torch warns of pickle protocols that it then reads, or refuses, anyway.
                warnings.simplefilter("ignore")
                loaded = torch.load(path, map_location="cpu", weights_only=True)
    except BadInput:
        raise
    except pickle.UnpicklingError as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else "damaged pickle"
        unsafe = "weights only" in str(error).lower() or "unsupported" in str(error).lower()
        what = (
            "holds more than weights and is not opened"
            if unsafe
            else f"is not a readable checkpoint ({reason})"
        )
        raise BadInput(path, what, "Save a plain state dict, best as .safetensors.") from None
    except Exception as error:  # zip, safetensors and pickle readers raise a dozen unrelated types
        reason = (str(error).strip().splitlines() or [""])[0][:120]
        raise BadInput(
            path,
            f"is not a readable checkpoint ({type(error).__name__}: {reason})",
            "Is it truncated? Save a plain state dict, best as .safetensors.",
        ) from None
    return _unwrap(loaded, path)


def _unwrap(loaded: object, path: Path) -> Mapping[str, Tensor]:
    if isinstance(loaded, Mapping):
        for key in _WRAPPERS:
            if isinstance(loaded.get(key), Mapping):
                loaded = loaded[key]
                break
    if (
        not isinstance(loaded, Mapping)
        or not loaded
        or not all(isinstance(v, Tensor) for v in loaded.values())
    ):
        raise BadInput(path, "holds no state dict", "Expected a dict of weight names and tensors.")
    return loaded


def _refuse_compressed(path: Path) -> None:
    """torch.save stores plainly, so a compressed entry is foreign and may unpack to any size."""
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            if any(entry.compress_type != zipfile.ZIP_STORED for entry in archive.infolist()):
                raise BadInput(
                    path, "is a compressed archive, not a checkpoint", "Save it with torch.save."
                )
