"""Many flows at once against one server: none may be lost."""

from __future__ import annotations

import pytest

from tests.load import client_settings, load
from tests.servers import one_connection, prefect_server


@pytest.mark.slow
def test_sqlite_over_one_connection_refuses_nobody(tmp_path):
    with prefect_server(tmp_path, one_connection(tmp_path), PREFECT_SERVER_LOG_RETRYABLE_ERRORS="true") as server:
        got = load(server, processes=4, flows=2, stages=20, client=client_settings())
    assert (got.ok, got.recorded, got.locked) == (8, 160, 0), got.said


@pytest.mark.slow
def test_sqlite_as_server_env_sets_it_loses_no_flow_of_eight_processes(tmp_path):
    with prefect_server(tmp_path) as server:
        got = load(server, processes=8, flows=3, stages=50, client=client_settings())
    assert (got.ok, got.recorded) == (24, 1200), got.said
