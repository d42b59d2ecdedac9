"""Label models put on a recipe by name: ``+soft``."""
