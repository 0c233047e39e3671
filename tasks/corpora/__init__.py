"""Kinds of text source; each yields documents."""
