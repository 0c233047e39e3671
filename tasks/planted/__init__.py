"""Activations whose dictionary is known, and scores of a trained dictionary against it."""
