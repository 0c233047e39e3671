"""Orchestration: configuration, the DAG, the loop that realises it, and the command line."""
