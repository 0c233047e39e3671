"""Fixtures of all tests."""

from tests.objects import s3, server  # noqa: F401
