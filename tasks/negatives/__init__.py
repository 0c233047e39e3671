"""Kinds of non-activating windows: where a latent is silent, though one might think that it fires."""
