from __future__ import annotations

import pytest

from touchstone.stack.layout import Ports
from touchstone.stack.ports import choose_ports, parse_ports
from touchstone_agent.protocol.errors import ConfigurationError


def counting():
    numbers = iter(range(20_000, 20_100))
    return lambda _range: next(numbers)


def test_free_ports_are_chosen_for_a_new_stack() -> None:
    chosen = choose_ports({}, {}, free=lambda port: port != 20_001, draw=counting())
    assert chosen == Ports(
        airflow=20_000, execution=20_002, mlflow=20_003, ministack=20_004, dispatcher=20_005
    )


def test_remembered_ports_are_kept() -> None:
    remembered = {"airflow": 1, "execution": 4, "mlflow": 2, "ministack": 3, "dispatcher": 5}
    chosen = choose_ports({}, remembered, free=lambda _: True, draw=counting())
    assert chosen.model_dump() == remembered


def test_a_remembered_port_that_somebody_took_is_replaced() -> None:
    remembered = {"airflow": 1, "execution": 4, "mlflow": 2, "ministack": 3, "dispatcher": 5}
    chosen = choose_ports({}, remembered, free=lambda port: port != 2, draw=counting())
    assert chosen == Ports(airflow=1, execution=4, mlflow=20_000, ministack=3, dispatcher=5)


def test_a_configured_port_outranks_a_remembered_one() -> None:
    remembered = {"airflow": 1, "execution": 4, "mlflow": 2, "ministack": 3, "dispatcher": 5}
    chosen = choose_ports({"airflow": 2}, remembered, free=lambda _: True, draw=counting())
    assert chosen == Ports(airflow=2, execution=4, mlflow=20_000, ministack=3, dispatcher=5)


def test_a_configured_port_in_use_is_named() -> None:
    with pytest.raises(ConfigurationError, match=r"port 8080 \(configured for airflow\) is in use"):
        choose_ports({"airflow": 8080}, {}, free=lambda port: port != 8080, draw=counting())


def test_configured_ports_are_read() -> None:
    assert parse_ports("airflow=8080, mlflow=5000") == {"airflow": 8080, "mlflow": 5000}
    assert parse_ports(None) == {}


@pytest.mark.parametrize(
    "text",
    ["web=8080", "airflow", "airflow=", "airflow=0", "airflow=65536", "airflow=1,mlflow=1"],
)
def test_nonsense_ports_are_refused(text: str) -> None:
    with pytest.raises(ConfigurationError):
        parse_ports(text)
