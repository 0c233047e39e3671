"""The pipeline: verbs (stages), nouns (lists of kinds) and subjects. ``ls tasks`` reads as the pipeline."""
