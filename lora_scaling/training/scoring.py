"""Score a model on tasks, in points from 0 to 100, by a harness of others."""

import contextlib
import importlib
import importlib.metadata
import importlib.util
import io
import logging
import math
import tempfile
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import nn

from lora_scaling.config import RunConfig
from lora_scaling.errors import UserError
from lora_scaling.ranks import world_size
from lora_scaling.training.device import Device
from lora_scaling.training.models import BaseModel
from lora_scaling.training.saving import save_trained

_16_BITS = {"bf16": "bfloat16", "fp16": "float16"}


@dataclass(frozen=True, kw_only=True)
class TaskScore:
    """The score of a task by its main metric, of which more is better; None if it has no such metric."""

    metric: str | None
    points: float | None
    stderr: float | None
    samples: int | None


class Scorer(Protocol):
    """What scores the model of a run, whatever its weights are at the moment."""

    name: str
    version: str
    tasks: tuple[str, ...]

    def score(self) -> dict[str, TaskScore]: ...


def make_scorer(config: RunConfig, device: Device, network: nn.Module, base: BaseModel) -> Scorer | None:
    """Load the tasks of a run; None if it has none.

    Raises:
        UserError: the harness is not installed, a task is unknown or cannot be loaded, or several processes share the
            run.
    """
    if config.score.name == "none":
        return None
    if world_size() > 1:
        raise UserError(f"score: got {config.score.name} in {world_size()} processes; score in one, or use score=none")
    if config.score.name == "euroeval":
        return _EuroEval(config, device, network, base)
    return _LmEval(config, device, network, base)


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
    """Scores the network as it stands, with EleutherAI's lm-evaluation-harness."""

    name = "lm_eval"

    def __init__(self, config: RunConfig, device: Device, network: nn.Module, base: BaseModel) -> None:
        self.version = _version("lm-eval", "pip install 'lora-scaling[lm-eval]'")
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

    def score(self) -> dict[str, TaskScore]:
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
            found: Any = harness.simple_evaluate(
                model=model,
                tasks=self._named,
                task_manager=self._manager,
                limit=self._config.score.limit,
                log_samples=False,
                bootstrap_iters=0,  # standard errors of means are computed; those by bootstrap take minutes
            )
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
    """Scores saved weights with EuroEval, which loads them itself, with vLLM (its extra `generative`)."""

    name = "euroeval"

    def __init__(self, config: RunConfig, device: Device, network: nn.Module, base: BaseModel) -> None:
        self.version = _version("euroeval", "pip install euroeval")
        self.tasks = config.score.tasks
        if importlib.util.find_spec("vllm") is None:
            raise UserError(
                f"score: got euroeval, which runs language models on vllm, and that is not installed here (EuroEval "
                f"{self.version} asks for versions of it that need an older torch than this program); keep the model "
                "with save_adapter=true and score it in an environment of EuroEval's own, or use score=lm_eval"
            )
        if config.model.weights == "random" or config.model.id is None:
            raise UserError(
                "score: got euroeval with random weights, which it cannot load; "
                "use score=lm_eval, or a pretrained model.id"
            )
        self._config, self._device, self._network, self._base = config, device, network, base
        self._trained = False

    def score(self) -> dict[str, TaskScore]:
        """Evaluate the base model the first time, and afterwards what was trained."""
        assert self._config.model.id is not None
        if not self._trained:
            self._trained = True
            return self._benchmark(self._config.model.id)
        with tempfile.TemporaryDirectory() as folder:
            saved = save_trained(self._network, self._base, Path(folder))
            assert saved is not None
            return self._benchmark(str(Path(folder) / saved["folder"]))

    def _benchmark(self, model: str) -> dict[str, TaskScore]:
        with _quietly():
            euroeval: Any = importlib.import_module("euroeval")
            limit = {} if self._config.score.limit is None else {"num_iterations": self._config.score.limit}
            benchmarker = euroeval.Benchmarker(
                progress_bar=False,
                save_results=False,
                raise_errors=True,
                device=self._device.kind,
                dataset=list(self.tasks),
                **limit,
            )
            results = benchmarker.benchmark(model=model)
        if not results:
            raise RuntimeError(f"EuroEval gave no result for {model}")
        return {result.dataset: _euroeval_score(result) for result in results}


def _euroeval_score(result: Any) -> TaskScore:
    """Take EuroEval's first total, `test_<metric>`, which is in points."""
    total = result.results["total"]
    for key, value in total.items():
        if key.startswith("test_") and not key.endswith("_se"):
            # It gives half of a 95 % interval.
            half = total.get(f"{key}_se")
            stderr = None if half is None else half / 1.96
            return TaskScore(metric=key.removeprefix("test_"), points=value, stderr=stderr, samples=None)
    return TaskScore(metric=None, points=None, stderr=None, samples=None)


@contextlib.contextmanager
def _quietly() -> Iterator[None]:
    """Keep the harness from printing, warning and drawing bars; and the random numbers of the run from its seeds."""
    loggers = [logging.getLogger(name) for name in ("lm_eval", "datasets", "euroeval")]
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
