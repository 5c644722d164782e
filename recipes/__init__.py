"""Recipes: one model and its compression head a file."""
