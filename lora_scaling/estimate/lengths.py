"""Find the lengths of the samples in tokens: as stated, or from the bytes of a file or of a data set card."""

import codecs
import functools
from dataclasses import dataclass
from pathlib import Path

from lora_scaling.config import DataConfig
from lora_scaling.errors import UserError
from lora_scaling.estimate.priors import Priors
from lora_scaling.paths import in_home
from lora_scaling.workload import Lengths

_SAMPLED_BYTES = 20_000_000
_MOST_LENGTHS = 2_000
_ENGLISH_ASCII = 0.995


@dataclass(frozen=True, kw_only=True)
class LengthBasis:
    """A distribution of lengths, its spread (log standard deviation of the mean), and a sentence on its origin.

    available: samples of a file that was read to its end; None if they were not counted.
    """

    lengths: Lengths
    log_sd: float
    sentence: str
    available: int | None = None


class LengthsUnknown(UserError):
    """The lengths of the samples are unknown; a pilot would count them."""


def lengths_of(data: DataConfig, priors: Priors) -> LengthBasis:
    """Find the token lengths of a data set, which need not be on this machine.

    Raises:
        LengthsUnknown: nothing is known about the lengths.
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
        return _from_file(data, in_home(data.path), priors)
    raise LengthsUnknown(
        f"`data.tokens_per_sample` of {data.name} is unknown before it is downloaded; "
        "give data.tokens_per_sample=NUMBER (alpaca: about 100) or data.bytes_per_sample=NUMBER"
    )


def _from_bytes(data: DataConfig, priors: Priors) -> LengthBasis:
    assert data.bytes_per_sample is not None
    # SkoleGPT is Danish; the language of other data sets is unknown.
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
        raise UserError(f"data.path: got {path}, which cannot be read ({error.strerror}); give a file") from None
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
    """Return the bytes of text per sample, the share of ASCII letters, and whether the whole file was read.

    The file is read as the run reads it, but at most its first 20 MB.
    """
    # Late: analysis imports this module but must not load that room.
    from lora_scaling.data.files import is_table, read_beginning, rows_of
    from lora_scaling.data.samples import samples_of

    raw, whole = read_beginning(path, _SAMPLED_BYTES)
    if not whole:
        raw = _whole_lines(raw) if not is_table(raw, path) else raw[: max(0, raw.rfind(b"\n"))]
    samples, _ = samples_of(rows_of(raw, path), layout=layout, fields=dict(fields), where=path)
    texts = ["".join(message.content + (message.calls or "") for message in sample.messages) for sample in samples]
    ascii_letters = sum(len(text.encode("ascii", "ignore")) for text in texts)
    return tuple(len(text.encode()) for text in texts), ascii_letters / sum(map(len, texts)), whole


def _whole_lines(raw: bytes) -> bytes:
    """Drop the last line of the beginning of a JSON-lines file, because it may be cut inside a character."""
    if raw.removeprefix(codecs.BOM_UTF8).lstrip().startswith(b"["):
        raise UserError("data.path: a JSON list of more than 20 MB; give data.tokens_per_sample=NUMBER")
    return raw[: max(0, raw.rfind(b"\n"))]
