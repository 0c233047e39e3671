"""Kinds of language model: where one comes from."""
