"""Foreign formats of SAE weights: read, and some of them written."""
