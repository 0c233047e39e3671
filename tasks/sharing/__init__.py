"""Latents for others: what is known of each, as Neuronpedia and SAEDashboard have it, and the card of a published SAE."""
