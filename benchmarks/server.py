"""The same load of flows on SQLite as Prefect sets it, on SQLite with ``deployments/server.env`` (and with one
connection in place of fifteen), and on PostgreSQL.

``python -m benchmarks.server [PROCESSES FLOWS STAGES]``; 8 3 50 are the defaults. Takes some minutes.
"""

from __future__ import annotations

import sys
import tempfile
from collections import Counter
from pathlib import Path

from tests.load import client_settings, load
from tests.servers import PostgresMissing, one_connection, postgres, prefect_server


def main(processes: int = 8, flows: int = 3, stages: int = 50) -> None:
    print(f"{processes} processes x {flows} flows x {stages} stages, one line of log each")
    print(f"{'':28}{'flows ok':>9}{'tasks kept':>12}{'wall s':>8}{'slowest s':>10}{'server cpu s':>13}{'locked':>8}", flush=True)
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder)
        _turn("SQLite, Prefect's defaults", home / "defaults", None, {}, processes, flows, stages, plain=True)
        _turn("SQLite, server.env", home / "sqlite", None, client_settings(), processes, flows, stages)
        _turn("SQLite, one connection", home / "one", one_connection(home), client_settings(), processes, flows, stages)
        try:
            with postgres(home / "cluster") as url:
                _turn("PostgreSQL, server.env", home / "postgres", url, client_settings(), processes, flows, stages)
        except PostgresMissing as reason:
            print(f"PostgreSQL: {reason}")


def _turn(name, home, database, client, processes, flows, stages, plain=False) -> None:
    # Prefect keeps to itself what clients may ask again; here it is one of the figures.
    with prefect_server(home, database, plain=plain, PREFECT_SERVER_LOG_RETRYABLE_ERRORS="true") as server:
        got = load(server, processes, flows, stages, client)
    print(
        f"{name:28}{f'{got.ok}/{got.wanted}':>9}{f'{got.recorded}/{got.wanted * stages}':>12}{got.seconds:8.0f}"
        f"{got.slowest:10.1f}{got.server_cpu:13.0f}{got.locked:8d}",
        flush=True,
    )
    for what, n in Counter(got.said).items():
        print(f"    {n} x {what[:200]}", flush=True)


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
