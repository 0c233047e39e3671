"""Where bytes lie. A backend is one file; the store knows only ``base.Backend``."""
