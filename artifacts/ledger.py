"""The ledger: what LLMs were asked and what it cost, from all that a journal holds."""

from __future__ import annotations

from artifacts.journal import Journal


def rows(journal: Journal) -> list[dict[str, object]]:
    """One row for each day (UTC, of asking), client kind and model, in that order.

    ``n_requests`` went out, ``n_answered`` have an answer that will never be paid for again. ``usd`` is what answers
    cost, in US dollars; ``possibly_usd`` the most that may be on the bill besides: requests in flight, and those
    whose answers were lost, on the way or at the API. Answers of unknown price count as nothing in ``usd``, and are told in ``n_unpriced``.
    """
    found: dict[tuple[str, str, str], dict[str, object]] = {}
    for entry, records in journal.entries():
        key = (f"{entry.when:%Y-%m-%d}", str(entry.client.get("kind", "")), str(entry.client.get("model", "")))
        row = found.setdefault(key, {
            "day": key[0], "kind": key[1], "model": key[2], "n_requests": 0, "n_answered": 0, "n_unpriced": 0,
            "input_tokens": 0, "output_tokens": 0, "usd": 0.0, "possibly_usd": 0.0,
        })  # fmt: skip
        if records is None:
            row["n_requests"] += len(entry.requests)
            row["possibly_usd"] += entry.client.get("most_usd", 0.0)
            continue
        for record in records:
            row["n_requests"] += 1
            row["n_answered"] += bool(record["final"])
            row["n_unpriced"] += record.get("usd", 0.0) is None
            row["input_tokens"] += record.get("input_tokens", 0)
            row["output_tokens"] += record.get("output_tokens", 0)
            row["usd"] += record.get("usd") or 0.0
            row["possibly_usd"] += record.get("possibly_usd", 0.0)
    return [found[key] for key in sorted(found) if found[key]["n_requests"]]
