"""The dictionary as a subject: how its directions lie to one another, and how its latents fire."""
