"""Configuration: what wins over what, and what is refused by name."""

from __future__ import annotations

from pathlib import Path

import pytest

from elnigma.config import FLAGS, SCHEMA, build_config, describe_schema, nest
from elnigma.errors import ConfigError


def test_an_override_changes_its_key_and_no_other() -> None:
    plain = build_config("default.toml", [], [])
    changed = build_config("default.toml", [], ["training.epochs=3"])
    assert {k for k in plain if plain[k] != changed[k]} == {"training.epochs"}
    assert changed["training.epochs"] == 3


def test_a_file_wins_over_defaults_flags_over_the_file_and_overrides_over_flags() -> None:
    assert build_config("fast.toml", [], [])["model.units"] == 8
    assert build_config("fast.toml", ["--units", "16"], [])["model.units"] == 16
    assert build_config("fast.toml", ["--units=16"], ["model.units=4"])["model.units"] == 4


def test_the_passthrough_may_carry_overrides_too() -> None:
    config = build_config("fast.toml", ["--config_override", "training.epochs=2"], [])
    assert config["training.epochs"] == 2


def test_flags_may_be_written_with_dashes() -> None:
    assert build_config("fast.toml", ["--batch-size", "64"], [])["training.batch_size"] == 64


@pytest.mark.parametrize(
    ("override", "parts"),
    [
        ("training.epoch=3", ["'training.epoch'", "training.epochs"]),
        ("epochs=3", ["'epochs'", "training.epochs"]),
        ("training.epochs=many", ["training.epochs", "whole number", "'many'"]),
        ("training.epochs=2.5", ["training.epochs", "whole number"]),
        ("training.epochs=true", ["training.epochs", "whole number"]),
        ("training.epochs=0", ["training.epochs", "from 1 to 10000"]),
        ("training.learning_rate=nan", ["training.learning_rate"]),
        ("training.learning_rate=inf", ["training.learning_rate"]),
        ("split.test_from=2014-13-01", ["split.test_from", "YYYY-MM-DD"]),
        ("split.test_from=2010-01-01", ["split.validation_from must be before"]),
        ("training.epochs", ["key=value"]),
        ("training.precision=float64", ["training.precision", "float32, mixed_bfloat16"]),
        ("model.window=513", ["model.window", "from 0 to 512"]),
    ],
)
def test_a_bad_override_is_refused_by_name(override: str, parts: list[str]) -> None:
    with pytest.raises(ConfigError) as caught:
        build_config("default.toml", [], [override])
    assert all(part in str(caught.value) for part in parts)


@pytest.mark.parametrize("words", [["--epoch", "3"], ["epochs", "3"], ["--epochs"]])
def test_a_bad_passthrough_is_refused(words: list[str]) -> None:
    with pytest.raises(ConfigError, match="passthrough"):
        build_config("default.toml", words, [])


def test_a_misspelt_flag_is_answered_with_the_right_one() -> None:
    with pytest.raises(ConfigError, match="did you mean --epochs"):
        build_config("default.toml", ["--epoch", "3"], [])


@pytest.mark.parametrize("path", ["/etc/passwd", "../config.py", "x/../../config.py", "none.toml"])
def test_no_config_leads_out_of_its_folder(path: str) -> None:
    with pytest.raises(ConfigError):
        build_config(path, [], [])


def test_a_link_in_the_config_folder_leads_nowhere_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "root").mkdir()
    (tmp_path / "outside.toml").write_text("[training]\nepochs = 3\n")
    (tmp_path / "root" / "link.toml").symlink_to(tmp_path / "outside.toml")
    monkeypatch.setenv("ELNIGMA_ROOT", str(tmp_path / "root"))
    with pytest.raises(ConfigError, match="leads out"):
        build_config("link.toml", [], [])


def test_a_checkout_brings_its_own_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs" / "mine.toml").write_text("[training]\nepochs = 7\n")
    monkeypatch.setenv("ELNIGMA_ROOT", str(tmp_path))
    assert build_config("runs/mine.toml", [], [])["training.epochs"] == 7
    assert build_config("fast.toml", [], [])["training.epochs"] == 3


def test_free_parameters_are_typed_by_how_they_are_written() -> None:
    overrides = ["model.params.width=64", "model.params.kind=wide", "model.params.rate=0.5"]
    config = build_config("default.toml", [], overrides)
    assert config["model.params.width"] == 64
    assert config["model.params.kind"] == "wide"
    assert nest(config)["model"]["params"]["rate"] == 0.5


def test_every_key_is_described_and_every_flag_names_one() -> None:
    assert set(describe_schema()) == {param.key for param in SCHEMA}
    assert len(FLAGS) == sum(param.flag for param in SCHEMA)
    for param in SCHEMA:
        assert build_config("default.toml", [], [])[param.key] is not None
