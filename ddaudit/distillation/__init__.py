"""Base distillation: signals, distances, syntheses, network sources, loops, recipes."""

from ddaudit.distillation.recipe import DEFENSES, METHODS, Defense, Recipe, register, resolve
from ddaudit.distillation.run import distill, distill_many, distill_sizes, versions

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
