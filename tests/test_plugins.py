"""Plugins: parts of a user's own file in configs, training, checkpoints, worker processes and commands."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch

import nmt
from nmt.checkpoint import find, read_metadata
from nmt.cli.average import main as average
from nmt.cli.evaluate import main as evaluate
from nmt.cli.train import main as train
from nmt.cli.translate import main as translate
from nmt.errors import CheckpointError, ConfigError
from nmt.runtime.worker_pool import WorkerPool
from nmt.tasks import plugins
from nmt.tasks.components import parse_saved_config, read_config
from nmt.tasks.plugins import FAMILIES, execute_plugins, load_plugin, plugin_sources
from nmt.tasks.translation.loading import build_system, load_ensemble, load_model
from nmt.tasks.translation.text_translation import translate_lines
from tests.support.commands import Call
from tests.support.models import CPU
from tests.support.training_runs import CONFIG, final_weights, write_corpus

PAGE = (Path(__file__).parent.parent / "docs" / "plugins.md").read_text(encoding="utf-8")
PYTHON, _SHOWN = (re.findall(rf"```{kind}\n(.*?)```", PAGE, re.DOTALL)[0] for kind in ("python", "yaml"))
YAML = "plugins: [my_attention.py]\nmodel:\n" + _SHOWN.partition("model:\n")[2]
"""What the page's YAML has beside a run and its data."""
OTHERS = '''
"""A part of every other kind."""
from typing import Literal

import torch
from torch import optim

from nmt.config.registry import PartOptions
from nmt.model.attention.base import COVERAGES, WINDOWS
from nmt.model.attention.coverage import NeuralCoverage, NeuralOptions
from nmt.model.attention.windows import GlobalWindow, GlobalWindowOptions
from nmt.model.cells import add_cell
from nmt.model.wiring.bahdanau import BahdanauOptions, BahdanauWiring
from nmt.model.wiring.base import WIRINGS
from nmt.training.objectives.base import OBJECTIVES, ObjectiveOptions, TranslationObjective
from nmt.training.optimizers import OPTIMIZERS, OptimizerOptions
from nmt.training.schedules import SCHEDULES, Schedule, ScheduleOptions


class MyWindowOptions(GlobalWindowOptions):
    kind: Literal["mine"] = "mine"


@WINDOWS.register("mine", MyWindowOptions)
class MyWindow(GlobalWindow):
    pass


class MyCoverageOptions(NeuralOptions):
    kind: Literal["mine"] = "mine"


@COVERAGES.register("mine", MyCoverageOptions)
class MyCoverage(NeuralCoverage):
    pass


class MyWiringOptions(BahdanauOptions):
    kind: Literal["mine"] = "mine"


@WIRINGS.register("mine", MyWiringOptions)
class MyWiring(BahdanauWiring):
    pass


def mgu_step(from_input, from_state, state):
    (before,) = state
    input_f, input_n = from_input.chunk(2, dim=-1)
    state_f, state_n = from_state.chunk(2, dim=-1)
    forget = torch.sigmoid(input_f + state_f)
    candidate = torch.tanh(torch.addcmul(input_n, forget, state_n))
    return (torch.lerp(before, candidate.to(before.dtype), forget.to(before.dtype)),)


add_cell("mgu", "Minimal gated unit.", gates=2, step=mgu_step)


class MyObjectiveOptions(ObjectiveOptions):
    kind: Literal["mine"] = "mine"


@OBJECTIVES.register("mine", MyObjectiveOptions)
def mine(options, translator, training, tokenizers):
    return TranslationObjective(translator, training.label_smoothing)


class RAdamOptions(OptimizerOptions):
    kind: Literal["radam"] = "radam"


@OPTIMIZERS.register("radam", RAdamOptions)
def radam(options, module):
    return optim.RAdam([each for each in module.parameters() if each.requires_grad], lr=options.learning_rate)


class HalfOptions(ScheduleOptions):
    kind: Literal["half"] = "half"


@SCHEDULES.register("half", HalfOptions)
class Half(Schedule):
    def decay(self, step):
        return 0.5
'''
EVERY_PART = """\
  attention: {score: additive, window: mine, coverage: mine, wiring: mine}
"""


@pytest.fixture(autouse=True)
def _a_process_without_plugins(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plugins, "_executed", {})
    monkeypatch.setattr(plugins, "_reported", set())


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working directory, with a corpus, the page's plugin, and a YAML that uses it."""
    monkeypatch.chdir(tmp_path)
    write_corpus(tmp_path)
    (tmp_path / "my_attention.py").write_text(PYTHON, encoding="utf-8")
    write_yaml(tmp_path)
    return tmp_path


def write_yaml(folder: Path, own: str = YAML, name: str = "my.yaml", run: str = "run") -> None:
    """The page's YAML, merged into a complete one: its `plugins`, and its attention."""
    named, _, attention = own.partition("model:\n")
    text = CONFIG.format(folder=folder).replace("/run\n", f"/{run}\n")
    text, replaced = re.subn(r"^  attention: .*\n", lambda _: attention, text, flags=re.MULTILINE)
    assert replaced == 1
    (folder / name).write_text(named + text, encoding="utf-8")


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the page's files, in which its YAML was trained."""
    folder = tmp_path_factory.mktemp("trained")
    write_corpus(folder)
    (folder / "my_attention.py").write_text(PYTHON, encoding="utf-8")
    write_yaml(folder)
    command = [sys.executable, "-m", "nmt.cli.train", "--config", "my.yaml", "--set", "training.max_epochs=1"]
    subprocess.run(command, cwd=folder, check=True, capture_output=True)
    return folder


# The page


@pytest.mark.usefixtures("threads_and_generators_as_they_were")
def test_the_page_is_right(here: Path, trained: Path, call: Call) -> None:
    assert call(train, "--config", "my.yaml", "--check").code == 0
    printed = call(train, "--config", "my.yaml", "--print-config").output
    assert "plugins: [my_attention.py]\n" in printed
    assert "# Divides the scores.\n      temperature: 0.5\n" in printed
    options = ("--model", trained / "run", "--plugin", "my_attention.py")
    ended = call(translate, *options, stdin=b"a b c\n")
    assert (ended.code, ended.errors, ended.output.count("\n")) == (0, "", 1)
    scored = ("--source", "valid.xx", "--reference", "valid.yy", "--metrics", "bleu", "--samples", 0)
    assert call(evaluate, *options, *scored).code == 0


def test_options_keep_their_comments_in_another_working_directory(
    here: Path, call: Call, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = here / "other"
    other.mkdir()
    for name in ("my.yaml", "my_attention.py"):
        shutil.copy(here / name, other / name)
    for folder in (here, other):
        monkeypatch.chdir(folder)
        plugins._executed.clear()
        assert "# Divides the scores.\n" in call(train, "--config", "my.yaml", "--print-config").output


def test_the_page_lists_every_registry() -> None:
    names = set(re.findall(r"`nmt\.[a-z_.]+\.([A-Z]+)`", PAGE)) | {"CELLS"}
    modules = [module for name, module in sys.modules.items() if name.startswith("nmt.")]
    known = {name for module in modules for name, value in vars(module).items() if value in FAMILIES.values()}
    assert {"SCORES", "NORMALIZERS", "SCHEDULES"} < names
    assert names == known


# Checkpoints


def test_a_checkpoint_names_its_plugin_and_has_no_code(trained: Path) -> None:
    checkpoint = find(trained / "run")
    (saved,) = read_metadata(checkpoint).plugins
    digest = hashlib.sha256(PYTHON.encode()).hexdigest()
    parts = ["score distance", "normalizer tempered"]
    assert (saved.name, saved.sha256, saved.parts) == ("my_attention.py", digest, parts)
    assert not list(trained.glob("run/**/*.py"))


def test_a_plugin_that_is_not_named_is_not_executed(
    trained: Path, call: Call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not even where the file lies at the path that the checkpoint's config has."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "my_attention.py").write_text("open('executed', 'w')\n" + PYTHON)
    ended = call(translate, "--model", trained / "run", stdin=b"a\n")
    checkpoint, digest = find(trained / "run"), hashlib.sha256(PYTHON.encode()).hexdigest()
    assert (ended.code, ended.output) == (2, "")
    assert ended.errors == (
        f"{checkpoint}: needs the plugin my_attention.py (SHA-256 {digest[:12]}), which registers score distance, "
        "normalizer tempered; name its file with --plugin, or with plugins= in Python\n"
    )
    (tmp_path / "other.py").write_text(OTHERS)
    assert call(translate, "--model", trained / "run", "--plugin", "other.py", stdin=b"a\n").errors == ended.errors
    assert call(average, trained / "run", "--last", 1, "--output", tmp_path / "mean").errors == ended.errors
    assert not (tmp_path / "executed").exists()


def test_a_changed_plugin_serves_with_a_warning_and_a_renamed_one_without(
    trained: Path, call: Call, tmp_path: Path
) -> None:
    command = (translate, "--model", trained / "run", "--plugin")
    renamed = tmp_path / "renamed.py"
    shutil.copy(trained / "my_attention.py", renamed)
    same = call(*command, renamed, stdin=b"a b c\n")
    assert (same.code, same.errors) == (0, "")
    changed = tmp_path / "my_attention.py"
    changed.write_text(PYTHON + "# more\n")
    plugins._executed.clear()
    ended = call(*command, changed, stdin=b"a b c\n")
    assert (ended.code, ended.output) == (0, same.output)
    before, now = (hashlib.sha256(text.encode()).hexdigest()[:12] for text in (PYTHON, PYTHON + "# more\n"))
    (line,) = ended.errors.splitlines()
    assert line.endswith(
        f"{find(trained / 'run')} was made with another my_attention.py (SHA-256 {before}; {changed} has {now}): if "
        "its mathematics has changed, results are wrong"
    )


def test_the_mean_of_checkpoints_names_the_plugin(trained: Path, call: Call, tmp_path: Path) -> None:
    mean = tmp_path / "mean"
    named = ("--plugin", trained / "my_attention.py")
    assert call(average, trained / "run", "--last", 1, "--output", mean, *named).code == 0
    assert read_metadata(mean).plugins == read_metadata(find(trained / "run")).plugins
    assert call(translate, "--model", mean, *named, stdin=b"a\n").code == 0


@pytest.mark.usefixtures("threads_and_generators_as_they_were")
def test_a_run_resumes_with_its_plugin_to_the_last_bit(here: Path, call: Call) -> None:
    whole = ("--set", "training.max_epochs=2", "--set", "training.schedule=constant")
    assert call(train, "--config", "my.yaml", "--set", "run=whole", *whole).code == 0
    first = ("--set", "training.max_epochs=1", "--set", "training.schedule=constant")
    assert call(train, "--config", "my.yaml", *first).code == 0
    plugins._executed.clear()
    resumed = call(train, "--config", "run/config.yaml", *whole)
    assert (resumed.code, "going on from" in resumed.errors, "another" in resumed.errors) == (0, True, False)
    left, right = final_weights("whole"), final_weights("run")
    assert left.keys() == right.keys()
    assert all(torch.equal(left[name], right[name]) for name in left)
    # A change of the file is no reason to lose the run.
    (here / "my_attention.py").write_text(PYTHON + "# more\n")
    plugins._executed.clear()
    more = call(train, "--config", "my.yaml", "--set", "training.max_epochs=3", "--set", "training.schedule=constant")
    assert (more.code, more.errors.count("was made with another my_attention.py")) == (0, 1)


def test_models_with_two_versions_of_a_plugin_are_one_ensemble(trained: Path, tmp_path: Path, call: Call) -> None:
    """The same weights, with the temperature as it is and doubled: each model has its own version."""
    other = tmp_path / "my_attention.py"
    other.write_text(PYTHON.replace("scores / self.temperature", "scores / (2.0 * self.temperature)"))
    copy = tmp_path / "copy"
    shutil.copytree(find(trained / "run"), copy)
    metadata = json.loads((copy / "metadata.json").read_text())
    metadata["plugins"][0]["sha256"] = hashlib.sha256(other.read_bytes()).hexdigest()
    (copy / "metadata.json").write_text(json.dumps(metadata))

    for path in (trained / "my_attention.py", other):
        load_plugin(path)
    assert "distance" not in FAMILIES["score"]
    models = load_ensemble([trained / "run", copy], None, CPU)
    weigh = [model.translator.decoder.wiring.attention.normalizer.weigh for model in models]
    scores = torch.tensor([[0.0, 1.0]])
    expected = [torch.softmax(scores / 0.5, -1), torch.softmax(scores / 1.0, -1)]
    for each, weights in zip(weigh, expected, strict=True):
        torch.testing.assert_close(each(scores), weights)
    ended = call(
        *(translate, "--model", trained / "run", "--model", copy, "--plugin", trained / "my_attention.py"),
        *("--plugin", other, "--scores"),
        stdin=b"a b c\n",
    )
    assert (ended.code, ended.errors) == (0, "")


def test_the_python_api_has_plugins(trained: Path) -> None:
    with pytest.raises(CheckpointError, match="needs the plugin my_attention"):
        nmt.load(trained / "run")
    with pytest.raises(ConfigError, match=r"^plugins: missing\.py: no such file"):
        nmt.load(trained / "run", plugins=["missing.py"])
    assert len(nmt.load(trained / "run", plugins=[trained / "my_attention.py"]).translate(["a b"])) == 1


# Processes


def test_workers_have_the_plugin(trained: Path) -> None:
    load_plugin(trained / "my_attention.py")
    model = load_model(trained / "run", None, CPU)
    alone = replace(build_system([model], CPU), pool=None)
    lines = ["a b c", "d e", "f g h a"] * 4
    search = model.config.search.model_copy(update={"batch_tokens": 10})
    expected = translate_lines(alone, lines, search)
    pool = WorkerPool(2, start_after=0.0, prepare=Prepare())
    pool.start(alone, 2, 1)
    assert pool.workers is not None
    while not pool.workers.ready:
        time.sleep(0.05)
    assert translate_lines(replace(alone, pool=pool), lines, search) == expected
    pool.close()
    assert build_system([model], CPU).pool._prepare.args == (plugin_sources(),)


class Prepare:
    """Calls `execute_plugins` in a worker."""

    def __init__(self) -> None:
        self.sources = plugin_sources()

    def __call__(self) -> None:
        execute_plugins(self.sources)


@pytest.mark.slow
@pytest.mark.usefixtures("here")
def test_two_processes_train_with_a_plugin() -> None:
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    command = [*torchrun, "-m", "nmt.cli.train", "--config", "my.yaml", "--set", "training.max_steps=2"]
    subprocess.run(command, check=True, timeout=300, env={**os.environ, "OMP_NUM_THREADS": "1"})
    assert [each.name for each in read_metadata(find("run")).plugins] == ["my_attention.py"]


@pytest.mark.usefixtures("here")
def test_processes_with_different_files_do_not_train(monkeypatch: pytest.MonkeyPatch) -> None:
    config = read_config("my.yaml")
    (own,) = plugins.plugins_of(config)
    others = [(own,), (own.model_copy(update={"sha256": "f" * 64}),)]
    monkeypatch.setattr(plugins, "gather_objects", lambda value: others)
    with pytest.raises(ConfigError) as caught:
        plugins.require_equal_plugins(config)
    digest = hashlib.sha256(PYTHON.encode()).hexdigest()[:12]
    assert caught.value.problems == (
        f"plugins: my_attention.py has the SHA-256 {digest} here and ffffffffffff in process 1; give all processes the "
        "same file",
    )


# Every kind of part


@pytest.mark.usefixtures("threads_and_generators_as_they_were")
def test_a_plugin_has_parts_of_every_kind(here: Path, call: Call) -> None:
    (here / "others.py").write_text(OTHERS)
    write_yaml(here, f"plugins: [others.py, my_attention.py]\nmodel:\n{EVERY_PART}", "every.yaml")
    chosen = {
        "model.encoder.cell": "mgu",
        "model.decoder.cell": "mgu",
        "model.attention.normalizer": "tempered",
        "training.optimizer": "{kind: radam, learning_rate: 0.01}",
        "training.schedule": "{kind: half, warmup_steps: 3}",
        "training.objective": "mine",
    }
    overrides = [word for key, value in chosen.items() for word in ("--set", f"{key}={value}")]
    assert call(train, "--config", "every.yaml", *overrides).code == 0
    losses = [
        json.loads(line)["loss"]
        for line in Path("run/metrics.jsonl").read_text().splitlines()
        if json.loads(line)["type"] == "validation"
    ]
    assert losses[-1] < losses[0]
    assert {part for each in read_metadata(find("run")).plugins for part in each.parts} == {
        *("cell mgu", "window mine", "coverage mine", "wiring mine", "normalizer tempered"),
        *("optimizer radam", "schedule half", "objective mine"),
    }
    named = ("--plugin", "others.py", "--plugin", "my_attention.py")
    assert call(translate, "--model", "run", *named, "--precision", "int8", stdin=b"a b\n").code == 0


def test_an_optimizer_that_is_not_fused_skips_what_is_not_finite() -> None:
    from nmt.training.optimizers import step_where

    weight = torch.nn.Parameter(torch.ones(2))
    optimizer = torch.optim.RAdam([weight], lr=0.1)
    weight.grad = torch.tensor([float("inf"), 1.0])
    step_where(optimizer, torch.tensor(False))
    assert (weight.tolist(), optimizer.state_dict()["state"]) == ([1.0, 1.0], {})
    weight.grad = torch.ones(2)
    step_where(optimizer, torch.tensor(True))
    assert weight.tolist() != [1.0, 1.0]


# Mistakes

REGISTERED = '@SCORES.register("{name}", Mine)\nclass Own:\n    pass\n'
NULL_BYTES = "SyntaxError" if sys.version_info >= (3, 11, 4) else "ValueError"
HEAD = """\
from typing import Literal
from nmt.model.attention.base import SCORES, ScoreOptions
class Mine(ScoreOptions):
    kind: Literal["mine"] = "mine"
"""


@pytest.mark.parametrize(
    ("source", "problem"),
    [
        ("x = 1\ny = (\n", "my.py:2: SyntaxError: '(' was never closed"),
        ("x = 1\nz = x + y\n", "my.py:2: NameError: name 'y' is not defined"),
        ("def f():\n    raise ValueError('two\\nlines')\nf()\n", "my.py:2: ValueError: two lines"),
        ("import missing_package\n", "my.py:1: ModuleNotFoundError: No module named 'missing_package'"),
        ("import sys\nsys.exit(3)\n", "my.py:2: SystemExit: 3"),
        ("x = 1\n", "my.py: registers no part; register one by a decorator, such as SCORES.register"),
        (HEAD + 2 * REGISTERED.format(name="mine"), "my.py:8: score 'mine' is registered twice; choose another name"),
        (
            HEAD + REGISTERED.format(name="dot"),
            "my.py:5: score 'dot': its options have kind typing.Literal['mine']; give them Literal['dot']",
        ),
        (
            HEAD + 'Mine.model_fields["kind"].annotation = str\n' + REGISTERED.format(name="additive"),
            "my.py:6: score 'additive' is registered twice; choose another name",
        ),
        ("\0", f"my.py: {NULL_BYTES}: source code string cannot contain null bytes"),
        ("x = 1\ny = '\xe9'\n", "my.py:2: SyntaxError:"),
    ],
)
def test_a_mistake_in_a_plugin_is_one_line(here: Path, call: Call, source: str, problem: str) -> None:
    (here / "my.py").write_bytes(source.encode("latin-1"))
    before = {name: set(family) for name, family in FAMILIES.items()}
    named = call(train, "--config", "my.yaml", "--check", "--plugin", "my.py")
    assert (named.code, named.errors.count("\n")) == (2, 1)
    assert named.errors.startswith(f"--plugin: {problem}")
    write_yaml(here, "plugins:\n  - my_attention.py\n  - my.py\n" + YAML.partition("\n")[2])
    written = call(train, "--config", "my.yaml", "--check")
    assert (written.code, written.errors.count("\n")) == (2, 1)
    assert written.errors.startswith(f"my.yaml:3: plugins.1: {problem}")
    assert {name: set(family) for name, family in FAMILIES.items()} == before
    assert not [name for name in sys.modules if name.startswith("nmt_plugin") and "my.py" in str(sys.modules[name])]


def test_missing_files_are_reported_together(here: Path) -> None:
    write_yaml(here, "plugins: [one.py, two.py]\nmodel:\n")
    with pytest.raises(ConfigError) as caught:
        read_config("my.yaml")
    where = f"no such file in {here}, where relative paths begin"
    assert caught.value.problems == tuple(
        f"my.yaml:1: plugins.{number}: {name}: {where}" for number, name in enumerate(("one.py", "two.py"))
    )
    with pytest.raises(ConfigError, match=r"^--plugin: \.: cannot be read: Is a directory$"):
        read_config("my.yaml", plugins=["."])


@pytest.mark.parametrize(
    ("written", "problem"),
    [
        ("a.py", "plugins: must be a list"),
        ("[3]", "plugins.0: must be text"),
        ('[""]', "plugins.0: must not"),
    ],
)
def test_what_is_no_list_of_files_is_a_mistake(here: Path, written: str, problem: str) -> None:
    write_yaml(here, f"plugins: {written}\nmodel:\n")
    with pytest.raises(ConfigError, match=rf"^my\.yaml:1: {re.escape(problem)}"):
        read_config("my.yaml")


def test_two_plugins_of_one_config_do_not_share_a_name(here: Path) -> None:
    (here / "again.py").write_text(PYTHON + "# again\n")
    write_yaml(here, "plugins: [my_attention.py, again.py]\nmodel:\n")
    with pytest.raises(ConfigError) as caught:
        read_config("my.yaml")
    assert caught.value.problems == (
        "my.yaml:1: plugins: score 'distance' is registered by my_attention.py and by again.py; keep one",
    )
    # The same content under two names is one plugin.
    shutil.copy("my_attention.py", "same.py")
    assert read_config("my.yaml", ["plugins=[my_attention.py]"], ["same.py"]).plugins == ["my_attention.py", "same.py"]


def test_a_name_is_valid_only_with_its_plugin(here: Path) -> None:
    read_config("my.yaml")
    with pytest.raises(ConfigError) as caught:
        read_config("my.yaml", ["plugins=[]"])
    assert caught.value.problems[0].endswith(
        "model.attention.score: unknown score 'distance'; choose from additive, concat, cosine, dot, general, "
        "scaled_dot, location, mean, none; one of your own needs its file in plugins"
    )
    assert read_config("my.yaml", ["plugins=[]"], ["my_attention.py"]).plugins == ["my_attention.py"]
    # A typing error needs no plugin.
    with pytest.raises(ConfigError, match=r"did you mean 'additive'\?.*distance\)$"):
        read_config("my.yaml", ["model.attention.score=aditive"])


def test_the_config_of_a_checkpoint_executes_nothing(here: Path) -> None:
    text = Path("my.yaml").read_text()
    with pytest.raises(ConfigError, match="unknown score 'distance'"):
        parse_saved_config(text, "saved")
    assert plugins._executed == {}
    with pytest.raises(CheckpointError, match="needs the plugin"):
        plugins.plugins_for(here, [plugins.SavedPlugin(name="x.py", sha256="0" * 64, parts=["score x"])])
