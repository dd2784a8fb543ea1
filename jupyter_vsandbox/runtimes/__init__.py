"""Runtimes: recipes, where they are found, and how they become bootable images."""
