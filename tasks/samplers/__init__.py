"""Kinds of samplers: which of a latent's activating windows are kept."""
