"""Configuration: one group per package of kinds, named by its singular; file name = kind or model."""
