"""Make the built-in instruction samples: deterministic text whose token lengths follow the configured distribution."""

import random

from lora_scaling.config import DataConfig
from lora_scaling.data.layouts import Message, Sample
from lora_scaling.errors import UserError
from lora_scaling.workload import Lengths

PROMPT_SHARE = 0.35  # of a sample's tokens; close to the share in alpaca, template included

_REQUESTS = (
    "Forklar", "Beskriv", "Skriv", "Opsummér", "Sammenlign", "Oversæt", "Nævn", "Giv",
    "Explain", "Describe", "Write", "Summarise", "Compare", "Translate", "List", "Suggest",
)  # fmt: skip
_VOCABULARY = (
    "hvordan hvorfor kort venligst eksempel forskel mellem mange gode måde by vinter sommer skole "
    "lærer elev energi strøm vind sol vand hav skov vej cykel tog hus have brød kaffe middag familie "
    "ven bog historie musik sprog ord sætning tal regning svar spørgsmål plan liste trin dansk "
    "nordisk gammel ny stor lille hurtig langsom varm kold lys mørk tidlig sent altid aldrig måske "
    "derfor fordi desuden endelig først bagefter how why short please example difference between "
    "several good way city winter summer school teacher student energy power wind sun water ocean "
    "forest road bicycle train house garden bread coffee dinner family friend book story music "
    "language word sentence number question answer list step english northern old new large small "
    "quick slow warm cold bright dark early late always never perhaps therefore because also finally "
    "first afterwards the a of and to in is that it for with as was on are be this from at which og i "
    "det er en til som på de med han af ikke der var sig men et har om vi min havde ham hun nu over "
    "da fra du"
)
_WORDS = _VOCABULARY.split()

_BITS = 16


def synthetic_samples(data: DataConfig, count: int, *, stream: str = "train") -> list[Sample]:
    """Make the first `count` samples of a stream; another stream with the same seed has different samples.

    Sample i does not depend on `count`. Its length in tokens is a quantile of
    `Lengths.lognormal(tokens_per_sample, tokens_cv)`, the distribution that estimates use. The quantiles are visited in
    the order of van der Corput's sequence, so every prefix has close to the configured mean and spread. Runs with
    different `samples` therefore differ in the number of samples, not in their lengths.

    Raises:
        UserError: the mean length is missing.
    """
    if data.tokens_per_sample is None:
        raise UserError("data.tokens_per_sample: got null; synthetic data needs a number of tokens above 0")
    lengths = Lengths.lognormal(data.tokens_per_sample, data.tokens_cv).values
    # The seed permutes the coarse levels; 1010… in the lower bits keeps every prefix near the middle of the finer ones.
    shift = random.Random(f"{data.seed}/{stream}").getrandbits(4) << (_BITS - 4) | 0xAAA
    targets = (lengths[(_reversed(i) ^ shift) * len(lengths) >> _BITS] for i in range(count))
    # At least two tokens, because the first token of a sample is never predicted.
    return [_sample(f"{data.seed}/{stream}/{i}", max(2, target)) for i, target in enumerate(targets)]


def prompt_tokens(target: int) -> int:
    """Return how many of a sample's `target` tokens (two or more) are its prompt; the answer keeps at least one."""
    return min(max(1, round(PROMPT_SHARE * target)), target - 1)


def _reversed(i: int) -> int:
    """Reverse the last bits of i: van der Corput's sequence in base 2, as an integer."""
    return int(f"{i % (1 << _BITS):0{_BITS}b}"[::-1], 2)


def _sample(key: str, target: int) -> Sample:
    """Make a text with at least one word per wanted token, since no tokenizer makes fewer tokens than words."""
    rng = random.Random(key)
    asked = prompt_tokens(target)
    question = f"{rng.choice(_REQUESTS)} {' '.join(rng.choices(_WORDS, k=asked))}."
    words = rng.choices(_WORDS, k=target - asked)
    sentences = [" ".join(words[i : i + 12]).capitalize() for i in range(0, len(words), 12)]
    answer = ". ".join(sentences) + "."
    return Sample(messages=(Message("user", question), Message("assistant", answer)), target_tokens=target)
