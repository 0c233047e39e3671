"""A language model with a latent of an SAE turned up or down."""
