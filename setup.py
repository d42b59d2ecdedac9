"""Names the packages of a wheel; everything else stands in pyproject.toml.

attacks/, defenses/ and reports/ stand at the top of the repository and are ddaudit.attacks, ddaudit.defenses and
ddaudit.reports when installed (docs/decisions/003). setuptools finds packages by folder or maps them by name, and does
not do both; so they are found here, and a new folder needs no line anywhere.
"""

from setuptools import find_packages, setup

MOVED = ("attacks", "defenses", "reports")

packages = find_packages(include=["ddaudit", "ddaudit.*"])
packages += [
    f"ddaudit.{name}" for top in MOVED for name in find_packages(include=[top, f"{top}.*"])
]

setup(packages=packages)
