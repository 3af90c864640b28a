"""Lossy coding of small images of one size as a few latents: the codec behind the textbook's autoencoders and VAEs."""
