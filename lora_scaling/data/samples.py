"""Load samples, and split them into those for training and those held out. Does not import torch."""

import codecs
import contextlib
import functools
import hashlib
import itertools
import json
import logging
import random
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from lora_scaling.config import DataConfig, RunConfig
from lora_scaling.data.files import FORMATS, read_beginning, rows_of
from lora_scaling.data.layouts import Message, Sample, convert_rows
from lora_scaling.data.synthetic import synthetic_samples
from lora_scaling.errors import UserError
from lora_scaling.hub import look_for_hub
from lora_scaling.paths import in_home

__all__ = ["Message", "Sample", "SampleSplit", "load_samples", "split_samples"]

_CHECKED_BYTES = 1_000_000  # of a file, before a model is loaded


@dataclass(frozen=True, kw_only=True)
class SampleSplit:
    """Training and held-out samples.

    `available` counts all usable samples of the source, held-out ones included (for synthetic data, those made).
    `skipped` counts the rows without an answer, which are not usable. `fingerprint` is a SHA-256 of the texts in order.
    """

    train: list[Sample]
    evaluation: list[Sample]
    available: int
    skipped: int
    fingerprint: str


def load_samples(data: DataConfig, needed: int) -> list[Sample]:
    """Load the first `needed` samples in the order of `data.seed`, so that fewer samples are a prefix of more.

    Raises:
        UserError: the source cannot be read or used, or has fewer samples (and `data.repeat` is false).
    """
    return _split(data, train=needed, evaluation=0).train


def split_samples(config: RunConfig) -> SampleSplit:
    """Load `samples` to train on, and `eval_samples` from the end of the order, the same for every `samples`.

    Raises:
        UserError: as in `load_samples`; held-out samples count as needed too.
    """
    return _split(config.data, train=config.samples, evaluation=config.eval_samples)


def _split(data: DataConfig, *, train: int, evaluation: int) -> SampleSplit:
    if data.kind == "synthetic":
        chosen = synthetic_samples(data, train)
        held = synthetic_samples(data, evaluation, stream="evaluation")
        available, skipped = train + evaluation, 0
    else:
        ordered, skipped = _ordered(data)
        available = len(ordered)
        if data.eval_path is None:
            pool, held = ordered[: max(0, available - evaluation)], ordered[max(0, available - evaluation) :]
            check_enough(data, train, evaluation, available)
        else:
            pool, held = ordered, _evaluation_file(data, evaluation)
            check_enough(data, train, 0, available)
        chosen = list(itertools.islice(itertools.cycle(pool), train))
    return SampleSplit(
        train=chosen,
        evaluation=held,
        available=available,
        skipped=skipped,
        fingerprint=_fingerprint(chosen, held),
    )


def check_beginning(config: RunConfig) -> None:
    """Check the beginning of `data.path`, so that a file of no use is refused before a model is loaded.

    Raises:
        UserError: the file cannot be read or used, or a short one has too few samples.
    """
    data = config.data
    path = in_home(data.path or "")
    with contextlib.suppress(OSError):  # said where the file is opened
        stamp = path.stat().st_mtime_ns
        count = _beginning(str(path), stamp, data.path or "", data.layout, tuple(data.fields.items()))
        if count is not None:
            check_enough(data, config.samples, 0 if data.eval_path else config.eval_samples, count)


@functools.lru_cache(maxsize=8)  # once for all runs of a sweep
def _beginning(path: str, stamp: int, where: str, layout: str, fields: tuple[tuple[str, str], ...]) -> int | None:
    """Read the first samples of a file; return how many it has, or None if it is longer than what was read."""
    raw, whole = read_beginning(path, _CHECKED_BYTES)
    if not whole:
        cut = raw.rfind(b"\n")
        if cut < 0 or raw.removeprefix(codecs.BOM_UTF8).lstrip().startswith(b"["):
            return None  # a list of JSON is read whole or not at all
        raw = raw[:cut]
    samples, _ = samples_of(rows_of(raw, path), layout=layout, fields=dict(fields), where=where)
    return len(samples) if whole else None


def check_enough(data: DataConfig, train: int, evaluation: int, available: int) -> None:
    """Check that there are enough samples.

    Raises:
        UserError: there are too few (and `data.repeat` is false).
    """
    held = f", of which {evaluation} are held out for evaluation" if evaluation else ""
    if available <= evaluation:
        raise UserError(
            f"eval_samples: got {evaluation}, and {data.path} has {available} samples; leave some to train on"
        )
    if train > available - evaluation and not data.repeat:
        raise UserError(
            f"samples: got {train}, and {data.path} has {available} samples{held}; "
            f"ask for {available - evaluation} or fewer, or set data.repeat=true to show them again"
        )


def _ordered(data: DataConfig) -> tuple[list[Sample], int]:
    rows = _hub_rows(data) if data.kind == "hub" else _file_rows(data.path)
    where = data.path or ""
    samples, skipped = samples_of(rows, layout=data.layout, fields=data.fields, where=where)
    random.Random(f"{data.seed}/order").shuffle(samples)
    return samples, skipped


def _evaluation_file(data: DataConfig, needed: int) -> list[Sample]:
    """Load the first samples of `data.eval_path`.

    Raises:
        UserError: it cannot be read or used, or has fewer samples.
    """
    if needed == 0:
        return []
    try:
        samples, _ = samples_of(
            _file_rows(data.eval_path), layout=data.layout, fields=data.fields, where=data.eval_path or ""
        )
    except UserError as error:  # whose sentences begin with the usual setting
        raise UserError(str(error).replace("data.path: ", "data.eval_path: ", 1)) from None
    if needed > len(samples):
        raise UserError(
            f"eval_samples: got {needed}, and {data.eval_path} has {len(samples)} samples; "
            f"ask for {len(samples)} or fewer"
        )
    return samples[:needed]


def samples_of(
    rows: Iterable[tuple[str, Any]], *, layout: str, fields: Mapping[str, str], where: str
) -> tuple[list[Sample], int]:
    """Convert rows with `convert_rows`, and require at least one sample.

    Raises:
        UserError: the source has no sample, or a row cannot be used.
    """
    samples, skipped = convert_rows(rows, layout=layout, fields=fields, where=where)
    if not samples:
        what = f"{skipped} rows and no answer in any" if skipped else "no samples in it"
        raise UserError(f"data.path: got {where}, which has {what}; give instruction samples")
    return samples, skipped


def _file_rows(path: str | None) -> Iterator[tuple[str, Any]]:
    if not path:
        raise UserError(f"data.path: got null; give a file of {FORMATS}")
    try:
        raw = in_home(path).read_bytes()
    except OSError as error:
        raise UserError(
            f"data.path: got {path}, which cannot be read ({error.strerror}); give a file of {FORMATS}"
        ) from None
    yield from rows_of(raw, path)


def _hub_rows(data: DataConfig) -> Iterator[tuple[str, Any]]:
    if not data.path:
        raise UserError("data.path: got null; give a data set of the hub as ORG/NAME")
    try:
        import datasets  # pyright: ignore[reportMissingImports] - an extra
    except ImportError:
        raise UserError(
            f"data.path: got {data.path}, a hub data set, and the package datasets is not installed; "
            'install it with: pip install "lora-scaling[hub]"'
        ) from None
    datasets.disable_progress_bars()
    logging.getLogger("huggingface_hub").setLevel(logging.ERROR)  # hide its retries; a final failure is raised
    look_for_hub()
    with _hub_errors(data):
        loaded = datasets.load_dataset(data.path, split=data.split)
    for i, row in enumerate(loaded, start=1):
        yield f"row {i}", row


@contextlib.contextmanager
def _hub_errors(data: DataConfig) -> Iterator[None]:
    """Turn any failure of the hub's libraries, network included, into one sentence that the user can act on."""
    try:
        yield
    except Exception as error:
        text = " ".join(f"{error} {error.__cause__ or ''}".split())
        name = f"data.path: got {data.path}"
        if "split" in text and data.split in text:
            sentence = f"data.split: got {data.split!r}, which {data.path} does not have: {text[:200]}"
        elif "gated" in text.lower() or "401" in text or "403" in text:
            sentence = f"{name}, which needs permission; accept its terms on the hub and log in (HF_TOKEN)"
        elif type(error).__name__ == "DatasetNotFoundError":
            sentence = f"{name}, which the hub does not have or show; check ORG/NAME, or log in (HF_TOKEN)"
        else:
            sentence = (
                f"{name}, which could not be loaded ({type(error).__name__}: {text[:200]}); "
                "check the network, or use a local file with data=file"
            )
        raise UserError(sentence) from None


def _fingerprint(train: list[Sample], evaluation: list[Sample]) -> str:
    digest = hashlib.sha256()
    for part in (train, evaluation):
        digest.update(f"{len(part)}\n".encode())
        for sample in part:
            turns = [
                (
                    turn.role,
                    turn.content,
                    *(() if turn.trained else (0,)),
                    *(() if turn.calls is None else (turn.calls,)),
                )
                for turn in sample.messages
            ]
            tools = () if sample.tools is None else (sample.tools,)
            digest.update(json.dumps([sample.target_tokens, turns, *tools]).encode())
    return digest.hexdigest()
