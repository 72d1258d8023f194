"""Score a model on tasks, in points from 0 to 100, by a harness of others."""

import contextlib
import importlib
import importlib.metadata
import io
import json
import logging
import math
import os
import shlex
import shutil
import signal
import subprocess
import tempfile
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

import torch
from accelerate import Accelerator
from peft import PeftModel
from torch import nn

from lora_scaling.config import RunConfig
from lora_scaling.errors import UserError
from lora_scaling.hub import downloaded
from lora_scaling.paths import user_cache
from lora_scaling.ranks import rank, world_size
from lora_scaling.settings import value_at
from lora_scaling.text import printable
from lora_scaling.training.checkpoints import local_folder
from lora_scaling.training.device import Device
from lora_scaling.training.models import BaseModel, load_base
from lora_scaling.training.ranks import broadcast_from_rank0, on_all_ranks
from lora_scaling.training.saving import save_trained
from lora_scaling.training.sharding import is_sharded

_16_BITS = {"bf16": "bfloat16", "fp16": "float16"}


@dataclass(frozen=True, kw_only=True)
class TaskScore:
    """The score of a task by its main metric, of which more is better; None if it has no such metric."""

    metric: str | None
    points: float | None
    stderr: float | None
    samples: int | None


class Scorer(Protocol):
    """What scores the model of a run: its base, or what was trained.

    Of several processes, all take part, and the first gets the scores.
    """

    name: str
    version: str | None
    tasks: tuple[str, ...]

    def score(self, *, trained: bool) -> dict[str, TaskScore]: ...


def make_scorer(config: RunConfig, device: Device, network: nn.Module, base: BaseModel) -> Scorer | None:
    """Load the tasks of a run; None if it has none.

    Raises:
        UserError: the harness is not installed, or a task is unknown or cannot be loaded.
    """
    if config.score.name == "none":
        return None
    kind = _EuroEval if config.score.name == "euroeval" else _LmEval
    return on_all_ranks(lambda: kind(config, device, network, base))


def mean_points(scores: Mapping[str, TaskScore]) -> float | None:
    """Return the mean over tasks; None if one has no points."""
    points = [score.points for score in scores.values()]
    known = [value for value in points if value is not None]
    return sum(known) / len(known) if known and len(known) == len(points) else None


def _version(package: str, remedy: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        raise UserError(f"score: needs the package {package}; {remedy}, or use score=none") from None


class _LmEval:
    """Scores the network as it stands, with EleutherAI's lm-evaluation-harness.

    Of several processes, each takes a share of the examples. A sharded model is computed by all together, so that all
    take the same ones.
    """

    name = "lm_eval"

    def __init__(self, config: RunConfig, device: Device, network: nn.Module, base: BaseModel) -> None:
        self.version: str | None = _version("lm-eval", "pip install 'lora-scaling[lm-eval]'")
        self.tasks = config.score.tasks
        self._config, self._network, self._base = config, network, base
        self._precision = _16_BITS.get(device.precision)
        with _quietly():
            files = [Path(task).expanduser() for task in self.tasks if task.endswith((".yaml", ".yml"))]
            for file in files:
                if not file.is_file():
                    raise UserError(f"score.tasks: got {file}, which does not exist; give a task's name or file")
            tasks: Any = importlib.import_module("lm_eval.tasks")
            self._manager = tasks.TaskManager(include_defaults=len(files) < len(self.tasks))
            self._named: list[Any] = [str(Path(task).expanduser()) for task in self.tasks]
            try:
                self._manager.load(self._named)
            except Exception as error:
                reason = " ".join(str(error).split())[:300] or type(error).__name__
                raise UserError(
                    f"score.tasks: got {', '.join(self.tasks)}, which lm-eval cannot load ({reason}); "
                    "`lm_eval ls tasks` lists what it has"
                ) from None

    def score(self, *, trained: bool) -> dict[str, TaskScore]:
        """Evaluate all tasks with the weights of this moment."""
        with _quietly():
            harness: Any = importlib.import_module("lm_eval")
            models: Any = importlib.import_module("lm_eval.models.huggingface")
            self._network.eval()
            model = models.HFLM(
                pretrained=self._network,
                tokenizer=self._base.tokenizer,
                backend="causal",
                batch_size=self._config.batch_size,
                mixed_precision_dtype=self._precision,
            )
            if world_size() > 1 and not is_sharded(self._network):
                model._rank, model._world_size, model.accelerator = rank(), world_size(), Accelerator()
            found: Any = harness.simple_evaluate(
                model=model,
                tasks=self._named,
                task_manager=self._manager,
                limit=self._config.score.limit,
                log_samples=False,
                bootstrap_iters=0,  # standard errors of means are computed; those by bootstrap take minutes
            )
        if found is None:  # the first process has them
            return {}
        return {
            task: _task_score(found["results"][task], found["higher_is_better"].get(task) or {}, counts)
            for task, counts in found["n-samples"].items()
        }


def _task_score(
    results: Mapping[str, Any], higher_is_better: Mapping[str, Any], counts: Mapping[str, int]
) -> TaskScore:
    """Take the first metric of a task of which more is better; shares become points of 100."""
    for key, value in results.items():
        metric, _, _filter = key.partition(",")
        if metric.endswith("_stderr") or not higher_is_better.get(metric) or not isinstance(value, (int, float)):
            continue
        scale = 100.0 if 0 <= value <= 1 else 1.0
        stderr = results.get(f"{metric}_stderr,{_filter}")
        known = isinstance(stderr, (int, float)) and math.isfinite(stderr)
        return TaskScore(
            metric=metric,
            points=scale * value,
            stderr=scale * stderr if known else None,  # type: ignore[operator]
            samples=counts.get("effective"),
        )
    return TaskScore(metric=None, points=None, stderr=None, samples=counts.get("effective"))


class _EuroEval:
    """Scores saved weights with EuroEval's program, from an environment of its own, and reads the results it writes."""

    name = "euroeval"

    def __init__(self, config: RunConfig, device: Device, network: nn.Module, base: BaseModel) -> None:
        self.version: str | None = None
        self.tasks = config.score.tasks
        self._config, self._device, self._network, self._base = config, device, network, base
        if config.model.weights == "random" or config.model.id is None:
            raise UserError(
                "score: got euroeval with random weights or a GGUF file, which it cannot load; "
                "use score=lm_eval, or a pretrained model.id"
            )
        command = config.score.command or ""
        program, *self._options = _words(command) or [""]
        found = shutil.which(Path(program).expanduser())
        if found is None and rank() == 0:  # which alone starts it
            raise UserError(
                f"score.command: got {command}, which is no program here; install EuroEval in an environment of its "
                "own (pip install 'euroeval[generative]'), and give the path of its program"
            )
        self._program = str(Path(found or program).absolute())  # it is started in another folder

    def score(self, *, trained: bool) -> dict[str, TaskScore]:
        """Evaluate the base model, or what was trained."""
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            if trained:
                save_trained(self._network, self._base, folder)  # which takes all processes
            if rank() > 0:
                while broadcast_from_rank0(False):
                    pass
                return {}
            problem: Exception | None = None
            found: dict[str, TaskScore] = {}
            try:
                model = self._whole_model(folder) if trained else self._base_model(folder)
                self._device.release_memory()  # for the other program
                found = self._evaluate(model, folder)
            except Exception as error:
                problem = error
            broadcast_from_rank0(False)
            if problem is not None:
                raise problem
            return found

    def _base_model(self, folder: Path) -> Path:
        """Return a name for the base model's files that no other run uses: EuroEval keeps answers by the name."""
        model = self._config.model
        assert model.id is not None
        files = local_folder(model) or downloaded(model.id, model.revision)
        (folder / "base").symlink_to(Path(files).absolute())
        return folder / "base"

    def _whole_model(self, folder: Path) -> Path:
        """Return the folder of the trained model; adapters are merged into the base, because EuroEval takes none here.

        Those of `qlora` are merged into the base in 16 or 32 bits, as it is common.
        """
        if (folder / "model").is_dir():
            return folder / "model"
        unquantized = replace(self._config.method, name="lora")
        config = replace(self._config, method=unquantized, sharding="none", attn_implementation="auto")
        host = Device(kind="cpu", name="host", precision=self._device.precision)
        base: Any = load_base(config, host).model
        merged: Any = PeftModel.from_pretrained(base, str(folder / "adapter"))
        merged = merged.merge_and_unload()
        merged.config.use_cache = True
        merged.save_pretrained(str(folder / "merged"))
        self._base.tokenizer.save_pretrained(str(folder / "merged"))
        return folder / "merged"

    def _evaluate(self, model: Path, folder: Path) -> dict[str, TaskScore]:
        """Have the program evaluate a model in a folder of its own, where it writes its results."""
        words = [self._program, "--model", str(model), "--device", self._device.kind, "--no-progress-bar"]
        words += ["--raise-errors", "--save-results", "--cache-dir", str(user_cache() / "lora-scaling" / "euroeval")]
        words += [word for task in self.tasks for word in ("--dataset", task)]
        if self._config.score.limit is not None:
            words += ["--num-iterations", str(self._config.score.limit)]
        if self._device.kind == "cuda":
            free, whole = torch.cuda.mem_get_info()
            words += ["--gpu-memory-utilization", f"{max(0.05, min(0.8, free / whole - 0.02)):.2f}"]
        words += self._options  # the last of an option counts
        log = folder / "output"
        with open(log, "wb") as output:
            process = subprocess.Popen(
                words,
                cwd=folder,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                env=_environment(),
                start_new_session=True,
            )
            try:
                _wait(process)
            finally:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)  # what it started, and itself if the run is interrupted
                process.wait()
        results = folder / "euroeval_benchmark_results.jsonl"
        if process.returncode != 0 or not results.is_file():
            lines = log.read_text(encoding="utf-8", errors="replace").split("\n")
            last = next((line.strip() for line in reversed(lines) if line.strip()), "it wrote nothing")
            raise RuntimeError(f"EuroEval ended with status {process.returncode} ({printable(last[:300])})")
        documents = _result_lines(results)
        self.version = next((str(d["euroeval_version"]) for d in documents if d.get("euroeval_version")), None)
        missing = [task for task in self.tasks if task not in {document.get("dataset") for document in documents}]
        if missing:
            raise RuntimeError(f"EuroEval gave no result for {', '.join(missing)}")
        return {task: _euroeval_score(next(d for d in documents if d["dataset"] == task)) for task in self.tasks}


# What a launcher of several processes, and Python, tell the processes that they start.
_NOT_ITS_OWN = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT", "GROUP_RANK")
_BEAT_S = 60.0


def _environment() -> dict[str, str]:
    """Return the environment of a program that is another Python's, and one process."""
    left_out = (*_NOT_ITS_OWN, "PYTHONPATH", "PYTHONHOME", "VIRTUAL_ENV")
    return {name: value for name, value in os.environ.items() if name not in left_out}


def _wait(process: "subprocess.Popen[bytes]") -> None:
    """Wait for a program; the other processes of a run hear every minute that it goes on, as they wait for an hour."""
    while True:
        try:
            process.wait(_BEAT_S)
        except subprocess.TimeoutExpired:
            broadcast_from_rank0(True)
        else:
            return


def _words(command: str) -> list[str]:
    try:
        return shlex.split(command)
    except ValueError as error:
        raise UserError(f"score.command: got {command}, which cannot be read ({error}); quote its words") from None


def _result_lines(path: Path) -> list[Mapping[str, Any]]:
    """Read EuroEval's results, a JSON object per line."""
    lines = path.read_text(encoding="utf-8").splitlines()
    documents = [json.loads(line) for line in lines if line.strip()]
    return [document for document in documents if isinstance(document, Mapping)]


def _euroeval_score(document: Mapping[str, Any]) -> TaskScore:
    """Take EuroEval's first total, `test_<metric>`, which is in points; what is no number is unknown."""
    total = value_at(document, "results.total", {})
    for key, value in total.items():
        if key.startswith("test_") and not key.endswith("_se"):
            half = _finite(total.get(f"{key}_se"))  # of a 95 % interval
            return TaskScore(
                metric=key.removeprefix("test_"),
                points=_finite(value),
                stderr=None if half is None else half / 1.96,
                samples=None,
            )
    return TaskScore(metric=None, points=None, stderr=None, samples=None)


def _finite(value: Any) -> float | None:
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
    return float(value) if is_number and math.isfinite(value) else None


@contextlib.contextmanager
def _quietly() -> Iterator[None]:
    """Keep the harness from printing, warning and drawing bars; and the random numbers of the run from its seeds."""
    loggers = [logging.getLogger(name) for name in ("lm_eval", "datasets")]
    levels = [logger.level for logger in loggers]
    state = torch.get_rng_state()
    try:
        for logger in loggers:
            logger.setLevel(logging.ERROR)
        with contextlib.suppress(ImportError):
            datasets: Any = importlib.import_module("datasets")
            datasets.disable_progress_bars()
        with warnings.catch_warnings(), contextlib.redirect_stderr(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        torch.set_rng_state(state)
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
