"""Kinds of sparse autoencoder."""
