"""Bytes and addresses: the content-addressed store. Knows no machine learning and no Prefect."""
