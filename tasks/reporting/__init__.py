"""The report as a subject: what it shows (gather), its plots, its page."""
