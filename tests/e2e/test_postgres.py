"""The server on PostgreSQL, as a site with several workers runs it."""

from __future__ import annotations

import pytest

from tests.load import client_settings, load
from tests.servers import post, prefect_server

pytestmark = pytest.mark.special


def test_postgres_loses_no_flow_and_no_stage_of_eight_processes(postgres_url, tmp_path):
    with prefect_server(tmp_path, postgres_url) as server:
        got = load(server, processes=8, flows=3, stages=50, client=client_settings())
        assert (got.ok, got.recorded) == (24, 1200), got.said
        assert got.slowest < 60  # 3 s on two shared cores; SQLite takes ten times as long


def test_a_server_that_is_killed_comes_back_with_what_it_knew(postgres_url, tmp_path):
    with prefect_server(tmp_path, postgres_url) as server:
        flow = post(server.url, "/flows/", {"name": "kept"})["id"]
        server.kill()
        server.start()
        assert post(server.url, "/flows/", {"name": "kept"})["id"] == flow
