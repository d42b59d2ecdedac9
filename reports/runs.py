"""From run folders to a report."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from pydantic import ValidationError

from ddaudit.audits import collect
from ddaudit.audits.info import damaged
from ddaudit.files import afford
from ddaudit.reports.build import build_report
from ddaudit.reports.pictures import gallery
from ddaudit.reports.publishable import publishable as kept
from ddaudit.reports.schema import Report

OF_THE_RUN = ("set", "set_keys", "path", "found", "digest", "identity", "private", "notes")
"""What an entry says of the run folder and this machine, and no report shows."""


def report_of(urls: Sequence[str], *, publishable: bool = False) -> Report:
    """The report of one or several run folders (of one data set), with pictures of the distilled images.

    Args:
        publishable: leave out what the privacy claims of its subjects do not cover (see :mod:`.publishable`).

    Raises:
        BadInput: no run there, or runs on different data; publishable, and there is no claim that could be kept.
    """
    run = collect(list(urls))
    # Each is merged, compared, put into words and drawn: about 5 ms in all formats.
    afford(urls[0], 32_000 * len(run.subjects) * len(run.auditors), "findings")
    subjects = []
    for entry in run.subjects:
        value = entry["set"]
        pictures = []
        if value is not None and value.card.modality == "image":
            pictures = [
                gallery(
                    value.images,
                    value.labels,
                    class_names=value.card.class_names or (),
                    name=entry["id"],
                )
            ]
        subjects.append(
            {
                **{k: v for k, v in entry.items() if k not in OF_THE_RUN},
                "gallery": pictures,
            }
        )
    run = replace(run, subjects=subjects)
    try:
        report = build_report(run)
    except ValidationError as error:
        raise damaged(error, f"{urls[0]}/run.json") from None
    return build_report(kept(run, report)) if publishable else report
