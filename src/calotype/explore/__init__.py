"""What a model of small images has learned: pictures of its latents, and measures of what they are good for."""
