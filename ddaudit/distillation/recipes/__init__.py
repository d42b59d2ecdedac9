"""Built-in base recipes, one family per file; every module here is imported when methods are looked up."""
