"""Base distillation: signals, distances, syntheses, network sources, loops, recipes."""

from ddaudit.distillation.own import method
from ddaudit.distillation.recipe import DEFENSES, METHODS, Defense, Recipe, register, resolve
from ddaudit.distillation.requests import check_recipe, has_option, make_recipe
from ddaudit.distillation.run import distill, distill_many, distill_sizes, versions

__all__ = [
    "DEFENSES",
    "METHODS",
    "Defense",
    "Recipe",
    "check_recipe",
    "distill",
    "distill_many",
    "distill_sizes",
    "has_option",
    "make_recipe",
    "method",
    "register",
    "resolve",
    "versions",
]
