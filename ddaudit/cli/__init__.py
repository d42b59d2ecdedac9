"""The command line: thin commands over the library. Exit codes: 0 done, 1 gate violated, 2 bad input, 3 partial."""

from ddaudit.cli.app import main

__all__ = ["main"]
