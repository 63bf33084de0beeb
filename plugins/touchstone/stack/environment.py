"""The environment of every part, computed from what the stack remembers. Pure."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

from touchstone.stack.credentials import USERS, Credentials
from touchstone.stack.layout import MARKER, REPOSITORY, StackRecord, StatePaths

HOST_VARIABLES = frozenset(
    {
        *("PATH", "HOME", "USER", "LOGNAME", "SHELL", "LANG", "LC_ALL", "LC_CTYPE", "TZ"),
        *("SSL_CERT_FILE", "SSL_CERT_DIR", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "PIP_CERT"),
        *("GIT_SSL_CAINFO", "SSH_AUTH_SOCK", "XDG_RUNTIME_DIR"),
        *("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "http_proxy", "https_proxy", "all_proxy"),
        *("DOCKER_HOST", "DOCKER_TLS_VERIFY", "DOCKER_CERT_PATH", "DOCKER_CONFIG"),
    }
)
"""What a part takes over from the shell that starts the stack; everything else is decided here."""

_NOT_FOR_PARTS = frozenset(
    {
        *("TOUCHSTONE_URL", "TOUCHSTONE_TOKEN", "TOUCHSTONE_USER", "TOUCHSTONE_PASSWORD"),
        *("TOUCHSTONE_SERVER", "TOUCHSTONE_PORTS", "TOUCHSTONE_REQUIRE_ALL"),
    }
)
"""Variables that speak to commands and tests; a part would mistake them."""

LOCAL_ACCESS_KEY = {"control": "touchstone-control", "agent": "touchstone-agent"}
"""Names under which the local stores see the two sides."""

LOCAL_SECRET_KEY = "local-only"  # noqa: S105 (on loopback; checked for presigned requests only)

NO_CALLS_HOME = {
    "DO_NOT_TRACK": "1",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "AIRFLOW__USAGE_DATA_COLLECTION__ENABLED": "False",
}


def build_host_environment(environ: Mapping[str, str]) -> dict[str, str]:
    """
    Return what a part takes over from the shell.

    :param environ: The shell's environment.
    """
    host = {name: value for name, value in environ.items() if name in HOST_VARIABLES}
    if any(name.lower().endswith("_proxy") for name in host):
        # The parts talk to each other on loopback, where no proxy could reach them.
        exceptions = environ.get("NO_PROXY") or environ.get("no_proxy") or ""
        host["NO_PROXY"] = host["no_proxy"] = ",".join(
            filter(None, [exceptions, "127.0.0.1", "localhost"])
        )
    return host


def build_common(
    paths: StatePaths, record: StackRecord, environ: Mapping[str, str]
) -> dict[str, str]:
    """
    Return what all parts share.

    ``TOUCHSTONE_*`` of the shell reaches them, so that any setting can be changed for a stack.
    """
    settings = {
        name: value
        for name, value in environ.items()
        if name.startswith("TOUCHSTONE_") and name not in _NOT_FOR_PARTS
    }
    return {
        "TOUCHSTONE_ALLOW_LOCAL_SOURCES": "true",
        # Who submits here has an account on this machine, or is trusted with one.
        "TOUCHSTONE_GIT_HOSTS": '["*"]',
        # Every user here got a password from the person who runs the machine.
        "TOUCHSTONE_BRANCH_USERS": '["*"]',
        **settings,
        MARKER: record.stack_id,
        "TOUCHSTONE_ENV": record.env,
        "TOUCHSTONE_STATE_DIR": str(paths.root),
        "TMPDIR": str(paths.temporary),
        "PYTHONUNBUFFERED": "1",
        # Airflow's processes give themselves titles, which by default are written over the
        # memory that holds the environment, and with it over the marker.
        "SPT_NOENV": "1",
        **NO_CALLS_HOME,
    }


def build_aws(record: StackRecord, side: str) -> dict[str, str]:
    """
    Return what the AWS SDK needs to reach the local stores as one side.

    :param side: ``control`` or ``agent``.
    """
    return {
        "AWS_ACCESS_KEY_ID": LOCAL_ACCESS_KEY[side],
        "AWS_SECRET_ACCESS_KEY": LOCAL_SECRET_KEY,
        "AWS_DEFAULT_REGION": record.region,
        "AWS_ENDPOINT_URL": record.urls.ministack,
        # Neither the user's own profiles nor a cloud's metadata service are asked.
        "AWS_CONFIG_FILE": "/dev/null",
        "AWS_SHARED_CREDENTIALS_FILE": "/dev/null",
        "AWS_EC2_METADATA_DISABLED": "true",
    }


def build_connections(record: StackRecord, credentials: Credentials) -> dict[str, str]:
    """Return the Airflow connections of a stack, as environment variables."""
    connections = {
        "TOUCHSTONE_AWS": {
            "conn_type": "aws",
            "login": LOCAL_ACCESS_KEY["control"],
            "password": LOCAL_SECRET_KEY,
            "extra": {"endpoint_url": record.urls.ministack, "region_name": record.region},
        },
        "TOUCHSTONE_AGENT": {
            "conn_type": "touchstone_agent",
            "login": "control",
            "password": credentials.control_private_key,
        },
        "TOUCHSTONE_MLFLOW": {
            "conn_type": "http",
            "schema": "http",
            "host": "127.0.0.1",
            "port": record.ports.mlflow,
        },
    }
    return {
        f"AIRFLOW_CONN_{name}": json.dumps(connection) for name, connection in connections.items()
    }


def build_airflow(
    paths: StatePaths, record: StackRecord, credentials: Credentials
) -> dict[str, str]:
    """Return Airflow's whole configuration, as environment variables."""
    options: dict[str, dict[str, object]] = {
        "core": {
            "dags_folder": REPOSITORY / "dags",
            "plugins_folder": REPOSITORY / "plugins",
            "load_examples": False,
            "executor": "LocalExecutor",
            # A training holds no worker; these run the short steps around it.
            "parallelism": 8,
            "dags_are_paused_at_creation": False,
            "fernet_key": credentials.fernet_key,
            "auth_manager": "touchstone.ui.auth.TouchstoneAuthManager",
            "simple_auth_manager_users": ",".join(f"{u}:{role}" for u, role in USERS.items()),
            "simple_auth_manager_passwords_file": paths.airflow_passwords,
            "execution_api_server_url": f"{record.urls.execution}/execution/",
            "test_connection": "Disabled",
        },
        "database": {
            "sql_alchemy_conn": build_database_url(paths, patience_seconds=60),
        },
        "logging": {"base_log_folder": paths.airflow / "logs", "logging_level": "INFO"},
        "api": {
            "host": "127.0.0.1",
            "port": record.ports.airflow,
            "workers": 1,
            "base_url": record.urls.airflow,
            "secret_key": credentials.api_secret_key,
            "expose_config": False,
        },
        "api_auth": {"jwt_secret": credentials.jwt_secret, "jwt_expiration_time": 8 * 3600},
        # A supervisor that has seen its process close everything but not end yet sleeps for so
        # long before it looks again, and only then tells of the end: five seconds by default.
        "workers": {"min_heartbeat_interval": 1},
        # Half of the default: most of the time between a task's end and the next one's start.
        "scheduler": {
            "scheduler_idle_sleep_time": 0.5,
            # What a task loses whose worker is killed; five minutes by default.
            "task_instance_heartbeat_timeout": 120,
        },
        "triggerer": {"capacity": 2000},
        "dag_processor": {
            "dag_bundle_storage_path": paths.airflow / "bundles",
            "parsing_processes": 1,
            "min_file_process_interval": 60,
            "refresh_interval": 60,
            "print_stats_interval": 300,
        },
    }
    return {"AIRFLOW_HOME": str(paths.airflow)} | {
        f"AIRFLOW__{section.upper()}__{name.upper()}": str(value)
        for section, values in options.items()
        for name, value in values.items()
    }


def build_database_url(paths: StatePaths, *, patience_seconds: int) -> str:
    """
    Return the address of Airflow's SQLite database.

    :param patience_seconds: How long a writer waits for another; five, the default, is less than
        a busy machine takes.
    """
    return f"sqlite:///{paths.airflow_database}?timeout={patience_seconds}"


def build_airflow_api(paths: StatePaths) -> dict[str, str]:
    """
    Return what the API server for people has of its own.

    It writes its audit log in its event loop, where the commit of another request waits to be
    run: with SQLite two writing requests can lock each other out until the first one's patience
    ends. It is short here, and clients try again.
    """
    return {
        "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN": build_database_url(paths, patience_seconds=3),
    }


def build_ministack(paths: StatePaths, record: StackRecord) -> dict[str, str]:
    """Return the configuration of the local stores."""
    return {
        # Its own default is every interface.
        "BIND_HOST": "127.0.0.1",
        # Presigned requests are verified: it must know the key that the control plane signs with.
        "AWS_ACCESS_KEY_ID": LOCAL_ACCESS_KEY["control"],
        "AWS_SECRET_ACCESS_KEY": LOCAL_SECRET_KEY,
        "GATEWAY_PORT": str(record.ports.ministack),
        "MINISTACK_HOST": "127.0.0.1",
        "MINISTACK_REGION": record.region,
        "SERVICES": "sqs,s3,dynamodb,sts,iam",
        "IOT_MTLS_ENABLED": "0",
        "SFTP_ENABLED": "0",
        # It removes containers it takes for its own from any engine it finds: show it none.
        "DOCKER_HOST": f"unix://{paths.ministack / 'no-engine.sock'}",
        "PERSIST_STATE": "1",
        "STATE_DIR": str(paths.ministack / "state"),
        "S3_PERSIST": "1",
        "S3_DATA_DIR": str(paths.ministack / "objects"),
        "LOG_LEVEL": "WARNING",
    }


def build_mlflow(paths: StatePaths) -> dict[str, str]:
    """Return the configuration of the MLflow server."""
    return {
        # It would start helper processes for features nobody uses here.
        "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
        "MLFLOW_BACKEND_STORE_URI": f"sqlite:///{paths.mlflow / 'mlflow.db'}",
        "MLFLOW_ARTIFACTS_DESTINATION": str(paths.mlflow / "artifacts"),
    }


def build_control(
    paths: StatePaths,
    record: StackRecord,
    credentials: Credentials,
    environ: Mapping[str, str],
) -> dict[str, str]:
    """
    Return the environment of the control plane: Airflow's parts, dispatcher and commands.

    :param environ: The shell's environment.
    """
    common = build_common(paths, record, environ)
    return {
        # Connections of the user's own, RunPod's for one: Airflow's way to give them.
        **{name: value for name, value in environ.items() if name.startswith("AIRFLOW_CONN_")},
        **common,
        **build_airflow(paths, record, credentials),
        **build_connections(record, credentials),
        "MLFLOW_TRACKING_URI": record.urls.mlflow,
        "AWS_CONFIG_FILE": "/dev/null",
        "AWS_SHARED_CREDENTIALS_FILE": "/dev/null",
        "AWS_EC2_METADATA_DISABLED": "true",
    }


def build_path(environ: Mapping[str, str], prefix: Path) -> str:
    """
    Return the search path of the parts: this installation's own commands first.

    :param prefix: The virtual environment.
    """
    own = str(prefix / "bin")
    rest = [item for item in environ.get("PATH", "/usr/bin:/bin").split(":") if item != own]
    return ":".join([own, *rest])
