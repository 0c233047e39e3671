from __future__ import annotations

from datetime import date

import pytest

from tasks.clients.anthropic_batch import AnthropicBatch
from tasks.prices import Price, price_of, retirement
from tasks.spec import Runtime, SpecError


def test_a_batch_costs_half_and_cached_tokens_their_share():
    price = Price(2.0, 10.0)
    assert price.batch_usd(1_000_000, 100_000) == pytest.approx(0.5 * (2.0 + 1.0))
    assert price.batch_usd(0, 0, 1_000_000, 1_000_000, 1_000_000) == pytest.approx(0.5 * 2.0 * (1.25 + 2.0 + 0.1))


def test_long_prompts_cost_five_times_as_much_with_haiku():
    price = price_of("claude-haiku-5-5")
    assert price.batch_usd(100_001, 0) == pytest.approx(5 * 100_001 * 0.05e-6)
    assert price.batch_usd(100_000, 0) == pytest.approx(100_000 * 0.05e-6)


def test_a_dated_snapshot_costs_what_its_model_costs():
    assert price_of("claude-haiku-4-5-20251001") == price_of("claude-haiku-4-5") == Price(1.0, 5.0)
    assert price_of("claude-of-tomorrow") is None


def test_models_are_told_to_be_retired_before_and_after_the_day():
    assert "will be retired on 2026-11-30" in retirement("claude-sonnet-4-5-20250929", date(2026, 11, 20))
    assert "was retired on 2026-02-19" in retirement("claude-3-7-sonnet-latest", date(2026, 11, 20))
    assert retirement("claude-haiku-5-5") is None


def test_a_model_without_a_price_is_refused_until_its_price_is_given(monkeypatch):
    monkeypatch.setenv("ANTHROPIC_API_KEY", "x")
    with pytest.raises(SpecError, match=r"set client\.price_input and client\.price_output"):
        AnthropicBatch(model="claude-of-tomorrow").check(Runtime())
    AnthropicBatch(model="claude-of-tomorrow", price_input=1, price_output=2).check(Runtime())
    with pytest.raises(ValueError, match="set both or none"):
        AnthropicBatch(price_input=1)


def test_prices_and_batch_sizes_change_no_key():
    plain = AnthropicBatch()
    assert AnthropicBatch(batch_requests=7, price_input=1, price_output=2).payload() == plain.payload()
    assert AnthropicBatch(effort="high").payload() != plain.payload() != AnthropicBatch(model="x").payload()
