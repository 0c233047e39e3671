"""Kinds of scorer: pure, they make requests and read replies."""
