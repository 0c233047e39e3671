"""Learners: what takes training steps on an SAE."""
