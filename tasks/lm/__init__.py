"""The language model as a subject: loading, hookpoints, stopping early, splicing."""
