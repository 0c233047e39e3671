"""Kinds of LLM client: the only code that talks to an LLM."""
