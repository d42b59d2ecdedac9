"""Importers of the field's file formats, one module each, registered by name in ``FORMATS``."""

from ddaudit.sets.formats._base import FORMATS, Format

__all__ = ["FORMATS", "Format"]
