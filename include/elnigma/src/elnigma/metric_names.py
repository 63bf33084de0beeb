"""Names of the metrics, and which direction is better; light, for ``describe``."""

from __future__ import annotations

HIGHER = "higher"
LOWER = "lower"
NEITHER = "neither"

METRICS: dict[str, dict[str, str]] = {
    name: {"direction": direction, "help": text}
    for name, direction, text in (
        ("net_sharpe", HIGHER, "annualised Sharpe ratio after cost"),
        ("net_sharpe_low", HIGHER, "2.5th percentile of its moving-block bootstrap"),
        ("net_sharpe_high", HIGHER, "97.5th percentile of its moving-block bootstrap"),
        ("max_drawdown", HIGHER, "deepest fall of the equity below its peak, zero or negative"),
        ("total_return", HIGHER, "compounded return after cost over all scored days"),
        ("turnover", LOWER, "mean absolute change of position, a year"),
        ("hit_rate", HIGHER, "share of rows whose sign was foreseen"),
        ("hit_rate_base", NEITHER, "hit rate of always naming the commoner sign"),
        ("hit_rate_minus_base", HIGHER, "hit rate beyond the base rate"),
        ("auc_long", HIGHER, "area under the ROC curve of the long model"),
        ("auc_short", HIGHER, "area under the ROC curve of the short model"),
        ("brier_long", LOWER, "Brier score of the long model"),
        ("brier_short", LOWER, "Brier score of the short model"),
        ("rank_corr", HIGHER, "rank correlation of long minus short score with the target"),
        ("n_test_rows", NEITHER, "scored rows"),
    )
}
