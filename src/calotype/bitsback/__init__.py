"""Lossless coding of small images with latent variable models: bits back."""
