"""Draw the figures of the gallery from the study's records, and write its page: `python docs/make/gallery.py`."""

import argparse
import json
import sys
import tempfile
from pathlib import Path

from printing import ROOT, run

PLACE = ROOT / "docs" / "gallery"
PAGE = ROOT / "docs" / "gallery.md"
# The folder of records below docs/study/runs, the figure, and what it answers.
FIGURES = (
    ("linear", "energy_vs_samples", "Does energy grow in proportion to samples?"),
    ("linear", "samples_vs_epochs", "Does it matter whether I show more samples, or the same ones more often?"),
    ("size", "energy_vs_flops_per_token", "What does a larger model cost?"),
    ("rank", "energy_vs_rank", "Does the LoRA rank matter?"),
    ("method", "lora_vs_full", "How much does LoRA save?"),
    ("linear", "backtest", "How far can a prediction be trusted?"),
    ("linear", "residuals", "What does the fit leave unexplained?"),
    ("linear", "power", "Where did the energy of one run go?"),
)
COMPARED = (
    "lora-scaling estimate model=llama-3.1-8b samples=5000 data.tokens_per_sample=400 max_seq_len=1024 batch_size=2 "
    "gradient_accumulation=8 gradient_checkpointing=true compare=gpus:rtx-4090,l40s,a100-80gb,h100-sxm"
)
HEAD = """\
<!-- Made by `python docs/make/gallery.py`; do not edit. -->

# Gallery

Every figure is drawn from records: those of [the study](study/README.md), which was made on two CPU cores without an
energy meter. Its energy is time multiplied by a modelled power. The same commands draw yours. Each figure is written
as SVG and PNG, with the numbers behind it as CSV.

Whole pages to look at: [the report of the study](study/report.html) and
[the estimator with sliders](estimator.html). The [notebook](notebook.md) shows the tables.
"""


def page() -> str:
    """Draw all figures, and return the page that shows them."""
    PLACE.mkdir(exist_ok=True)
    parts = [HEAD]
    with tempfile.TemporaryDirectory() as folder:
        for study in dict.fromkeys(study for study, _, _ in FIGURES):
            run(["lora-scaling", "analyse", "plot", f"docs/study/runs/{study}", "--out", f"{folder}/{study}"])
        for study, name, question in FIGURES:
            (PLACE / f"{name}.svg").write_bytes((Path(folder) / study / f"{name}.svg").read_bytes())
            about = json.loads((Path(folder) / study / "captions.json").read_text(encoding="utf-8"))
            command = f"lora-scaling analyse plot docs/study/runs/{study} --out figures"
            parts.append(_entry(question, name, _caption(about, name), command))
    run([*COMPARED.split(), f"plot={PLACE / 'compare.svg'}"])
    caption = "Estimates from priors, before anything was run: the median and the 90 % interval of each."
    parts.append(_entry("Which GPU should I rent?", "compare", caption, f"{COMPARED} plot=compare.svg"))
    return "".join(parts)


def _entry(question: str, name: str, caption: str, command: str) -> str:
    return f"\n## {question}\n\n![{question}](gallery/{name}.svg)\n\n{caption}\n\n```\n{command}\n```\n"


def _caption(about: dict[str, list[dict[str, str]]], name: str) -> str:
    return next(figure["caption"] for figure in about["figures"] if figure["name"] == name)


def main(words: list[str] | None = None) -> int:
    """Write the page and its figures."""
    argparse.ArgumentParser(description="Draw the gallery from the study's records.").parse_args(words)
    PAGE.write_text(page(), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
