import math

import numpy as np
import pytest
from scipy.optimize import minimize_scalar
from scipy.stats import binom, binomtest, norm

from repairops.gate.statistics import (
    MOST,
    binomial_interval,
    binomial_p_value,
    binomial_score,
    holm,
    quantile,
    settling_size,
    tango_interval,
    tango_score,
)


def two_sided(confidence):
    return (1 + confidence) / 2


def test_tango_1998_worked_example():
    # Section 6.1, soft contact lenses: 43 both effective, 0 and 1 discordant of 44, margin 0.1.
    assert tango_score(0, 1, 44, -0.1) == pytest.approx(1.709, abs=5e-4)
    assert norm.sf(tango_score(0, 1, 44, -0.1)) == pytest.approx(0.044, abs=5e-4)
    assert tango_interval(0, 1, 44, 0.95)[0] == pytest.approx(-0.096, abs=5e-4)


def test_published_interval_of_the_airway_example():
    # Fagerland, Lydersen and Laake 2014 (Statistics in Medicine 33:2850): counts 1 and 7 of 21, 95% two-sided.
    assert tango_interval(1, 7, 21, two_sided(0.95)) == pytest.approx((-0.517, -0.026), abs=5e-4)


@pytest.mark.parametrize("table", [(1, 7, 21), (40, 20, 160), (0, 3, 50), (4, 0, 30), (12, 30, 10_000)])
@pytest.mark.parametrize("difference", [-0.2, -0.005, 0.0, 0.1])
def test_tango_matches_a_brute_force_restricted_likelihood(table, difference):
    won, lost, n = table

    def minus_log_likelihood(share_lost):
        cells = share_lost + difference, share_lost, 1 - 2 * share_lost - difference
        counts = won, lost, n - won - lost
        return -sum(k * math.log(max(p, 1e-300)) for k, p in zip(counts, cells, strict=True) if k)

    bounds = max(0.0, -difference), (1 - difference) / 2
    best = minimize_scalar(minus_log_likelihood, bounds=bounds, method="bounded", options={"xatol": 1e-12}).x
    variance = n * (2 * best + difference - difference**2)
    if variance > 1e-6:
        expected = (won - lost - n * difference) / math.sqrt(variance)
        assert tango_score(won, lost, n, difference) == pytest.approx(expected, rel=1e-3, abs=1e-6)


def test_tango_at_zero_is_mcnemar():
    assert tango_score(9, 4, 100, 0.0) == pytest.approx(5 / math.sqrt(13))


def test_tango_without_discordant_pairs_has_the_closed_form():
    z2 = quantile(0.95) ** 2
    for n in (1, 50, 538, 539, 10_000, 10**8):
        low, high = tango_interval(0, 0, n, 0.95)
        assert low == pytest.approx(-z2 / (n + z2), rel=1e-9)
        assert high == -low


def test_tango_interval_is_where_the_score_meets_the_quantile():
    for won, lost, n in [(0, 1, 10), (3, 1, 10), (5, 30, 1000), (70_000, 69_000, 10**7), (0, 10, 10), (10, 0, 10)]:
        low, high = tango_interval(won, lost, n, 0.95)
        assert -1 <= low <= (won - lost) / n <= high <= 1
        if low > -1:
            assert tango_score(won, lost, n, low) == pytest.approx(1.645, abs=1e-3)
        if high < 1:
            assert tango_score(won, lost, n, high) == pytest.approx(-1.645, abs=1e-3)
        assert tango_interval(lost, won, n, 0.95) == (-high, -low)


def test_tango_limits_of_the_parameter_space():
    assert tango_interval(0, 10, 10, 0.95)[0] == -1
    assert tango_interval(10, 0, 10, 0.95)[1] == 1
    assert all(math.isnan(bound) for bound in tango_interval(0, 0, 0, 0.95))


def exact_rejection_rates(n, margin, share_won):
    """Exact chances of (score >= z, score < -z) where the true difference is -margin."""
    share_lost = share_won + margin
    given_won = min(1.0, share_won / (1 - share_lost))
    passes = fails = 0.0
    for lost in range(int(binom.ppf(1 - 1e-9, n, share_lost)) + 2):
        chance_lost = binom.pmf(lost, n, share_lost)
        won = np.arange(min(n - lost, int(binom.ppf(1 - 1e-9, n - lost, given_won)) + 1) + 1)
        scores = np.array([tango_score(int(w), lost, n, -margin) for w in won])
        chances = chance_lost * binom.pmf(won, n - lost, given_won)
        passes += chances[scores >= quantile(0.95)].sum()
        fails += chances[scores < -quantile(0.95)].sum()
    return passes, fails


@pytest.mark.parametrize("share_won", [0.0005, 0.002, 0.02])
def test_at_the_margin_a_pass_is_a_five_percent_event(share_won):
    passes, _ = exact_rejection_rates(1000, 0.005, share_won)
    assert 0.03 <= passes <= 0.053


@pytest.mark.parametrize(("n", "worst"), [(539, 0.067087), (894, 0.062173)])
def test_the_documented_excess_where_no_image_is_ever_won(n, worst):
    assert exact_rejection_rates(n, 0.005, 0.0)[0] == pytest.approx(worst, abs=1e-6)


@pytest.mark.slow
def test_exact_error_rates_over_sizes_and_shares():
    for n in (*range(599, 1000, 23), *range(1000, 10_001, 577)):
        for share_won in (0.0005, 0.002, 0.005, 0.01):
            assert exact_rejection_rates(n, 0.005, share_won)[0] <= 0.053, (n, share_won)
        assert exact_rejection_rates(n, 0.005, 0.0)[0] <= 0.0622, n


@pytest.mark.slow
def test_simulated_error_rate_at_the_margin():
    rng, runs, n = np.random.default_rng(0), 20_000, 5000
    tables = rng.multinomial(n, [0.01, 0.015, 0.975], size=runs)
    passed = np.mean([tango_score(int(w), int(lost), n, -0.005) >= quantile(0.95) for w, lost, _ in tables])
    assert passed <= 0.05 + 3 * math.sqrt(0.05 * 0.95 / runs)
    assert passed >= 0.04  # and it has not become too strict to be of use


def test_binomial_interval_matches_scipy():
    for hits, n in [(0, 5), (5, 5), (1, 3), (231, 300), (0, 1)]:
        low, high = binomial_interval(hits, n, 0.95)
        at_least, at_most = (binomtest(hits, n, alternative=side) for side in ("greater", "less"))
        assert low == pytest.approx(at_least.proportion_ci(0.95, method="exact").low, abs=1e-12)
        assert high == pytest.approx(at_most.proportion_ci(0.95, method="exact").high, abs=1e-12)
    assert binomial_interval(0, 9, 0.95)[0] == 0
    assert binomial_interval(9, 9, 0.95)[1] == 1
    assert math.isnan(binomial_interval(0, 0, 0.95)[0])


def test_binomial_bound_and_p_value_agree():
    for hits, n in [(30, 100), (1, 4), (99, 100)]:
        low, high = binomial_interval(hits, n, 0.95)
        assert binomial_p_value(hits, n, low) == pytest.approx(0.05)
        assert binomial_p_value(hits, n, high, less=True) == pytest.approx(0.05)
    assert binomial_score(5, 5, 1.0) == 0
    assert binomial_score(4, 5, 1.0) == -math.inf


@pytest.mark.parametrize("rate", [0.1, 0.3, 0.5, 0.9, 0.999])
def test_a_repair_rate_at_the_limit_passes_in_at_most_five_percent(rate):
    for n in (3, 19, 100, 1000, 10_000):
        hits = np.arange(binom.ppf(1e-9, n, rate), binom.ppf(1 - 1e-9, n, rate) + 1)
        above = np.array([binomial_interval(int(h), n, 0.95)[0] > rate for h in hits])
        assert binom.pmf(hits[above], n, rate).sum() <= 0.05


def test_settling_size_is_the_smallest_that_settles():
    # 30 won and 40 lost in 10,000: the bound is too low; the same shares in more images pass.
    won, lost, n, margin, z = 30, 40, 3000, 0.005, quantile(0.95)
    score = tango_score(won, lost, n, -margin)
    assert 0 < score < z
    needed = settling_size(score, n, 0.95)

    def scaled(size):
        return tango_score(won * size / n, lost * size / n, size, -margin)

    assert scaled(needed) >= z > scaled(needed - 1)

    score = tango_score(10, 30, n, -margin)  # the other side: a fall that is not proven yet
    assert -z < score < 0
    needed = settling_size(score, n, 0.95)
    assert tango_score(10 * needed / n, 30 * needed / n, needed, -margin) < -z
    assert tango_score(10 * (needed - 1) / n, 30 * (needed - 1) / n, needed - 1, -margin) >= -z


def test_settling_size_without_discordant_pairs_and_at_the_margin():
    assert settling_size(tango_score(0, 0, 50, -0.005), 50, 0.95) == 539
    assert tango_score(0, 5, 1000, -0.005) == 0
    assert settling_size(0.0, 1000, 0.95) is None
    assert settling_size(0.06, 1000, 0.95) < MOST
    assert settling_size(0.06, 2000, 0.95) is None  # two million images: nobody has them


def test_holm():
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert holm([0.5, 0.9]) == [1.0, 1.0]
    assert holm([]) == []
