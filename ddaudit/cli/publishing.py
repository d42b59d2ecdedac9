"""The command ``push``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ddaudit import hub
from ddaudit.cli import options
from ddaudit.cli.output import say
from ddaudit.cli.sets import examine
from ddaudit.errors import BadInput
from ddaudit.files import read_text


def push(
    file: Annotated[Path, typer.Argument(metavar="SET", help="A set file.")],
    to: Annotated[str, typer.Argument(metavar="hub:owner/name", help="Where it goes.")],
    public: Annotated[
        bool, typer.Option("--public", help="For all to see. Default: a private repository.")
    ] = False,
    card: Annotated[
        Path | None,
        typer.Option(
            "--card",
            help="Markdown that the repository's page begins with, from 'ddaudit report --format card', say.",
        ),
    ] = None,
    despite: Annotated[
        str | None,
        typer.Option(
            "--despite",
            metavar="NAME,..",
            help="What you publish knowingly: poison, records, claim, path.",
        ),
    ] = None,
) -> None:
    """Publish a set file on the Hugging Face Hub, with its card as the page."""
    if not hub.is_hub(to):
        raise BadInput(to, "names no place on the Hub", "Write hub:owner/name.")
    agreed = options.names("--despite", despite) or []
    text = read_text(card) if card else ""

    from ddaudit.sets import load, to_bytes
    from ddaudit.sets.inspection import statement
    from ddaudit.sets.publishing import check_publishable, released, set_card

    looked = examine(file)
    claim = looked.card.privacy
    check_publishable(looked, despite=agreed)
    # Written anew: tensors that ddaudit does not know, and that nobody was shown, stay here.
    value = released(load(file))
    page = set_card(looked.model_copy(update={"card": value.card}), to, text)
    there = hub.push(to_bytes(value), to, card=page, public=public)
    say(
        "privacy: no claim"
        if claim is None
        else f"privacy: {statement(claim, looked.claim_problems)}"
    )
    typer.echo(there)
    say(f"next: ddaudit audit {there}")
