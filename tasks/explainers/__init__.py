"""Kinds of explainer: pure, they make requests and read replies."""
