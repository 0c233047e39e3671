from __future__ import annotations

from datetime import date

import pytest

from tasks.clients.anthropic import Anthropic
from tasks.clients.anthropic_batch import AnthropicBatch
from tasks.clients.openai import OpenAI
from tasks.prices import Price, price_of, retirement
from tasks.spec import Runtime, SpecError


def test_a_batch_costs_half_and_cached_tokens_their_share():
    price = Price(2.0, 10.0)
    assert price.batch_usd(1_000_000, 100_000) == pytest.approx(0.5 * (2.0 + 1.0))
    assert price.batch_usd(0, 0, 1_000_000, 1_000_000, 1_000_000) == pytest.approx(0.5 * 2.0 * (1.25 + 2.0 + 0.1))


def test_a_single_request_costs_twice_what_it_costs_in_a_batch():
    price = Price(2.0, 10.0, long_above=1000, long_factor=3.0)
    assert price.live_usd(1000, 100) == pytest.approx((1000 * 2.0 + 100 * 10.0) / 1e6)
    for tokens in ((10, 20), (1001, 1), (5, 6, 700, 80, 900)):
        assert price.batch_usd(*tokens) == pytest.approx(0.5 * price.live_usd(*tokens))


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


@pytest.mark.parametrize("client", [AnthropicBatch, Anthropic, OpenAI])
def test_a_model_without_a_price_is_refused_until_its_price_is_given_or_the_limit_is_lifted(client, monkeypatch):
    monkeypatch.setenv("ANTHROPIC_API_KEY", "x")
    monkeypatch.setenv("OPENAI_API_KEY", "x")
    with pytest.raises(SpecError, match=r"set client\.price_input and client\.price_output .* or runtime\.max_usd=none"):
        client(model="of-tomorrow").check(Runtime())
    client(model="of-tomorrow", price_input=1, price_output=2).check(Runtime())
    client(model="of-tomorrow").check(Runtime(max_usd="none"))
    client(model="of-tomorrow").check(Runtime(max_usd=None))
    with pytest.raises(ValueError, match="set both or none"):
        client(model="m", price_input=1)


def test_prices_and_batch_sizes_change_no_key():
    plain = AnthropicBatch()
    assert AnthropicBatch(batch_requests=7, price_input=1, price_output=2).payload() == plain.payload()
    assert AnthropicBatch(effort="high").payload() != plain.payload() != AnthropicBatch(model="x").payload()


def test_how_fast_and_where_changes_no_key():
    plain = Anthropic()
    assert Anthropic(in_flight=1, requests_per_minute=9, timeout_seconds=1, tries=1, cache=False).payload() == plain.payload()
    assert OpenAI(model="m", base_url="https://x/v1", tokens_per_minute=5).payload() == OpenAI(model="m").payload()
    assert OpenAI(model="m", structured="none").payload() != OpenAI(model="m").payload()
