"""Foreign file formats."""
