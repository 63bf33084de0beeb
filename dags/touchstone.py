"""The DAG ``touchstone``: one run validates a new submission, trains a schedule, or both."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from airflow.providers.standard.operators.python import PythonOperator, ShortCircuitOperator
from airflow.sdk import DAG, Param, task_group

from touchstone.core import conf, waivers
from touchstone.core.conf import System
from touchstone.core.data_sets import MAX_NAME
from touchstone.core.forms import build_params
from touchstone.core.pools import FINISH_POOL, QUEUE_POOL
from touchstone.core.refs import MAX_REF
from touchstone.core.remotes import MAX_URL, SOURCE_PATTERN
from touchstone.operators.agent import PlacedOperator
from touchstone.operators.collect import CollectOperator
from touchstone.operators.judging import judge_arrival
from touchstone.operators.register import RegisterOperator
from touchstone.operators.submission import PlanOperator, accept_submission, evaluate_submission
from touchstone.settings import get_settings

NEW = "1. New submission"
ACCEPTED = "5. Or: schedule an accepted submission"
REPLAY = "6. Or: run a training again"

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
    "waived_columns": Param(
        None,
        type=["null", "array"],
        items={"type": "string", "maxLength": waivers.MAX_COLUMN},
        maxItems=waivers.MAX_WAIVED,
        title="Waived columns",
        section=NEW,
        description="Columns that may know later rows: they are not checked for look-ahead, and "
        "that is shown with every verdict. One per line. Empty: none.",
    ),
    "notes": Param(
        None,
        type=["null", "string"],
        format="multiline",
        maxLength=conf.MAX_NOTES,
        title="Notes",
        section=NEW,
        description="For you and for readers of the result.",
    ),
    **{name: Param(**param) for name, param in build_params().items()},
    "submission_id": Param(
        None,
        type=["null", "string"],
        maxLength=conf.MAX_ID,
        title="Submission",
        section=ACCEPTED,
        description="Id of an accepted submission; leave Source empty and fill in the schedule.",
    ),
    "replay": Param(
        None,
        type=["null", "string"],
        maxLength=conf.MAX_REPLAY,
        title="Replay",
        section=REPLAY,
        description_md="`SUBMISSION/TASK`, such as `momentum-1/i5`: the training runs again from "
        "its record, and says whether it comes to the same. Leave Source and intervals empty; of "
        "the rest only Servers and Notes count.",
    ),
    conf.DATA_VERSION: Param(
        None,
        type=["null", "string"],
        maxLength=MAX_NAME,
        title="Version of the data",
        section=REPLAY,
        description="Instead of running it again: let its models, as they were left, predict the "
        "rows that a newer version of its data set has, and score these.",
    ),
}

UNTIL_SETTLED = {"retries": 99, "retry_delay": timedelta(seconds=10)}
"""The counts of attempts decide when to stop; this only bounds what they allow."""

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

    judge = PythonOperator(
        task_id="judge",
        python_callable=judge_arrival,
        # What is missing is a verdict, too: not judged, with why.
        trigger_rule="all_done",
    )
    evaluate = PythonOperator(
        task_id="evaluate",
        python_callable=evaluate_submission,
        # It closes the submission however the trainings ended.
        trigger_rule="all_done",
        retries=3,
    )

    # What passes through XComs chooses among the run's own records, and is no authority.
    register >> validate >> accept >> plan
    trained = train_interval.expand(interval=plan.output)
    trained >> judge
    # Both: an admin may clear trainings and `evaluate` without `judge`.
    [trained, judge] >> evaluate
