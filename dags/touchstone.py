"""The DAG ``touchstone``: one run validates a new submission, trains a schedule, or both."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from airflow.providers.standard.operators.python import PythonOperator, ShortCircuitOperator
from airflow.sdk import DAG, Param, task_group

from touchstone.core import conf
from touchstone.core.conf import CloudChoice, Platform, System
from touchstone.core.pools import FINISH_POOL, QUEUE_POOL
from touchstone.core.refs import MAX_REF
from touchstone.core.remotes import MAX_URL, SOURCE_PATTERN
from touchstone.operators.agent import PlacedOperator
from touchstone.operators.collect import CollectOperator
from touchstone.operators.submission import (
    PlanOperator,
    RegisterOperator,
    accept_submission,
    evaluate_submission,
)
from touchstone.settings import get_settings

NEW = "1. New submission"
SCHEDULE = "2. Schedule"
PLACEMENT = "3. Where it may run"
PODS = "4. Pods"
ACCEPTED = "5. Or: schedule an accepted submission"

PARAMS = {
    "source": Param(
        None,
        type=["null", "string"],
        maxLength=MAX_URL,
        pattern=SOURCE_PATTERN,
        title="Source",
        section=NEW,
        description="Git URL of the module (https:// or git@host:owner/repo), "
        "or upload:<sha256> of an uploaded archive. Empty to schedule an accepted submission.",
    ),
    "system": Param(
        System.FEATURE_SET.value,
        type="string",
        enum=[system.value for system in System],
        values_display={
            System.FEATURE_SET.value: "Feature set",
            System.MODEL_STRUCTURE.value: "Model structure",
        },
        title="Kind of module",
        section=NEW,
        description="What the module implements.",
    ),
    "ref": Param(
        None,
        type=["null", "string"],
        maxLength=MAX_REF,
        title="Git ref",
        section=NEW,
        description="Branch, tag or commit. Empty: the default branch.",
    ),
    "path": Param(
        ".",
        type="string",
        maxLength=conf.MAX_PATH,
        title="Folder",
        section=NEW,
        description="Folder of the module below the repository's root, for example sets/momentum.",
    ),
    "notes": Param(
        None,
        type=["null", "string"],
        format="multiline",
        maxLength=conf.MAX_NOTES,
        title="Notes",
        section=NEW,
        description="For you and for whoever reads the result.",
    ),
    "intervals": Param(
        None,
        type=["null", "string"],
        maxLength=conf.MAX_INTERVALS_TEXT,
        pattern=conf.INTERVALS_PATTERN,
        title="Prediction intervals",
        section=SCHEDULE,
        description="Whole days, comma-separated, for example 1,5,20: one pair of models each. "
        "Empty: only validate.",
    ),
    "config_file": Param(
        "default.toml",
        type="string",
        maxLength=conf.MAX_PATH,
        title="Config File",
        section=SCHEDULE,
        description="El-nigma configuration, relative to its configuration folder.",
    ),
    "branch": Param(
        None,
        type=["null", "string"],
        maxLength=MAX_REF,
        title="el-nigma Branch",
        section=SCHEDULE,
        description="Branch, tag or commit of el-nigma. Empty: the one in the trainer image.",
    ),
    "fetched_data_end_to": Param(
        None,
        type=["null", "string"],
        format="date",
        maxLength=10,
        title="Fetched Data End To",
        section=SCHEDULE,
        description="Last day of data to use. Empty: all there is.",
    ),
    "platform": Param(
        Platform.ANY.value,
        type="string",
        enum=[platform.value for platform in Platform],
        values_display={
            Platform.ANY.value: "Anywhere (on-prem first)",
            Platform.ON_PREM.value: "On-prem servers",
            Platform.RUNPOD.value: "RunPod",
        },
        title="Platform",
        section=SCHEDULE,
        description="Where the trainings may run.",
    ),
    "config_overrides": Param(
        None,
        type=["null", "array"],
        items={"type": "string", "maxLength": conf.MAX_ARGUMENT},
        maxItems=conf.MAX_ARGUMENTS,
        title="Config overrides",
        section=SCHEDULE,
        description_md="One `key.path=value` per line, as for `--config_override`; "
        "for example `training.epochs=20`.",
    ),
    "passthrough_args": Param(
        None,
        type=["null", "array"],
        items={"type": "string", "maxLength": conf.MAX_ARGUMENT},
        maxItems=conf.MAX_ARGUMENTS,
        title="Passthrough Args",
        section=SCHEDULE,
        description_md="Further arguments for el-nigma, one per line. A useful one: "
        "`--config_override key.path=value`, which changes one attribute of the configuration "
        "for this run.",
    ),
    "seed": Param(
        0,
        type="integer",
        minimum=0,
        maximum=2**31 - 1,
        title="Seed",
        section=SCHEDULE,
        description="Same commit, configuration, data and seed give the same predictions.",
    ),
    "baseline": Param(
        None,
        type=["null", "string"],
        maxLength=conf.MAX_ID,
        title="Baseline",
        section=SCHEDULE,
        description="Submission to compare with. Empty: none.",
    ),
    "priority": Param(
        0,
        type="integer",
        minimum=-100,
        maximum=100,
        title="Priority",
        section=PLACEMENT,
        description="Higher goes first; inside a priority submitters share what is free.",
    ),
    "require_cuda": Param(
        False,
        type="boolean",
        title="Needs CUDA",
        section=PLACEMENT,
        description="Never run without a CUDA GPU.",
    ),
    "prefer_cuda": Param(
        False,
        type="boolean",
        title="Prefers CUDA",
        section=PLACEMENT,
        description="Wait five minutes for a CUDA GPU before a lesser server may take it.",
    ),
    "min_vram_gib": Param(
        0,
        type="number",
        minimum=0,
        maximum=1024,
        title="GPU memory (GiB)",
        section=PLACEMENT,
        description="Least memory of the GPU; 0 for any.",
    ),
    "min_ram_gib": Param(
        0,
        type="number",
        minimum=0,
        maximum=65536,
        title="Memory (GiB)",
        section=PLACEMENT,
        description="Least memory of the server; 0 for any.",
    ),
    "allowed_hosts": Param(
        None,
        type=["null", "array"],
        items={"type": "string", "maxLength": conf.MAX_HOST},
        maxItems=conf.MAX_HOSTS,
        title="Servers",
        section=PLACEMENT,
        description="Servers it may run on, one per line. Empty: any.",
    ),
    "job": Param(
        None,
        type=["null", "string"],
        maxLength=conf.MAX_JOB,
        title="Job",
        section=PLACEMENT,
        description="Name of the job, for servers that take only some. Empty: none.",
    ),
    "gpu_models": Param(
        None,
        type=["null", "array"],
        items={"type": "string", "maxLength": conf.MAX_GPU_MODEL},
        maxItems=conf.MAX_GPU_MODELS,
        title="GPU models",
        section=PODS,
        description_md="GPU models for RunPod, best first, one per line, for example `RTX 4090`; "
        "`touchstone gpus` lists those that are there now. Empty: the installation's own list.",
    ),
    "cloud": Param(
        CloudChoice.ANY.value,
        type="string",
        enum=[choice.value for choice in CloudChoice],
        values_display={
            CloudChoice.ANY.value: "Any (secure first)",
            CloudChoice.SECURE.value: "Secure: RunPod's own data centres",
            CloudChoice.COMMUNITY.value: "Community: other people's machines, cheaper",
        },
        title="Cloud",
        section=PODS,
        description="Whose machines pods may be on.",
    ),
    "max_price": Param(
        None,
        type=["null", "number"],
        exclusiveMinimum=0,
        maximum=conf.MAX_USD,
        title="Price ceiling ($/h)",
        section=PODS,
        description="Most that a pod may cost per hour. Empty: the installation's own ceiling.",
    ),
    "budget": Param(
        None,
        type=["null", "number"],
        exclusiveMinimum=0,
        maximum=conf.MAX_USD,
        title="Budget ($)",
        section=PODS,
        description="Most that all pods of this submission may cost together. "
        "A pod is only rented if its longest life still fits.",
    ),
    "max_hours": Param(
        None,
        type=["null", "number"],
        exclusiveMinimum=0,
        maximum=conf.MAX_HOURS,
        title="Longest training (hours)",
        section=PODS,
        description="A training that takes longer is ended. Empty: the installation's own limit.",
    ),
    "submission_id": Param(
        None,
        type=["null", "string"],
        maxLength=conf.MAX_ID,
        title="Submission",
        section=ACCEPTED,
        description="Id of an accepted submission; leave Source empty and fill in the schedule.",
    ),
}

UNTIL_SETTLED = {"retries": 99, "retry_delay": timedelta(seconds=10)}
"""The attempts' own ledgers decide when to stop; this only bounds what they allow."""

with DAG(
    dag_id="touchstone",
    description="Validate, train and judge a feature set or model structure.",
    doc_md=__doc__,
    schedule=None,
    start_date=datetime(2024, 1, 1, tzinfo=UTC),
    catchup=False,
    max_active_runs=get_settings().max_active_runs,
    max_active_tasks=4096,
    default_args={"owner": "touchstone", "retries": 2, "retry_delay": timedelta(seconds=5)},
    params=PARAMS,
    tags=["touchstone"],
) as dag:
    register = RegisterOperator(task_id="register")
    validate = PlacedOperator(
        task_id="validate",
        pool=QUEUE_POOL,
        # What a host did, or a pod that was not to be had, says nothing of the submission.
        **UNTIL_SETTLED,
    )
    accept = ShortCircuitOperator(
        task_id="accept",
        python_callable=accept_submission,
        # A validation that was not needed again is skipped.
        trigger_rule="none_failed",
        # Without a schedule the run ends here, ``evaluate`` included.
        ignore_downstream_trigger_rules=True,
    )
    plan = PlanOperator(task_id="plan")

    @task_group(group_id="interval", prefix_group_id=False)
    def train_interval(interval: object) -> None:
        """Train one interval's pair of models, then publish it."""
        train = PlacedOperator(
            task_id="train",
            pool=QUEUE_POOL,
            interval=interval,
            **UNTIL_SETTLED,
            map_index_template="interval {{ task.interval }}",
        )
        collect = CollectOperator(
            task_id="collect",
            pool=FINISH_POOL,
            interval=interval,
            map_index_template="interval {{ task.interval }}",
        )
        train >> collect

    evaluate = PythonOperator(
        task_id="evaluate",
        python_callable=evaluate_submission,
        # It closes the submission however the trainings ended.
        trigger_rule="all_done",
        retries=3,
    )

    # What passes through XComs chooses among the run's own records, and is no authority.
    register >> validate >> accept >> plan
    train_interval.expand(interval=plan.output) >> evaluate
