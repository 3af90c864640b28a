"""A search over the sizes and the recipes of models of small images, with Optuna: `calotype tune`."""
