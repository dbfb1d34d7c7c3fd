"""A rate or a share comes with the exact interval that belongs to its counts, and cutoffs are chosen within budgets."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mww_ha import metrics


@pytest.mark.parametrize(
    ("k", "n", "low", "high"),
    [(12, 12, 0.735, 1.0), (30, 30, 0.884, 1.0), (0, 10, 0.0, 0.3085), (5, 10, 0.1871, 0.8129), (1, 1, 0.025, 1.0)],
)
def test_shares_have_the_published_clopper_pearson_intervals(k, n, low, high):
    share = metrics.share_interval(k, n)
    assert share.low == pytest.approx(low, abs=5e-4)
    assert share.high == pytest.approx(high, abs=5e-4)
    assert (share.value, share.events, share.exposure, share.unit) == (k / n, k, n, "share")


@pytest.mark.parametrize(
    ("events", "hours", "low", "high"), [(2, 24, 0.01, 0.30), (10, 100, 0.048, 0.184), (0, 1, 0.0, 3.689)]
)
def test_rates_have_the_published_poisson_intervals(events, hours, low, high):
    rate = metrics.rate_interval(events, hours)
    assert rate.low == pytest.approx(low, abs=1e-2)
    assert rate.high == pytest.approx(high, abs=1e-2)
    assert (rate.value, rate.events, rate.exposure, rate.unit) == (events / hours, events, hours, "per hour")


def test_hours_without_an_event_prove_three_over_the_hours():
    assert metrics.rate_upper_bound(0, 6) < 0.5
    assert metrics.rate_upper_bound(0, 5.9) > 0.5
    assert metrics.rate_upper_bound(1, 47.4) == pytest.approx(0.1, abs=1e-3)
    assert metrics.hours_to_prove(0.05) == pytest.approx(60, abs=0.1)
    assert metrics.hours_to_prove(0.1) == pytest.approx(30, abs=0.1)


@settings(deadline=None, max_examples=60)
@given(st.integers(1, 3000).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))))
def test_share_intervals_are_those_of_scipy(pair):
    beta = pytest.importorskip("scipy.stats").beta
    k, n = pair
    share = metrics.share_interval(k, n)
    assert share.low == pytest.approx(0.0 if k == 0 else beta.ppf(0.025, k, n - k + 1), abs=1e-8)
    assert share.high == pytest.approx(1.0 if k == n else beta.ppf(0.975, k + 1, n - k), abs=1e-8)


@settings(deadline=None, max_examples=60)
@given(st.integers(0, 5000))
def test_rate_intervals_are_those_of_scipy(events):
    chi2 = pytest.importorskip("scipy.stats").chi2
    rate = metrics.rate_interval(events, 2.0)
    assert rate.low == pytest.approx(0.0 if events == 0 else chi2.ppf(0.025, 2 * events) / 4, rel=1e-8)
    assert rate.high == pytest.approx(chi2.ppf(0.975, 2 * events + 2) / 4, rel=1e-8)


@pytest.mark.parametrize(("k", "n"), [(1, 0), (3, 2), (-1, 4)])
def test_an_impossible_share_is_refused(k, n):
    with pytest.raises(ValueError, match="no share"):
        metrics.share_interval(k, n)


@pytest.mark.parametrize(("events", "hours"), [(1, 0.0), (-1, 2.0), (0, float("nan"))])
def test_a_rate_without_hours_is_refused(events, hours):
    with pytest.raises(ValueError, match="no rate"):
        metrics.rate_interval(events, hours)


@pytest.mark.parametrize(
    ("events", "hours", "said"),
    [(0, 8, "fewer than 0.37"), (0, 2, "takes 6.0 h without any"), (40, 10, "the budget of 0.5 per hour is exceeded")],
)
def test_the_sentence_about_the_hours_claims_what_they_show(events, hours, said):
    sentence = metrics.describe_hours(events, hours, 0.5, "real ambient")
    assert said in sentence
    assert f"{events} false accepts in {hours:.1f} h of real ambient" in sentence


def _curve(hits, false_accepts, *, window=5, trials=100, hours=10.0, first=1, worst_rate=None) -> metrics.Curve:
    return metrics.Curve(
        window=window,
        cutoffs=np.arange(first, first + len(hits)),
        hits=np.array(hits),
        trials=trials,
        false_accepts=np.array(false_accepts),
        hours=hours,
        worst_rate=worst_rate,
    )


def test_the_point_with_most_recall_within_the_budget_is_chosen():
    point = metrics.choose_operating_point([_curve([99, 95, 90, 80], [60, 9, 5, 0])], 0.5)
    assert (point.cutoff, point.window, point.within_budget) == (3, 5, True)
    assert point.recall is not None
    assert point.false_accepts is not None
    assert (point.recall.events, point.recall.exposure) == (90, 100)
    assert (point.false_accepts.events, point.false_accepts.exposure) == (5, 10.0)


def test_ties_go_to_fewer_false_accepts_and_then_to_the_middle_of_the_plateau():
    hits = [95, 90, 90, 90, 90, 90, 90, 70]
    assert metrics.choose_operating_point([_curve(hits, [9, 5, 4, 4, 4, 4, 4, 0])], 0.5).cutoff == 5
    narrow, wide = _curve([95, 90, 80], [9, 4, 0], window=3), _curve(hits, [9, 5, 4, 4, 4, 4, 4, 0], window=7)
    point = metrics.choose_operating_point([narrow, wide], 0.5)
    assert (point.window, point.cutoff, point.margin) == (7, 5, 2)


def test_without_a_cutoff_within_the_budget_the_fewest_false_accepts_are_chosen_and_it_says_so():
    point = metrics.choose_operating_point([_curve([99, 95, 90], [60, 30, 20])], 0.5)
    assert (point.cutoff, point.within_budget) == (3, False)
    assert metrics.recall_at(_curve([99, 95, 90], [60, 30, 20]), 0.5) is None


def test_a_cutoff_of_255_is_never_chosen():
    point = metrics.choose_operating_point([_curve([99, 98, 0], [60, 50, 0], first=253)], 0.5)
    assert (point.cutoff, point.within_budget) == (254, False)


def test_the_worst_kind_of_sound_has_to_keep_the_budget_too():
    curve = _curve([99, 95, 90], [4, 3, 2], worst_rate=np.array([2.0, 0.9, 0.3]))
    assert metrics.choose_operating_point([curve], 0.5).cutoff == 3


def test_sensitivity_levels_are_apart_and_in_order():
    hits = [99, 97, 95, 90, 85, 80, 60, 40]
    levels = metrics.choose_sensitivities(
        curve := _curve(hits, [90, 40, 20, 12, 5, 3, 1, 0]), metrics.choose_operating_point([curve], 0.5)
    )
    assert {name: point.cutoff for name, point in levels.items()} == {"low": 7, "medium": 5, "high": 3}
    assert [point.budget_per_hour for point in levels.values()] == [0.125, 0.5, 2.0]
    flat = _curve([90] * 9, [0] * 9)
    cutoffs = [
        p.cutoff for p in metrics.choose_sensitivities(flat, metrics.choose_operating_point([flat], 0.5)).values()
    ]
    assert cutoffs == [6, 5, 4]


def test_the_partial_area_is_the_mean_of_the_best_recall_over_the_budgets():
    # Up to 0.2 per hour nothing, to 0.5 half, then 80 %: a false accept more never lowers the best recall.
    curve = _curve([100, 80, 70, 50], [30, 5, 6, 2], trials=100)
    assert metrics.partial_area(curve) == pytest.approx(0.2 * 0 + 0.3 * 0.5 + 0.5 * 0.8)
    assert metrics.partial_area(_curve([90], [0])) == pytest.approx(0.9)
    assert metrics.partial_area(_curve([90], [10])) == 0.0


def test_the_equal_error_rate_is_where_both_errors_meet():
    wake, other = np.array([50, 150, 200, 250]), np.array([10, 20, 30, 180])
    assert metrics.equal_error_rate(wake, other) == pytest.approx(0.25)
    assert metrics.equal_error_rate(np.array([200]), np.array([100])) == 0.0
    assert metrics.equal_error_rate(np.array([100]), np.array([200])) == 1.0


def test_usable_cutoffs_tell_a_saturated_model_from_a_resolved_one():
    assert metrics.usable_cutoffs(_curve([99, 98, 97, 96], [900, 20, 5, 1])) == 3
    assert metrics.usable_cutoffs(_curve([99, 98, 97, 96], [900, 700, 300, 0])) == 0
