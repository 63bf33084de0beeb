"""The ``describe`` command: everything a control plane needs to know before it spends anything."""

from __future__ import annotations

from typing import Any

from elnigma import __version__, data_set
from elnigma.config import CONFIG_FOLDER, FLAGS, describe_schema
from elnigma.data import DATA_NAME
from elnigma.loading import SYSTEMS
from elnigma.metric_names import METRICS
from elnigma.task import CONTRACT, CONTRACTS


def describe() -> dict[str, Any]:
    """Return the trainer's description, as plain JSON."""
    schema = describe_schema()
    return {
        "contract": CONTRACT,
        "contracts": list(CONTRACTS),
        "trainer": "elnigma",
        "version": __version__,
        "systems": {
            system.name: {"file": system.file_name, "entry_point": system.entry_point}
            for system in SYSTEMS.values()
        },
        "configs": sorted(file.name for file in CONFIG_FOLDER.glob("*.toml")),
        "params": schema,
        "free_params": ["model.params.*"],
        "hyper": {
            name: {"key": param.key, **schema[param.key]} for name, param in FLAGS.items()
        },
        "metrics": METRICS,
        "main_metric": "net_sharpe",
        "prediction_interval": {"unit": "bars", "minimum": 1, "maximum": 250},
        "data": {
            "built_in": DATA_NAME,
            "file": data_set.FILE,
            "rows": data_set.MAX_ROWS,
            "columns": data_set.MAX_COLUMNS,
            "calendars": sorted(data_set.CALENDARS),
            "validation_sees": "of a data set, the rows before validation_from alone",
        },
        "outputs": {
            "models": ["models/long.h5", "models/short.h5"],
            "predictions": "predictions.csv",
            "returns": "returns.csv",
            "charts": [f"charts/{name}.png" for name in ("calibration", "drawdown", "equity",
                                                         "rolling_ic")],
        },
        "resources": {
            "cpus": 1.0,
            "memory_mib": 1536,
            "gpus": 0,
            "validation_seconds": 15,
            "training_seconds": 60,
        },
    }  # fmt: skip
