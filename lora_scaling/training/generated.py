"""Take the answers that a chat template marks itself, between `{% generation %}` and `{% endgeneration %}`."""

import re
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

from jinja2.exceptions import TemplateError
from transformers.utils.chat_template_utils import render_jinja_template

from lora_scaling.data.rendering import Answers, turns_of
from lora_scaling.data.samples import Sample

_MARKED = re.compile(r"\{%-?\s*generation\s*-?%\}")


def generated_answers(
    samples: Sequence[Sample], tokenizer: Any, texts: Sequence[str], found: Sequence[Answers]
) -> list[Answers]:
    """Return the ranges of characters that the template marks as generated, instead of those `found` by comparison.

    texts: the conversations as rendered. A conversation in which the template marks nothing keeps what was found, and
    so does one that the template shows otherwise than in `texts`, or with other than one mark for each answer.
    """
    template = tokenizer.get_chat_template()
    if not _MARKED.search(template):
        return list(found)
    result = []
    for sample, text, ranges in zip(samples, texts, found, strict=True):
        turns = [turn for turn, message in enumerate(sample.messages) if message.role == "assistant"]
        marked = _marked(sample, tokenizer, template, text)
        result.append(dict(zip(turns, marked, strict=True)) if len(marked) == len(turns) else ranges)
    return result


def _marked(sample: Sample, tokenizer: Any, template: str, text: str) -> list[tuple[int, int]]:
    """Return the marked ranges, merged where nothing lies between two of them."""
    import json

    try:
        rendered, indices = render_jinja_template(
            [turns_of(sample)],
            tools=None if sample.tools is None else json.loads(sample.tools),
            chat_template=template,
            return_assistant_tokens_mask=True,
            **tokenizer.special_tokens_map,
        )
    except TemplateError:  # shown without its system turn
        return []
    if rendered[0].rstrip() != text:
        return []
    spans = [(int(start), min(int(end), len(text))) for start, end in indices[0]]
    spans = [(start, end) for start, end in spans if end > start]
    return spans if all(first[1] <= second[0] for first, second in pairwise(spans)) else []
