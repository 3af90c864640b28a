"""The textbook's systems: autoencoders and variational autoencoders of small images, from data to a bundle."""
