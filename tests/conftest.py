"""What tests of several files share."""

from __future__ import annotations

import os

# Before torch is imported: children of tests have one thread too, and sums of several threads differ in their last bits.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import pytest

from tests.browser import browser, served, visit  # noqa: F401 - fixtures of all tests
from tests.objects import s3, s3_server  # noqa: F401
from tests.servers import PostgresMissing, PrefectServer, one_connection, postgres, prefect_server


@pytest.fixture(scope="session")
def prefect_process(tmp_path_factory):
    """A Prefect server on SQLite for the whole session: starting one costs 10 to 25 seconds. Do not kill it."""
    home = tmp_path_factory.mktemp("prefect")
    with prefect_server(home, one_connection(home)) as running:
        yield running


@pytest.fixture(scope="session")
def server(prefect_process: PrefectServer) -> str:
    """Address of that server's API."""
    return prefect_process.url


@pytest.fixture(scope="module")
def postgres_url(tmp_path_factory):
    """Address of a throwaway PostgreSQL database, with no run in it of other tests; skips where PostgreSQL is not installed."""
    try:
        with postgres(tmp_path_factory.mktemp("postgres")) as url:
            yield url
    except PostgresMissing as reason:
        pytest.skip(str(reason))
