"""Kinds of input normalisation, applied on read."""
