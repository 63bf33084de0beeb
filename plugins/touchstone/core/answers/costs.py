"""What the API answers about money."""

from __future__ import annotations

from touchstone.core.answers.common import Answer


class CostBudget(Answer):
    """
    How a budget for pods stands, in US dollars as text.

    :param limit_usd: What may be spent; ``None`` for no limit.
    :param reserved_usd: Held for pods that may still cost something, the worst case of each.
    :param spent_usd: Spent on pods that are gone.
    :param left_usd: What may still be reserved; below zero where more was spent; ``None`` for no
        limit.
    """

    limit_usd: str | None
    reserved_usd: str
    spent_usd: str
    left_usd: str | None


class CostRow(Answer):
    """
    What some pods have cost together, in US dollars as text, exact to the micro-dollar.

    :param name: A submission's id, a user's name, a GPU model, or ``total``.
    :param user: Who has submitted; ``None`` where that is no single user, or the name itself.
    :param pods: How many pods.
    :param seconds: How long they were billed.
    :param usd: What they cost: by RunPod's bill where there is one, else by our own clock.
    :param useful_usd: The part of pods whose attempts came to what they were for.
    :param wasted_usd: The part of pods whose attempts failed, were lost or were cancelled.
    :param open_usd: The part of pods that are not known to be gone, up to now.
    :param billed_pods: How many of them RunPod has billed.
    :param billed_usd: What it has billed for those; ``None`` while there is no bill.
    :param budget: The budget that these pods came out of; ``None`` where there is none such.
    """

    name: str
    user: str | None = None
    pods: int
    seconds: int
    usd: str
    useful_usd: str
    wasted_usd: str
    open_usd: str
    billed_pods: int
    billed_usd: str | None
    budget: CostBudget | None = None


class CostMonth(Answer):
    """
    A month and its budget.

    :param month: UTC, as ``2026-11``.
    :param budget: How it stands.
    """

    month: str
    budget: CostBudget


class CostReport(Answer):
    """
    What the pods have cost that were launched in a month.

    :param month: The month, UTC, as ``2026-11``.
    :param by: What a row is for: ``submission``, ``submitter`` or ``gpu``.
    :param user: Whose pods alone are counted; ``None`` for everybody's.
    :param at: Up to when pods are counted that are not gone, ISO 8601.
    :param problem: Why there are no figures, in one line; ``None`` if there are.
    :param total: All pods together, also those in no row; ``None`` with a problem.
    :param rows: The dearest first.
    :param left_out: How many rows more there would be.
    :param months: The newest months, this one first, as their budgets stand; empty with a problem.
    """

    month: str
    by: str
    user: str | None = None
    at: str
    problem: str | None = None
    total: CostRow | None = None
    rows: tuple[CostRow, ...] = ()
    left_out: int = 0
    months: tuple[CostMonth, ...] = ()
