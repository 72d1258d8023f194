"""Whether the model hub answers: asked once and briefly, because its client retries for up to a minute."""

import importlib
import os
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from lora_scaling.paths import in_home, user_cache

_WAIT_S = 2.5
_KEPT_S = 60.0  # an answer holds for so long

_asked_s: float | None = None
_unreachable = False  # then offline mode is ours, not the user's


def hub_url() -> str:
    """Return the address of the hub."""
    return os.environ.get("HF_ENDPOINT") or "https://huggingface.co"


def look_for_hub() -> bool:
    """Return whether the hub can be asked. If it does not answer, its client works offline, with what is cached.

    `HF_HUB_OFFLINE` is respected. After a minute, the hub is looked for again.
    """
    global _asked_s, _unreachable
    client: Any = importlib.import_module("huggingface_hub")
    constants: Any = importlib.import_module("huggingface_hub.constants")
    if constants.HF_HUB_OFFLINE and not _unreachable:
        return False
    if _asked_s is not None and time.monotonic() - _asked_s < _KEPT_S:
        return not _unreachable
    _set_offline(False)
    _unreachable = not answers_in_time(lambda wait_s: client.get_session().head(hub_url(), timeout=wait_s))
    _set_offline(_unreachable)
    _asked_s = time.monotonic()
    return not _unreachable


def hub_cache() -> Path:
    """Return the folder in which the hub's client keeps what it downloaded."""
    folder = os.environ.get("HF_HUB_CACHE") or os.environ.get("HUGGINGFACE_HUB_CACHE")
    return in_home(folder) if folder else _home() / "hub"


def is_cached(kind: str, name: str) -> bool:
    """Return whether any files of a hub's model or data set are here (`kind`: models or datasets)."""
    if any((hub_cache() / f"{kind}--{name.replace('/', '--')}" / "snapshots").glob("*/*")):
        return True
    folder = os.environ.get("HF_DATASETS_CACHE")
    prepared = in_home(folder) if folder else _home() / "datasets"
    return kind == "datasets" and any(path.name.lower() == name.replace("/", "___").lower() for path in _in(prepared))


def downloaded(name: str, revision: str | None) -> Path:
    """Return the folder of a model of the hub that was downloaded before."""
    client: Any = importlib.import_module("huggingface_hub")
    return Path(client.snapshot_download(name, revision=revision, local_files_only=True))


def _home() -> Path:
    folder = os.environ.get("HF_HOME")
    return in_home(folder) if folder else user_cache() / "huggingface"


def _in(folder: Path) -> list[Path]:
    return list(folder.iterdir()) if folder.is_dir() else []


def out_of_reach(field: str, name: str) -> str:
    """Say that a model or data set is not here and the hub does not answer."""
    if field.startswith("model."):
        instead = "download it first, or say model.weights=random for its shape alone"
        return (
            f"{field}: got {name}, which is neither a local folder nor cached, and the hub cannot be reached; {instead}"
        )
    return (
        f"{field}: got {name}, which is not cached, and the hub cannot be reached; "
        "check the network, or use a local file with data=file"
    )


def answers_in_time(ask: Callable[[float], object]) -> bool:
    """Return whether `ask` returns in time; it is given the seconds, which `HF_HUB_ETAG_TIMEOUT` sets.

    A thread asks, because the name service has a patience of its own.
    """
    try:
        wait_s = float(os.environ.get("HF_HUB_ETAG_TIMEOUT") or _WAIT_S)
    except ValueError:
        wait_s = _WAIT_S
    ended, returned = threading.Event(), threading.Event()

    def try_once() -> None:
        try:
            ask(wait_s)
            returned.set()
        except Exception:  # of any of the libraries below
            pass
        finally:
            ended.set()

    threading.Thread(target=try_once, daemon=True).start()
    ended.wait(wait_s)
    return returned.is_set()


def _set_offline(offline: bool) -> None:
    for name in ("huggingface_hub.constants", "datasets.config"):
        module: Any = sys.modules.get(name)
        if module is not None:
            module.HF_HUB_OFFLINE = offline
