"""How long the samples are, in tokens: as stated, from a file's bytes, or from the data set card's bytes."""

import codecs
import functools
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..config import DataConfig
from ..errors import UserError
from ..workload import Lengths
from .priors import Priors

_SAMPLED_BYTES = 20_000_000
_MOST_LENGTHS = 2_000
_ENGLISH_ASCII = 0.995


@dataclass(frozen=True, kw_only=True)
class LengthBasis:
    """The distribution, its spread (log standard deviation of the mean), and a sentence on where it comes from."""

    lengths: Lengths
    log_sd: float
    sentence: str


def lengths_of(data: DataConfig, priors: Priors) -> LengthBasis:
    """Token lengths of a data set that need not be here.

    Raises:
        UserError: nothing is known of its lengths, or its file cannot be read.
    """
    if data.tokens_per_sample is not None:
        known = data.kind == "synthetic"
        return LengthBasis(
            lengths=_lognormal(data.tokens_per_sample, data.tokens_cv),
            log_sd=0.02 if known else priors.log_sd["tokens_known"],
            sentence=f"{data.tokens_per_sample:g} tokens a sample on average (data.tokens_per_sample), "
            f"log-normal with cv {data.tokens_cv:g}",
        )
    if data.bytes_per_sample is not None:
        return _from_bytes(data, priors)
    if data.kind == "file" and data.path is not None:
        return _from_file(Path(data.path), priors)
    raise UserError(
        f"`data.tokens_per_sample` of {data.name} is unknown before it is downloaded; "
        "give data.tokens_per_sample=NUMBER (alpaca: about 100) or data.bytes_per_sample=NUMBER"
    )


def _from_bytes(data: DataConfig, priors: Priors) -> LengthBasis:
    assert data.bytes_per_sample is not None
    # SkoleGPT is Danish; of other data sets the language is not known here.
    name = "bytes_per_token_other" if data.layout == "skolegpt" else "bytes_per_token_unknown"
    per_token = priors.values[name]
    mean = data.bytes_per_sample / per_token
    return LengthBasis(
        lengths=_lognormal(mean, data.tokens_cv),
        log_sd=priors.log_sd[name],
        sentence=f"{mean:.0f} tokens a sample: {data.bytes_per_sample:g} bytes at {per_token:g} bytes a token "
        f"(assumed), log-normal with cv {data.tokens_cv:g}",
    )


@functools.lru_cache(maxsize=64)
def _lognormal(mean: float, cv: float) -> Lengths:
    return Lengths.lognormal(mean, cv)


def _from_file(path: Path, priors: Priors) -> LengthBasis:
    try:
        stamp = path.stat().st_mtime_ns
        sizes, ascii_share = _text_sizes(str(path), stamp)
    except OSError as error:
        raise UserError(f"`data.path` was {path}, which cannot be read ({error.strerror}); give a file") from None
    except (ValueError, RecursionError):
        raise UserError(f"`data.path` was {path}, which is not JSON or JSON lines; give such a file") from None
    if not sizes:
        raise UserError(f"`data.path` was {path}, which holds no samples; give a JSON list or JSON lines")
    name = "bytes_per_token_english" if ascii_share > _ENGLISH_ASCII else "bytes_per_token_other"
    per_token = priors.values[name]
    step = max(1, len(sizes) // _MOST_LENGTHS)
    lengths = Lengths(tuple(max(1, round(size / per_token)) for size in sorted(sizes)[step // 2 :: step]))
    return LengthBasis(
        lengths=lengths,
        log_sd=priors.log_sd[name],
        sentence=f"{lengths.mean:.0f} tokens a sample: the text of {path.name} at {per_token:g} bytes a token, assumed",
    )


@functools.lru_cache(maxsize=8)
def _text_sizes(path: str, stamp: int) -> tuple[tuple[int, ...], float]:
    """Bytes of text of each sample, and the share of ASCII bytes (of a file's first 20 MB)."""
    with open(path, "rb") as file:
        raw = file.read(_SAMPLED_BYTES)
        if file.read(1):
            raw = _whole_lines(raw)
    text = raw.decode("utf-8-sig")
    sizes = tuple(size for size in (_text_bytes(row) for row in _rows(text)) if size > 0)
    return sizes, sum(character < "\x80" for character in text) / max(1, len(text))


def _whole_lines(raw: bytes) -> bytes:
    """The beginning of a file of JSON lines without its last line, which may be cut in the midst of a letter."""
    if raw.removeprefix(codecs.BOM_UTF8).lstrip().startswith(b"["):
        raise UserError("`data.path` is a JSON list of more than 20 MB; give data.tokens_per_sample=NUMBER")
    return raw[: max(0, raw.rfind(b"\n"))]


def _rows(text: str) -> list[Any]:
    if text.lstrip().startswith("["):
        return json.loads(text)
    # As the run reads them: other separators of lines than this are letters of a JSON string.
    return [json.loads(line) for line in text.split("\n") if line.strip()]


def _text_bytes(value: Any) -> int:
    """Bytes of every text inside a row except identifiers and the like, which are short beside them."""
    if isinstance(value, str):
        return len(value.encode())
    if isinstance(value, dict):
        return sum(_text_bytes(item) for key, item in value.items() if key not in ("id", "metadata", "source", "text"))
    if isinstance(value, list):
        return sum(map(_text_bytes, value))
    return 0
