"""Base distillation: signals, distances, syntheses, network sources, loops, recipes."""

from ddaudit.distill.recipe import DEFENSES, METHODS, Defense, Recipe, register, resolve
from ddaudit.distill.run import distill, distill_many, distill_sizes, versions

__all__ = [
    "DEFENSES",
    "METHODS",
    "Defense",
    "Recipe",
    "distill",
    "distill_many",
    "distill_sizes",
    "register",
    "resolve",
    "versions",
]
