"""Training: networks in PyTorch, the recipe, the loop, export to a bundle. Needs `calotype[learn]`."""
