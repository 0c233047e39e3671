"""Kinds of windows: which stretch of a context is shown for a row, and which rows of a latent get one."""
