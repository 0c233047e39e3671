"""Mining as a subject: windows, rankings and pools, kept per latent in bounded memory and merged exactly."""
