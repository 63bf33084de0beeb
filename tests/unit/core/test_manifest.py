"""Manifests: what becomes of a job, which id it has, and what the trainer would refuse."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from touchstone.core.conf import parse_conf
from touchstone.core.manifest import (
    build_conf,
    build_notes,
    build_submission_id,
    check_trainer,
    find_job,
    parse_manifest,
)
from touchstone.core.names import is_submission_id
from touchstone.core.trainer import parse_description
from touchstone_agent.protocol.errors import ConfigurationError

REPOSITORY = Path(__file__).resolve().parents[3]
GIT = "https://host.test/owner/sets.git"
HEAD = 'schema_version = 1\nname = "tiers"\n'

WHOLE = f"""
schema_version = 1
name = "tiers"

[defaults]
intervals = [1, 5]
config_file = "fast.toml"
platform = "on-prem"
hyper.epochs = 3

[[jobs]]
name = "momentum"
source = "{GIT}"
ref = "main"
path = "sets/momentum"
model = "elnigma.models.mlp"
n_resamples = 200
priority = 7
require_cuda = true
min_vram_gib = 24
allowed_hosts = ["rio"]
seed = 3
fetched_data_end_to = 2018-06-30
notes = "first"

[jobs.hyper]
learning_rate = 0.01
model.layers = 3
model.params.width = "wide one"

[[jobs]]
name = "structure"
source = "git@host.test:owner/x.git"
system = "model_structure"
mode = "validate"
"""


def job(text="", *, name="a", source=GIT, head=HEAD):
    """Return a manifest's text with one job."""
    return f'{head}[[jobs]]\nname = "{name}"\nsource = "{source}"\nintervals = [5]\n{text}\n'


def refuse(text):
    with pytest.raises(ConfigurationError) as caught:
        parse_manifest(text)
    return str(caught.value)


def only(text):
    [found] = parse_manifest(text).jobs
    return found


def id_of(text, content=GIT):
    return build_submission_id(only(text), content=content)


@pytest.fixture(scope="module")
def description():
    """What this repository's trainer says of itself."""
    done = subprocess.run(
        [sys.executable, "-P", "-m", "elnigma", "describe"],
        env={**os.environ, "PYTHONPATH": str(REPOSITORY / "include/elnigma/src")},
        capture_output=True,
        text=True,
        check=True,
    )
    return parse_description(done.stdout)


def check(text, description):
    with pytest.raises(ConfigurationError) as caught:
        check_trainer(parse_manifest(text), description)
    return str(caught.value)


# --- reading -------------------------------------------------------------------------------


def test_a_job_becomes_the_conf_of_a_run():
    manifest = parse_manifest(WHOLE)
    first, second = manifest.jobs

    conf = build_conf(first, source=first.source, notes=build_notes(manifest, first))

    assert conf == {
        "source": GIT,
        "ref": "main",
        "path": "sets/momentum",
        "system": "feature_set",
        "notes": "manifest tiers: momentum - first",
        "intervals": [1, 5],
        "config_file": "fast.toml",
        "fetched_data_end_to": "2018-06-30",
        "platform": "on-prem",
        "seed": 3,
        "config_overrides": [
            "model.structure=elnigma.models.mlp",
            "backtest.n_resamples=200",
            "model.layers=3",
            "model.params.width=wide one",
        ],
        "passthrough_args": ["--epochs=3", "--learning_rate=0.01"],
        "job": "momentum",
        "priority": 7,
        "require_cuda": True,
        "min_vram_gib": 24,
        "allowed_hosts": ["rio"],
    }
    schedule = parse_conf(conf).schedule
    assert schedule.priority == 7
    assert schedule.passthrough_argv == ("--epochs=3", "--learning_rate=0.01")
    assert build_conf(second, source=second.source, notes="") == {
        "source": "git@host.test:owner/x.git",
        "system": "model_structure",
    }


def test_a_job_overrides_the_defaults_key_by_key():
    head = HEAD + "[defaults]\nseed = 4\npriority = 2\nhyper = { epochs = 3, units = 8 }\n"

    found = only(job("priority = 0\nhyper.epochs = 9", head=head))

    assert (found.seed, found.priority, found.hyper) == (4, 0, {"epochs": 9, "units": 8})


def test_a_manifest_without_jobs_is_empty():
    assert parse_manifest(HEAD).jobs == ()


def test_a_value_with_blanks_stays_one_argument():
    conf = build_conf(only(job("hyper.comment = \"two words; $(x) 'q'\"")), source=GIT, notes="")

    assert parse_conf(conf).schedule.passthrough_argv == ("--comment=two words; $(x) 'q'",)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "schema_version: is missing"),
        ("schema_version = 2", "schema_version: 2 is not understood"),
        ("schema_version = 1", "name: is missing"),
        ('schema_version = 1\nname = "a b"', "name: 'a b' is not of the form"),
        (HEAD + "jobs = 3", "jobs: 3 is not a list"),
        (HEAD + 'jobs = ["a"]', "jobs.1: 'a' is not a table"),
        (HEAD + "[jobs.a]", "write [[jobs]]"),
        (HEAD + "[[job]]", "job: unknown key; did you mean jobs?"),
        (HEAD + "[[jobs]]\nsource = 'x'", "jobs.1.name: is missing"),
        (HEAD + "[[jobs]]\nname = 'a'", "jobs.a.source: is missing"),
        (HEAD + f"[[jobs]]\nname = 'a'\nsource = '{GIT}'", "jobs.a.intervals: is missing"),
        (HEAD + "[defaults]\nname = 'a'", "defaults.name: unknown key"),
        (HEAD + "[defaults]\nseed = 'x'", "defaults.seed: 'x' is not a whole number"),
        (HEAD + "[defaults]\nhyper = 3", "defaults.hyper: 3 is not a table"),
        (HEAD + "[defaults]\nhyper.a = [1]", "defaults.hyper.a: [1] is neither"),
        (job(source=""), "jobs.a.source: is empty"),
        (job(name="a b"), "jobs.'a b'.name: 'a b' is not of the form"),
        (job(name="x" * 70), "is not of the form"),
        (job("prio = 1"), "jobs.a.prio: unknown key; did you mean priority?"),
        (job("priority = 101"), "jobs.a.priority: "),
        (job("priority = true"), "jobs.a.priority: True is not a whole number"),
        (job("seed = -1"), "jobs.a.seed: "),
        (job("require_cuda = 1"), "jobs.a.require_cuda: 1 is neither true nor false"),
        (job("min_vram_gib = -1"), "jobs.a.min_vram_gib: "),
        (job("min_ram_gib = nan"), "jobs.a.min_ram_gib: nan is not a finite number"),
        (job('platform = "moon"'), "jobs.a.platform: "),
        (job('mode = "dream"'), "jobs.a.mode: "),
        (job('split_recipe = "moon"'), "jobs.a.split_recipe: "),
        (job("fetched_data_end_to = 20180630"), "jobs.a.fetched_data_end_to: 20180630 is not"),
        (job("fetched_data_end_to = 2018-06-30T00:00:00Z"), "jobs.a.fetched_data_end_to: "),
        (job('config_file = "../up.toml"'), "jobs.a.config_file: "),
        (job('branch = "--upload-pack=x"'), "jobs.a.branch: "),
        (job('path = "/etc"'), "jobs.a.path: "),
        (job(source="https://u:secret@host.test/x"), "jobs.a.source: a user name, "),
        (job('model = "m"\nsystem = "model_structure"'), "jobs.a.model: the source is"),
        (job('model = "m"\nhyper.model.structure = "n"'), "jobs.a.hyper.model.structure: model"),
        (job("hyper.a.b = 1\nhyper.'a.b' = 2"), "jobs.a.hyper.a.b: given twice"),
        (job("hyper.a.b = nan"), "jobs.a.hyper.a.b: nan is not a number that can be used"),
        (job("hyper.a.b = 0x" + "f" * 1000), "jobs.a.hyper.a.b: a number of many digits"),
        (job("hyper.a.b = 2018-06-30"), "jobs.a.hyper.a.b: "),
        (job('hyper.a.b = "\\u001b"'), "cannot be printed"),
        (job(f'hyper.a.b = "{"x" * 1001}"'), "too long"),
        (job("hyper.'--x' = 1"), "jobs.a.hyper: '--x' cannot be a key"),
        (job("hyper.'a=b' = 1"), "jobs.a.hyper: 'a=b' cannot be a key"),
        (job("hyper." + "a." * 50 + "b = 1"), "nested too deeply"),
        (job("".join(f"hyper.k{n} = 1\n" for n in range(201))), "more than 200"),
        (job("intervals = [0]").replace("intervals = [5]\n", ""), "jobs.a.intervals: "),
        (job("intervals = ['5']").replace("intervals = [5]\n", ""), "jobs.a.intervals.0: '5'"),
        (job() + job(head=""), "jobs.a.name: there is a job 'a' already"),
        (job() + job(name="A", head=""), "jobs.A.name: there is a job 'a' already"),
    ],
)
def test_a_wrong_manifest_is_refused_naming_job_and_field(text, message):
    said = refuse(text)

    assert message in said
    assert said.isprintable()
    assert "secret" not in said


def test_a_manifest_of_thousands_is_too_large():
    text = HEAD + "".join(f"[[jobs]]\nname = 'j{number}'\n" for number in range(1001))

    assert len(refuse(text)) < 200


# --- ids -----------------------------------------------------------------------------------


def test_an_id_is_a_submissions_and_depends_on_nothing_but_the_work():
    first = id_of(job())

    assert is_submission_id(first)
    assert first.startswith("m-")
    assert len(first) == 26
    assert first == id_of(job())


@pytest.mark.parametrize(
    "text",
    ["priority = 9", "require_cuda = true", "prefer_cuda = true", "min_vram_gib = 1",
     "min_ram_gib = 1.5", 'allowed_hosts = ["rio"]', 'platform = "runpod"', 'notes = "n"',
     "seed = 0", 'system = "feature_set"', 'path = "."', 'split_recipe = "time"'],
)  # fmt: skip
def test_where_and_when_a_job_runs_is_not_part_of_its_work(text):
    assert id_of(job(text)) == id_of(job())
    assert id_of(job(text, name="b")) == id_of(job())


def test_the_order_of_keys_is_not_part_of_the_work():
    assert id_of(job("hyper.b = 1\nhyper.a = 2")) == id_of(job("hyper.a = 2\nhyper.b = 1"))
    swapped = job().replace("[5]", "[20, 5]")
    assert id_of(swapped) == id_of(job().replace("[5]", "[5, 20]"))


def test_each_part_of_the_work_makes_another_id():
    texts = ["", "seed = 1", "hyper.epochs = 3", "hyper.epochs = 3.5", 'hyper.epochs = "3"',
             'model = "m"', 'mode = "validate"', 'ref = "v2"', 'path = "x"', "n_resamples = 500",
             'split_recipe = "host"', 'train_hosts = ["h1"]', 'config_file = "fast.toml"',
             'branch = "b"', "fetched_data_end_to = 2018-06-30", 'baseline = "s-0"',
             'system = "model_structure"']  # fmt: skip
    ids = [id_of(job(text)) for text in texts]
    ids.append(id_of(job(), content="0" * 64))

    assert len(set(ids)) == len(ids)


def test_the_id_of_a_job_never_changes():
    """A new way of deriving it would submit every manifest in use once more."""
    assert id_of(job("hyper.epochs = 3")) == "m-5e61173080f4d7279cc3369b"


def test_a_submission_is_known_by_its_notes_as_a_job_of_this_manifest():
    manifest = parse_manifest(WHOLE)
    notes = build_notes(manifest, manifest.jobs[0])

    assert find_job(manifest, "m-1", notes) == "momentum"
    assert find_job(manifest, "x-1", notes) is None
    assert find_job(manifest, "m-1", None) is None
    assert find_job(manifest, "m-1", "manifest tiers2: a") is None


# --- against the trainer -------------------------------------------------------------------


def test_what_the_trainer_knows_is_accepted(description):
    assert check_trainer(parse_manifest(WHOLE), description) == ()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("hyper.epoch = 3", "jobs.a.hyper.epoch: the trainer has no flag --epoch; did you mean"),
        ("hyper.training.epoch = 3", "hyper.training.epoch: the trainer has no key training.epoch"),
        ("hyper.epochs = 3.5", "jobs.a.hyper.epochs: 3.5 is not a whole number"),
        ("hyper.epochs = true", "jobs.a.hyper.epochs: True is not a whole number"),
        ('hyper.epochs = "3"', "jobs.a.hyper.epochs: '3' is not a whole number"),
        ("hyper.epochs = 0", "jobs.a.hyper.epochs: 0 is below 1"),
        ("hyper.dropout = 2", "jobs.a.hyper.dropout: 2 is above 0.95"),
        ("hyper.model.structure = 3", "jobs.a.hyper.model.structure: 3 is not a text"),
        ("hyper.epochs = 3\nhyper.training.epochs = 4", "hyper.epochs sets training.epochs"),
        ("n_resamples = 5", "jobs.a.n_resamples: 5 is below 100"),
        ('config_file = "fst.toml"', "did you mean fast.toml"),
        ('split_recipe = "host"', "jobs.a.split_recipe: the trainer has no key split.recipe"),
        ('train_hosts = ["h"]', "jobs.a.train_hosts: the trainer has no key split.train_hosts"),
        ("hyper.config_override = 'a.b=1'", "has no flag --config_override"),
    ],
)
def test_what_the_trainer_would_refuse_is_refused_before_it_costs(description, text, message):
    assert message in check(job(text), description)


def test_parameters_of_a_model_structure_are_its_own_business(description):
    text = job("hyper.model.params.anything = true")

    assert check_trainer(parse_manifest(text), description) == ()


def test_a_dash_in_a_flag_is_as_good_as_an_underscore(description):
    assert check_trainer(parse_manifest(job("hyper.batch-size = 64")), description) == ()


def test_jobs_of_another_branch_are_named_as_unchecked(description):
    text = job('branch = "next"\nhyper.brand_new = 1')

    assert check_trainer(parse_manifest(text), description) == ("a",)


@pytest.mark.parametrize("text", ["", "{}", "[]", "null", '{"params": 3}', '{"params": {"a": 1}}'])
def test_what_is_not_a_description_is_refused(text):
    with pytest.raises(ConfigurationError, match=r"^describe: "):
        parse_description(text)


def test_a_description_may_say_more_than_is_known_here():
    text = json.dumps({"params": {"a.b": {"type": "tensor", "new": 1}}, "later": {}})

    found = parse_description(text)

    assert check_trainer(parse_manifest(job("hyper.a.b = 1")), found) == ()
