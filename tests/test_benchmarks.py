"""Every measurement's module can be started: a constant of it that cannot be read would only show in a long run."""

from __future__ import annotations

import importlib
import pkgutil

import pytest

import benchmarks

MODULES = sorted(m.name for m in pkgutil.iter_modules(benchmarks.__path__))


@pytest.mark.parametrize("name", MODULES)
def test_a_measurement_can_be_imported(name: str):
    importlib.import_module(f"benchmarks.{name}")
