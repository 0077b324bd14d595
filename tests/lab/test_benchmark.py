"""The benchmark gives ratios, not seconds; here only that it runs and that its bookkeeping is right."""

import time

from engramlib.lab import benchmark


def test_best_of_takes_the_best_and_runs_in_turn():
    order = []

    def task(name):
        def run():
            order.append(name)
            time.sleep(0.002 if name == "slow" else 0)

        return run

    best = benchmark.best_of({"fast": task("fast"), "slow": task("slow")}, rounds=3)
    assert order == ["fast", "slow"] * 4  # one round to warm up
    assert best["fast"] < best["slow"] < 1


def test_tables_have_ratios():
    rows = benchmark.products(rows=32, width=16) + benchmark.language(concepts=2, examples=4, tokens=8, rounds=1)
    expected = {"ours float64 product, 32 x 16", "collect", "extract 2 concepts one by one"}
    assert expected <= {what for what, _, _ in rows}
    assert all(ratio > 0 and to for _, ratio, to in rows)
