"""A sweep trains each point of a grid once, and its table compares all points with the first."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from scripts.compare_attention import Run
from scripts.sweep import Experiment, Grid, compared, experiments_of, lock, lock_file, main, read_grid, sets_of, table
from tests.support.training_runs import CONFIG, write_corpus


def grid_of(**values: Any) -> Grid:
    return Grid.model_validate({"config": "c.yaml", "runs": "runs/sweep", **values})


def test_a_grid_is_all_combinations_and_then_the_variants() -> None:
    grid = grid_of(
        seeds=[1, 2],
        set={"training.max_epochs": 3},
        grid={"tokenizer.vocabulary_size": [100, 200], "model.tie": ["none", "all"]},
        variants={"wide": {"model.encoder": {"hidden_size": 64}, "training.max_epochs": 5}},
    )
    experiments = experiments_of(grid)
    assert [each.name for each in experiments] == [
        "vocabulary_size=100,tie=none",
        "vocabulary_size=100,tie=all",
        "vocabulary_size=200,tie=none",
        "vocabulary_size=200,tie=all",
        "wide",
    ]
    assert experiments[1].runs[1] == Run(
        "vocabulary_size=100,tie=all",
        Path("runs/sweep/vocabulary_size=100,tie=all/seed-2"),
        ("training.max_epochs=3", "tokenizer.vocabulary_size=100", 'model.tie="all"', "seed=2"),
    )
    assert experiments[4].runs[0].overrides == ("training.max_epochs=5", 'model.encoder={"hidden_size": 64}', "seed=1")
    assert [each.name for each in experiments_of(grid, ["wide"])] == ["vocabulary_size=100,tie=none", "wide"]


def test_without_a_grid_the_config_itself_comes_first() -> None:
    assert [each.name for each in experiments_of(grid_of(variants={"a": {"seed": 3}}))] == ["base", "a"]


def test_mistakes_in_the_file_end_the_program(tmp_path: Path) -> None:
    path = tmp_path / "sweep.yaml"
    path.write_text("config: c.yaml\nruns: runs\nseed: [1]\ngrid: {a.b: 3}\n")
    with pytest.raises(SystemExit) as stopped:
        read_grid(path)
    assert set(str(stopped.value).splitlines()) == {
        f"{path}: seed: Extra inputs are not permitted",
        f"{path}: grid.a.b: Input should be a valid list",
    }
    with pytest.raises(SystemExit, match="--only: b: no experiment of the grid; there are base, a"):
        experiments_of(grid_of(variants={"a": {}}), ["b"])
    with pytest.raises(SystemExit, match="variants: x=1: the grid has an experiment of this name"):
        experiments_of(grid_of(grid={"x": [1]}, variants={"x=1": {}}))


def test_a_lock_has_one_holder(tmp_path: Path) -> None:
    with lock(tmp_path / "lock") as first:
        assert first
        with lock(tmp_path / "lock") as second:
            assert not second
    with lock(tmp_path / "lock") as again:
        assert again


@pytest.fixture
def sweep_file(tmp_path: Path) -> Path:
    write_corpus(tmp_path)
    config = yaml.safe_load(CONFIG.format(folder=tmp_path))
    config["data"]["test"] = {
        name: {"source": f"{tmp_path}/valid.xx", "target": f"{tmp_path}/valid.yy"} for name in ("first", "second")
    }
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(config))
    path = tmp_path / "sweep.yaml"
    grid = {"training.optimizer": [{"kind": "adamw", "learning_rate": rate} for rate in (0.02, 1e-5)]}
    values = {"training.max_epochs": 30, "training.validate_every": 500, "training.log_every": 100}
    path.write_text(
        yaml.safe_dump(
            {"config": f"{tmp_path}/config.yaml", "runs": f"{tmp_path}/runs", "set": values, "grid": grid},
            sort_keys=False,
        )
    )
    return path


def test_a_sweep_trains_every_run_once(
    sweep_file: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    page = sweep_file.parent / "table.md"
    monkeypatch.setattr(sys, "argv", ["sweep", "--grid", str(sweep_file), "--table", str(page), "--jobs", "2"])
    experiments = experiments_of(read_grid(sweep_file))
    locked, free = (experiment.runs[0] for experiment in reversed(experiments))
    with lock(lock_file(locked)):
        assert main() == 0
    assert f"{locked.folder}: is in the hands of another process" in capfd.readouterr().out
    assert not locked.measured
    assert {"training", "scores"} <= free.measured.keys()
    rows = [line.split(" | ") for line in page.read_text().splitlines() if line.startswith("| ")]
    assert len(rows) == 2, "the headings and the run that is complete"

    assert main() == 0
    said = capfd.readouterr().out
    assert f"training {locked.folder}" in said
    assert f"training {free.folder}" not in said, "trained once"
    headings, first, second = (line.split(" | ") for line in page.read_text().splitlines() if line.startswith("| "))
    assert headings[6:9] == ["BLEU first", "difference", "p"]
    assert first[7:9] == ["", ""]
    assert float(first[6]) > float(second[6]) + 20.0, "one experiment learned, the other could not"
    assert float(second[7]) == pytest.approx(float(second[6]) - float(first[6]), abs=0.011)
    assert float(second[8]) < 0.01


def written(folder: Path, name: str, config: str, translations: list[list[str]]) -> Experiment:
    """An experiment whose runs have these translations of the test set `t`."""
    runs = []
    for seed, lines in enumerate(translations):
        run = Run(name, folder / name / f"seed-{seed}", ())
        (run.folder / "translations").mkdir(parents=True)
        (run.folder / "config.yaml").write_text(config)
        (run.folder / "translations" / "t.yy").write_text("".join(f"{line}\n" for line in lines))
        run.keep("training", {"parameters": 10, "epochs": 2, "seconds": 120.0, "perplexity": 4.0})
        scores = {"bleu": {"value": float(10 * seed), "signature": "s:1"}}
        run.keep("scores", [{"name": "t", "scores": scores}])
        runs.append(run)
    return Experiment(name, tuple(runs))


def test_the_seeds_of_a_sentence_are_drawn_together(tmp_path: Path) -> None:
    """With equal translations by both seeds the p-value is that of one seed: the second adds nothing."""
    references = [f"a b c d e {number}" for number in range(12)]
    (tmp_path / "t.xx").write_text("".join(f"{line}\n" for line in references))
    config = CONFIG.format(folder=tmp_path).replace(
        "tokenizer:", f"  test: {{t: {{source: {tmp_path}/t.xx, target: {tmp_path}/t.xx}}}}\ntokenizer:"
    )
    worse = [line if number % 3 else "a b x d e" for number, line in enumerate(references)]
    better = [line if number % 4 else "a b c x e" for number, line in enumerate(references)]
    once = [written(tmp_path / "1", name, config, [lines]) for name, lines in (("a", worse), ("b", better))]
    twice = [written(tmp_path / "2", name, config, [lines] * 2) for name, lines in (("a", worse), ("b", better))]
    (test_set,) = sets_of(once[0].runs[0])
    assert compared(once[0], once[1], test_set) == compared(twice[0], twice[1], test_set)
    delta, p_value = compared(twice[0], twice[1], test_set)
    assert float(delta) > 0
    assert 0 < float(p_value) < 1
    assert compared(twice[0], twice[0], test_set) == ("", "")
    row = [line for line in table(twice) if line.startswith("| b")]
    assert row == [f"| b | 2 | 0.0 M | 2 | 2 | 4.00 ± 0.00 | 5.00 ± 7.07 | {delta} | {p_value} |"]
