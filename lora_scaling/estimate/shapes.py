"""Find the shape of a model without a preset, from its `config.json` in a folder, in the hub's cache or on the hub."""

import contextlib
import dataclasses
import functools
import json
import os
from collections.abc import Mapping
from typing import Any

from lora_scaling.config import ModelConfig
from lora_scaling.errors import UserError
from lora_scaling.hub import answers_in_time, hub_cache, hub_url
from lora_scaling.paths import in_home
from lora_scaling.workload import ARCHITECTURES, ModelShape, shape_of

_TIMEOUT_S = 10


def with_shape(model: ModelConfig) -> ModelConfig:
    """Add the shape to a model, unless it is given or the model has no id to look for.

    Raises:
        UserError: its `config.json` is not available, or the architecture is not supported.
    """
    if model.shape is not None or model.id is None:
        return model
    values = _local(model.id)
    if values is None:
        values = _fetched(hub_url(), model.id, model.revision or "main")
    return dataclasses.replace(model, shape=shape_from_config(values, model.id))


def shape_from_config(values: Any, name: str) -> ModelShape:
    """Return the shape in a checkpoint's parsed `config.json`.

    Raises:
        UserError: it is not a model configuration, lacks a width, or has an architecture that is not supported.
    """
    if not isinstance(values, Mapping):
        raise UserError(f"model.id: got {name}, whose config.json is no JSON object; give model.shape.*")
    try:
        shape = shape_of(values)
    except KeyError as error:
        raise UserError(f"model.id: got {name}, whose config.json lacks {error}; give model.shape.*") from None
    except (TypeError, ZeroDivisionError):
        raise UserError(
            f"model.id: got {name}, whose config.json has a width that is no positive whole number; give model.shape.*"
        ) from None
    if shape is None:
        raise UserError(
            f"model.id: got {name}, of architecture {values.get('model_type')!r}; its arithmetic is known for "
            f"{', '.join(ARCHITECTURES)}, without biases: give the nearest shape by model.shape.*"
        )
    return shape


def _local(name: str) -> Any | None:
    """Read from a folder of this name, or from the newest snapshot in the hub's cache."""
    snapshots = (hub_cache() / f"models--{name.replace('/', '--')}" / "snapshots").glob("*/config.json")
    newest = sorted(snapshots, key=lambda path: path.stat().st_mtime, reverse=True)
    for path in (in_home(name) / "config.json", *newest):
        try:
            return json.loads(path.read_text(encoding="utf-8"))
        except OSError:
            continue
        except ValueError:
            raise UserError(f"model.id: got {name}: {path} is not JSON; download it again") from None
    return None


def _first_answer(address: str, wait_s: float) -> None:
    """Ask for a page, to see whether the network is there."""
    from urllib.error import HTTPError
    from urllib.request import Request, urlopen

    with contextlib.suppress(HTTPError):  # an answer as well
        urlopen(Request(address, method="HEAD"), timeout=wait_s).close()


@functools.cache
def _fetched(address: str, name: str, revision: str) -> Any:
    """Fetch from the hub, once per process, because a sweep asks for every run."""
    from urllib.error import URLError
    from urllib.request import Request, urlopen

    request = Request(f"{address}/{name}/resolve/{revision}/config.json")
    if os.environ.get("HF_TOKEN") and address.startswith("https://"):
        request.add_unredirected_header("Authorization", f"Bearer {os.environ['HF_TOKEN']}")
    try:
        if os.environ.get("HF_HUB_OFFLINE", "0") not in ("", "0"):
            raise OSError("HF_HUB_OFFLINE is set")
        if not answers_in_time(lambda wait_s: _first_answer(address, wait_s)):
            raise OSError(f"{address} does not answer")
        with urlopen(request, timeout=_TIMEOUT_S) as response:
            return json.load(response)
    except (OSError, ValueError) as error:
        reason = error.reason if isinstance(error, URLError) else error
        raise UserError(
            f"model.id: got {name}, whose shape is not here and cannot be fetched ({reason}); "
            "give model.shape.*, a local folder, or a preset (model=llama-3.1-8b …)"
        ) from None
