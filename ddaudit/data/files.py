"""Data sets from the user's own files: folders of pictures and MedMNIST archives."""

from __future__ import annotations

import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from ddaudit.containers import open_zip, read_npy
from ddaudit.data._types import Dataset, ImageData
from ddaudit.data.classes import MOST_CLASSES, class_order, spelled
from ddaudit.data.decode import decode_images, index_classes
from ddaudit.data.groups import groups_of, read_group_table, with_groups
from ddaudit.data.names import numbered
from ddaudit.data.registry import Request, dataset
from ddaudit.data.spec import Option
from ddaudit.data.splits import VALIDATION, channel_statistics, copies, empty_like, with_validation
from ddaudit.errors import BadInput
from ddaudit.files import afford, files_below, is_hidden

PICTURES = (".png", ".jpg", ".jpeg", ".bmp", ".webp", ".gif", ".tif", ".tiff")

SIZE = Option("size", 0, "side length to resize to; 0 keeps the stored size", low=0, high=1024)

STATISTICS_NOTE = (
    "Normalisation constants were computed from the training images of this data set; a privacy "
    "claim has to count them as public or account for them."
)


@dataset(
    "medmnist",
    "a MedMNIST .npz file (2-D, one label per image); uses its own validation split",
    options=(Option("file", "", "the .npz file, or its name below the data root", required=True),),
)
def medmnist(request: Request) -> Dataset:
    """Read ``{train,val,test}_{images,labels}`` from an npz file; pickled arrays are refused."""
    written = request.text("file")
    get = "Download the .npz file from medmnist.com and give its path, or put it at ROOT/medmnist/."
    named = written if written.endswith(".npz") else f"{written}.npz"
    file = request.user_path(named, get=get, below=(".", "medmnist"))
    arrays = _read_npz(file)
    pairs = {
        split: _checked_pair(
            arrays[f"{split}_images"], arrays[f"{split}_labels"], where=f"{file}: {split}"
        )
        for split in ("train", "val", "test")
    }
    class_names = numbered(1 + max(int(labels.max()) for _, labels in pairs.values()))
    splits = {
        split: ImageData(images=images, labels=labels, class_names=class_names)
        for split, (images, labels) in pairs.items()
    }
    channels = splits["train"].shape[0]
    return Dataset(
        name=request.name,
        train=splits["train"],
        validation=splits["val"],
        test=splits["test"],
        # MedMNIST's own benchmark code normalises with 0.5.
        mean=(0.5,) * channels,
        std=(0.5,) * channels,
    )


@dataset(
    "image-folder",
    "folders of pictures: train/CLASS/*.png, test/CLASS/*.png and, if there, val/CLASS/*.png",
    options=(
        Option("path", "", "the folder", required=True),
        Option("groups", "", "CSV or parquet table of file and group: the protected attribute"),
        SIZE,
        VALIDATION,
    ),
)
def image_folder(request: Request) -> Dataset:
    """Read a folder per split and class.

    Classes are the folders of train that hold pictures, in the order of ``class_order``: numbers by value, other
    names as text. Hidden folders and folders without pictures are no classes.
    """
    root = request.user_path(
        request.text("path"), get="Give a folder that holds train/CLASS/ and test/CLASS/."
    )
    for needed in ("train", "test"):
        if not (root / needed).is_dir():
            todo = "The layout is train/CLASS/*.png and test/CLASS/*.png."
            raise BadInput(root, f"has no folder '{needed}'", todo)
    own = [name for name in ("val", "validation", "valid") if (root / name).is_dir()]
    if len(own) > 1:
        what = f"holds {' and '.join(own)}, and a data set has one validation split"
        raise BadInput(root, what, "Move one of them out of the folder.")
    files = {name: _pictures(root / name) for name in ("train", *own, "test")}
    class_names = class_order(path.parent.name for path in files["train"])
    if len(class_names) < 2:
        raise BadInput(root / "train", f"holds pictures of one class only ('{class_names[0]}')")
    size = request.whole("size")
    splits = {"train": _folder_split(files["train"], class_names, size=size, where=root / "train")}
    channels = splits["train"].shape[0]
    for name in (*own, "test"):
        splits[name] = _folder_split(
            files[name], class_names, size=size, where=root / name, channels=channels
        )
    notes = _left_out(root, files, class_names)
    if list(class_names) != sorted(class_names):
        notes = (
            *notes,
            "Class folders named by numbers are in the order of the numbers; torchvision numbers them as text, so "
            "a file that counts classes by position may mean others.",
        )
    if request.text("groups"):
        path = request.user_path(
            request.text("groups"),
            get="Give a CSV or parquet file with the columns file and group.",
        )
        named = {
            name: [file.relative_to(root).as_posix() for file in found]
            for name, found in files.items()
        }
        groups = groups_of(named, read_group_table(path), where=path)
        splits, said = with_groups(splits, groups, column="group")
        notes = (*notes, *said)
    return assemble(
        request,
        train=splits["train"],
        validation=splits[own[0]] if own else None,
        test=splits["test"],
        where=root,
        notes=notes,
    )


def assemble(
    request: Request,
    *,
    train: ImageData,
    validation: ImageData | None,
    test: ImageData,
    where: object,
    mean: tuple[float, ...] | None = None,
    std: tuple[float, ...] | None = None,
    notes: tuple[str, ...] = (),
) -> Dataset:
    """A data set from the splits of the user's files.

    Without a validation split, the request's fraction of train is held out. Without constants, they
    are computed from train (before anything is held out), and a note says so.

    Raises:
        BadInput: splits of different shapes.
    """
    others = {"test": test} if validation is None else {"validation": validation, "test": test}
    for split in others.values():
        if split.shape != train.shape:
            what = f"train images are {train.shape} (C, H, W) but another split has {split.shape}"
            raise BadInput(where, what, "Add size=32 (or another side length) to the data spec.")
    if mean is None or std is None:
        mean, std = channel_statistics(train.images)
        notes = (*notes, STATISTICS_NOTE)
    if validation is not None:  # of test records reports say it
        notes += tuple(
            f"{count} of the {len(validation)} {name} images are also among the training images: numbers on them say "
            "what was memorised, not what was learned."
            for name, count in copies(train, {"validation": validation}).items()
        )
    made = Dataset(
        name=request.name,
        train=train,
        validation=empty_like(train) if validation is None else validation,
        test=test,
        mean=mean,
        std=std,
        notes=notes,
    )
    return made if validation is not None else with_validation(made, request.number("validation"))


def _read_npz(file: Path) -> dict[str, NDArray[Any]]:
    """The six arrays of a MedMNIST file."""
    wanted = [
        f"{split}_{part}" for split in ("train", "val", "test") for part in ("images", "labels")
    ]
    todo = "A MedMNIST file holds train, val and test images and labels as plain arrays."
    try:
        with open_zip(file) as archive:
            held = set(archive.namelist())
            missing = [name for name in wanted if f"{name}.npy" not in held]
            if missing:
                raise BadInput(file, f"lacks {', '.join(missing)}", todo)
            arrays = {}
            for name in wanted:
                arrays[name] = read_npy(archive, name, file)
                afford(file, sum(array.nbytes for array in arrays.values()), "images and labels")
            return arrays
    except BadInput:
        raise
    except zipfile.BadZipFile as error:
        raise BadInput(file, "is not an .npz file", todo) from error
    except Exception as error:  # a damaged file can fail anywhere in the parser
        raise BadInput(file, "cannot be read", todo) from error


def _checked_pair(
    images: NDArray[Any], labels: NDArray[Any], *, where: str
) -> tuple[torch.Tensor, torch.Tensor]:
    """(N, C, H, W) uint8 images and (N,) int64 labels of one MedMNIST split."""
    grey = images.ndim == 3
    if images.dtype != np.uint8 or not (grey or (images.ndim == 4 and images.shape[3] == 3)):
        what = f"images are {images.dtype} {images.shape}, not uint8 (N, H, W) or (N, H, W, 3)"
        raise BadInput(where, what, "The 3-D MedMNIST sets are not supported.")
    if not len(images):
        raise BadInput(where, "holds no images")
    if len(labels) != len(images) or labels.size != len(images):
        what = f"labels have shape {labels.shape} for {len(images)} images, expected one each"
        raise BadInput(where, what, "Multi-label sets (ChestMNIST) are not supported.")
    if labels.dtype.kind not in "iu" or int(labels.min()) < 0 or int(labels.max()) >= MOST_CLASSES:
        what = f"labels are {labels.dtype}, negative or over {MOST_CLASSES:,}, expected numbers from 0 up"
        raise BadInput(where, what)
    stacked = images[:, None] if grey else images.transpose(0, 3, 1, 2)
    return (
        torch.from_numpy(np.ascontiguousarray(stacked)),
        torch.from_numpy(labels.reshape(-1).astype(np.int64)),
    )


def _pictures(folder: Path) -> list[Path]:
    """The pictures of a split's class folders, sorted; hidden folders and files are left alone."""
    files = [f for f in files_below(folder, *PICTURES, depth=2) if f.parent != folder]
    if not files:
        todo = f"Put them at {folder.name}/CLASS/NAME.png (also {', '.join(PICTURES[1:])})."
        raise BadInput(folder, "holds no pictures", todo)
    return files


def _left_out(
    root: Path, files: dict[str, list[Path]], class_names: tuple[str, ...]
) -> tuple[str, ...]:
    """What a reader of the numbers should hear: files that were not read, classes without a test picture."""
    notes = []
    taken = {file for found in files.values() for file in found}
    there = sorted(file for name in files for file in (root / name).rglob("*"))
    others = [f.relative_to(root) for f in there if f not in taken and not f.is_dir()]
    others = [f for f in others if not any(map(is_hidden, f.parts))]
    if others:
        notes.append(
            f"{len(others)} files are no SPLIT/CLASS/NAME{'|'.join(PICTURES)} and are left out ('{others[0]}', say)."
        )
    shown = {spelled(file.parent.name) for file in files["test"]}
    empty = [
        folder.name
        for folder in sorted((root / "train").iterdir())
        if folder.is_dir()
        and spelled(folder.name) not in class_names
        and not is_hidden(folder.name)
    ]
    if empty:
        notes.append(f"Folders of train without a picture are no classes: {', '.join(empty)}.")
    if missing := [f"'{name}'" for name in class_names if name not in shown]:
        notes.append(f"The test pictures show no {', '.join(missing)}: nothing is measured of it.")
    return tuple(notes)


def _folder_split(
    files: list[Path],
    class_names: tuple[str, ...],
    *,
    size: int,
    where: Path,
    channels: int | None = None,
) -> ImageData:
    labels = index_classes([path.parent.name for path in files], class_names, where=where)
    images = decode_images(_named(files), size=size, channels=channels)
    return ImageData(images=images, labels=labels, class_names=class_names)


def _named(files: list[Path]) -> Iterator[tuple[str, Path]]:
    return ((str(path), path) for path in files)
