"""Training of latent variable models for lossless coding with bits back."""
