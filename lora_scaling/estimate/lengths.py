"""How long the samples are, in tokens: as stated, from a file's bytes, or from the data set card's bytes."""

import codecs
import functools
from dataclasses import dataclass
from pathlib import Path

from lora_scaling.config import DataConfig
from lora_scaling.errors import UserError
from lora_scaling.estimate.priors import Priors
from lora_scaling.workload import Lengths

_SAMPLED_BYTES = 20_000_000
_MOST_LENGTHS = 2_000
_ENGLISH_ASCII = 0.995


@dataclass(frozen=True, kw_only=True)
class LengthBasis:
    """The distribution, its spread (log standard deviation of the mean), and a sentence on where it comes from.

    available: samples of a file that was read to its end; None where they were not counted.
    """

    lengths: Lengths
    log_sd: float
    sentence: str
    available: int | None = None


class LengthsUnknown(UserError):
    """Nothing here says how long the samples are; a pilot would count them."""


def lengths_of(data: DataConfig, priors: Priors) -> LengthBasis:
    """Token lengths of a data set that need not be here.

    Raises:
        LengthsUnknown: nothing is known of its lengths.
        UserError: its file cannot be read as the run would read it.
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
        return _from_file(data, Path(data.path), priors)
    raise LengthsUnknown(
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


def _from_file(data: DataConfig, path: Path, priors: Priors) -> LengthBasis:
    try:
        stamp = path.stat().st_mtime_ns
        sizes, ascii_share, whole = _text_sizes(str(path), stamp, data.layout, tuple(data.fields.items()))
    except OSError as error:
        raise UserError(f"`data.path` was {path}, which cannot be read ({error.strerror}); give a file") from None
    name = "bytes_per_token_english" if ascii_share > _ENGLISH_ASCII else "bytes_per_token_other"
    per_token = priors.values[name]
    step = max(1, len(sizes) // _MOST_LENGTHS)
    lengths = Lengths(tuple(max(1, round(size / per_token)) for size in sorted(sizes)[step // 2 :: step]))
    return LengthBasis(
        lengths=lengths,
        log_sd=priors.log_sd[name],
        sentence=f"{lengths.mean:.0f} tokens a sample: the text of {path.name} at {per_token:g} bytes a token, assumed",
        available=len(sizes) if whole else None,
    )


@functools.lru_cache(maxsize=8)
def _text_sizes(
    path: str, stamp: int, layout: str, fields: tuple[tuple[str, str], ...]
) -> tuple[tuple[int, ...], float, bool]:
    """Bytes of text of each sample, read as the run reads it; the share of ASCII letters; whether that was the whole
    file, or its first 20 MB."""
    from lora_scaling.data.samples import (  # late: analysis, which imports this, never loads that room
        rows_of,
        samples_of,
    )

    with open(path, "rb") as file:
        raw = file.read(_SAMPLED_BYTES)
        whole = not file.read(1)
    if not whole:
        raw = _whole_lines(raw)
    samples, _ = samples_of(rows_of(raw, path), layout=layout, fields=dict(fields), where=path)
    texts = ["".join(message.content for message in sample.messages) for sample in samples]
    ascii_letters = sum(len(text.encode("ascii", "ignore")) for text in texts)
    return tuple(len(text.encode()) for text in texts), ascii_letters / sum(map(len, texts)), whole


def _whole_lines(raw: bytes) -> bytes:
    """The beginning of a file of JSON lines without its last line, which may be cut in the midst of a letter."""
    if raw.removeprefix(codecs.BOM_UTF8).lstrip().startswith(b"["):
        raise UserError("`data.path` is a JSON list of more than 20 MB; give data.tokens_per_sample=NUMBER")
    return raw[: max(0, raw.rfind(b"\n"))]
