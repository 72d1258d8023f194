"""Write the pages of the reference from the code: `python docs/make/reference.py`.

    python docs/make/reference.py --check    say which pages are out of date, and end with status 1

Settings and their comments come from `conf/`, what a setting changes from `lora_scaling/settings.py`, options from the
commands' own help, columns and records from `lora_scaling/records/`, documents from the commands run on the study.
"""

import dataclasses
import functools
import importlib
import inspect
import itertools
import json
import re
import sys
import tempfile
import textwrap
import typing
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from omegaconf import OmegaConf
from printing import ROOT, keep, run

PLACE = ROOT / "docs" / "reference"
STUDY = "docs/study/runs/rank"
# Pages that explain are found before those that list.
MADE = "---\nsearch:\n  boost: 0.5\n---\n\n<!-- Made by `python docs/make/reference.py`; do not edit. -->\n\n"


def table(head: Iterable[str], rows: Iterable[Iterable[object]]) -> str:
    """Return a Markdown table."""
    head = list(head)
    lines = [head, ["---"] * len(head), *([str(cell).replace("|", "\\|") for cell in row] for row in rows)]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


# ---------------------------------------------------------------- settings


def settings() -> str:
    """Return the page of all settings: default, meaning, and what each changes."""
    text = (ROOT / "conf" / "config.yaml").read_text(encoding="utf-8")
    page = [
        "# Settings\n\nA setting is given as `name=value`, in any order: `lora-scaling samples=512 lora.r=16`. "
        "`lora-scaling --help` prints the same list.\n\n"
        "*Changes* says what a setting changes: the **work** of a run (its time and energy), only what is **learned**, "
        "the **device**, or nothing. Runs that differ in work or learning are different runs with different names; "
        "runs that differ in work or device are never compared as if they were equal.\n"
    ]
    body = text.partition("# Training data")[2].partition("\nhydra:")[0]
    for title, block in re.findall(r"# ([^\n]+)\n((?:[^#\n][^\n]*\n)+)", "# Training data" + body):
        page.append(f"\n## {title}\n\n" + table(_SETTING_HEAD, map(_setting_row, _yaml_lines(block))))
    page.append("\n## Groups\n\nA group is chosen as `group=name`; its settings can then be changed one by one.\n")
    for group, file, what in _GROUPS:
        lines = (ROOT / "conf" / group / f"{file}.yaml").read_text(encoding="utf-8")
        about = " ".join(re.findall(r"^# ?(.*)$", lines, re.MULTILINE)) if group == "score" else ""
        rows = [_setting_row((f"{group}.{name}", *rest)) for name, *rest in _yaml_lines(lines)]
        page.append(f"\n### `{group}`\n\n{what} {about}\n\n" + table(_SETTING_HEAD, rows))
    page.append("\n## Settings of an estimate\n\n```text\n" + _own_settings(_help("estimate")) + "```\n")
    return "".join(page)


_LARGEST_SHOWN = 1e5
_SETTING_HEAD = ("setting", "default", "meaning", "changes", "allowed", "column")
_GROUPS = (
    ("model", "shape", "One of the [models](presets.md#models), or `model=hub`, `gguf` or `shape` for your own."),
    ("data", "file", "`synthetic`, `skolegpt`, or your own with `data=file data.path=…` and `data=hub data.path=…`."),
    ("hardware", "custom", "`auto`, one of the [devices](presets.md#devices), or `custom` with these numbers."),
    ("score", "lm_eval", "`none`, `lm_eval` or `euroeval`."),
)


def _yaml_lines(block: str) -> list[tuple[str, str, str]]:
    """(dotted name, value, comment) of each leaf of a block of YAML that has one level of nesting or two."""
    found, parents = [], {}
    for line in block.splitlines():
        match = re.match(r"^( *)([\w]+):(?: +((?:\"[^\"]*\"|\$\{[^#]*|[^#])*?))?(?: *# (.*))?$", line)
        if match is None:
            continue
        indent, name, value, comment = len(match[1]), match[2], (match[3] or "").strip(), match[4] or ""
        parents = {depth: parent for depth, parent in parents.items() if depth < indent}
        full = ".".join([*parents.values(), name])
        if value:
            found.append((full, value, comment))
        else:
            parents[indent] = name
    return found


def _setting_row(line: tuple[str, str, str]) -> tuple[str, ...]:
    from lora_scaling.settings import SETTINGS

    name, default, meaning = line
    assert meaning, f"{name}: give its meaning as a comment beside it in conf/"
    parts = name.split(".")
    groups = [".".join(parts[:n]) for n in range(len(parts), 0, -1)]
    by_name = {setting.name: setting for setting in SETTINGS}
    setting = next((by_name[group] for group in groups if group in by_name), None)
    changes = "" if setting is None else setting.changes
    exact = by_name.get(name)
    limits = () if exact is None else (("≥", exact.least), (">", exact.above), ("≤", exact.most))
    # Larger bounds only catch typing mistakes.
    bounds = [f"{sign} {value:,.15g}" for sign, value in limits if value is not None and value <= _LARGEST_SHOWN]
    default = {"???": "required"}.get(default, "from another setting" if "${" in default else f"`{default}`")
    column = f"`{exact.column}`" if exact is not None and exact.column else ""
    return f"`{name}`", default, meaning, changes, ", ".join(bounds), column


def presets() -> str:
    """Return the page of models, devices, sweeps and experiments."""
    from lora_scaling.config import HardwareConfig, ModelConfig
    from lora_scaling.config.build import build

    models, devices = [], []
    for name, values in _yaml_files("model"):
        if name not in ("hub", "gguf", "shape"):
            model = build(ModelConfig, values, "model.")
            shape = model.shape
            assert shape is not None
            where = model.id or "built-in, random weights"
            size = f"{shape.params / 1e9:.3g}"
            models.append((f"`{name}`", where, size, shape.layers, shape.hidden_size, f"{shape.vocab_size:,}"))
    for name, values in _yaml_files("hardware"):
        if name not in ("auto", "custom"):
            sheet = build(HardwareConfig, values, "hardware.")
            peak = sheet.peak_tflops.get("bf16") or sheet.peak_tflops.get("fp16")
            numbers = (sheet.memory_gb, peak, sheet.bandwidth_gb_s, sheet.board_power_w)
            devices.append((f"`{name}`", sheet.kind, *map(_plain, numbers)))
    sweeps = []
    for path in sorted((ROOT / "sweeps").glob("*.yaml")):
        about = " ".join(line.removeprefix("# ") for line in _leading_comment(path.read_text(encoding="utf-8")))
        sweeps.append((f"`+sweeps={path.stem}`", about))
    return (
        "# Models, devices and sweeps\n\n## Models\n\nParameters in billions, counted from the shape. Any other causal "
        "language model: `model=hub model.id=ORG/NAME`.\n\n"
        + table(("model", "on the hub", "parameters (10⁹)", "layers", "width", "vocabulary"), models)
        + "\n## Devices\n\nDense peaks with fp32 accumulation, per device. The files in `conf/hardware/` give a source "
        "for each number.\n\n"
        + table(("hardware", "kind", "memory (GB)", "TFLOP/s in 16 bit", "GB/s", "board power (W)"), devices)
        + "\n## Named sweeps\n\n"
        + table(("sweep", "what it is for"), sweeps)
    )


def _yaml_files(group: str) -> Iterator[tuple[str, dict[str, Any]]]:
    for path in sorted((ROOT / "conf" / group).glob("*.yaml")):
        values = OmegaConf.to_container(OmegaConf.load(path), resolve=path.stem not in ("hub", "gguf", "shape"))
        assert isinstance(values, dict)
        yield path.stem, {str(name): value for name, value in values.items()}


def _plain(value: float | None) -> str:
    return "–" if value is None else f"{value:g}"


def _leading_comment(text: str) -> Iterator[str]:
    lines = itertools.takewhile(lambda line: line.startswith("#"), text.splitlines())
    return (line for line in lines if "@package" not in line and not line.startswith("#  "))


# ---------------------------------------------------------------- commands


def commands() -> str:
    """Return the page of commands: the help of each."""
    from analysis.cli import COMMANDS as ANALYSES
    from lora_scaling.commands.program import COMMANDS

    page = [
        "# Commands\n\nEverything is one console command, `lora-scaling`; `python -m lora_scaling` does the same. The "
        "exit status is 0 on success, 2 for bad input (one sentence on stderr says what is allowed), 1 for a failure, "
        "and 130 if you interrupt. `--json` prints one JSON document on stdout and nothing else there; "
        "[JSON](json.md) lists the fields.\n\n"
    ]
    page.append(
        table(("command", "what it does"), [(f"`lora-scaling {name}`", line) for name, (_, line) in COMMANDS.items()])
    )
    page.append("\nThe settings of a run and of a sweep are on [their own page](settings.md).\n")
    for name in COMMANDS:
        if name not in ("run", "analyse"):
            page.append(f"\n## lora-scaling {name}\n\n```text\n{_help(name)}```\n")
    for name, line in ANALYSES.items():
        page.append(
            f"\n## lora-scaling analyse {name}\n\n{line[0].upper()}{line[1:]}.\n\n"
            f"```text\n{_help('analyse', name)}```\n"
        )
    return "".join(page)


def _help(*words: str) -> str:
    return "".join(f"{line.rstrip()}\n" for line in run(["lora-scaling", *words, "--help"])[0].strip("\n").splitlines())


def _own_settings(text: str) -> str:
    """The lines of the estimate's help that explain settings, without their common indent."""
    lines = text.splitlines()
    start = next(i for i, line in enumerate(lines) if line.strip().startswith("level="))
    kept = list(itertools.takewhile(lambda line: line.startswith(" "), lines[start:]))
    return textwrap.dedent("".join(f"{line}\n" for line in kept))


# ---------------------------------------------------------------- columns

MEANINGS = {
    "run_id": "name of the run; made from its settings",
    "study": "folder of the study",
    "status": "`ok`, `failed`, `oom` (out of memory) or `interrupted`",
    "error": "what ended the run, in one sentence",
    "replicate": "number of this repetition of the same work",
    "order": "position in the order in which the sweep was run",
    "session": "process or job that made the run",
    "started_at": "start, UTC, ISO 8601",
    "host": "machine",
    "exclusive": "whether nothing else computed on the device",
    "model": "name of the model",
    "weights": "`pretrained` or `random`",
    "data": "name of the data set",
    "method": "`lora`, `qlora`, `full`, or what another program calls it",
    "rank": "rank of the adapters; unknown for `full`",
    "hardware": "name of the device, as its driver gives it",
    "gpu_count": "number of GPUs; 0 on a processor",
    "model_override": "words of a command line that choose the same model again",
    "data_override": "… the same data",
    "settings_override": "… all further settings that differ from the defaults",
    "samples_seen": "samples shown: samples × epochs, unless `max_steps` ended the training",
    "tokens_seen": "tokens that went through the model in training, without padding",
    "tokens_padded": "padding tokens that went through the model as well",
    "tokens_truncated": "tokens cut off at `max_seq_len`",
    "tokens_trained": "tokens that the loss was computed on",
    "steps": "optimizer steps; 0 for a run without training",
    "trainable_params": "parameters that were trained",
    "params": "parameters of the model, adapters not counted",
    "layers": "layers of the model",
    "hidden_size": "width of the model",
    "flops": "FLOPs of the training, padding and recomputation included",
    "setup_reused": "whether model or tokens were taken over from the run before",
    "setup_s": "time to load the model, quantise and tokenise",
    "warmup_s": "time of the passes before the training window opens",
    "train_s": "time of training",
    "eval_s": "time of evaluating the held-out samples",
    "score_s": "time of scoring tasks (`score=`)",
    "checkpoint_s": "time of writing checkpoints (`resume=auto`)",
    "lost_s": "time that a killed attempt had spent after its last checkpoint",
    "total_s": "time of all of these",
    "energy_kwh": "energy of the run, all phases and components",
    "energy_uncertainty_kwh": "bound of the error of the measurement",
    "energy_above_idle_kwh": "energy without what the machine takes when idle",
    "idle_power_w": "power of the idle machine, before the sweep",
    "slurm_energy_kwh": "what Slurm itself counted on the nodes of the run's job: a comparison, in no total",
    "intensity_g_per_kwh": "carbon intensity that the grams were computed with",
    "intensity_source": "provider of the intensity",
    "intensity_status": "`final`, `provisional`, `static` or `pending`",
    "emissions_g": "grams of CO2e (the record says which definition)",
    "train_loss": "mean loss over the last steps of training",
    "eval_loss_before": "loss on the held-out samples before training",
    "eval_loss_after": "… after training",
    "eval_accuracy_before": "share of held-out answer tokens predicted right, before training",
    "eval_accuracy_after": "… after training",
    "score_before": "mean score of the tasks before training, in points of 100",
    "score_after": "… after training",
    "peak_memory_gb": "largest memory that the device had reserved",
    "mfu": "share of the device's peak FLOP/s that the training reached",
    "gpu_temperature_c": "highest temperature of the GPU",
    **{f"energy_{phase}_kwh": f"energy of the phase `{phase}`" for phase in
       ("setup", "warmup", "train", "eval", "score", "checkpoint", "lost")},
    **{f"energy_{part}_kwh": f"energy of the {name}, all phases" for part, name in
       (("gpu", "GPUs"), ("cpu", "processors"), ("ram", "memory"))},
    **{f"energy_source_{part}": f"how the energy of the {name} was obtained" for part, name in
       (("gpu", "GPUs"), ("cpu", "processors"), ("ram", "memory"))},
}  # fmt: skip


def columns() -> str:
    """Return the page of the columns of a table of runs."""
    from analysis.tables.column_names import _PLAIN
    from lora_scaling.records.row import COLUMNS, TEXT_COLUMNS, TRUTH_COLUMNS
    from lora_scaling.settings import SETTINGS

    comments = {
        name: comment for name, _, comment in _yaml_lines((ROOT / "conf/config.yaml").read_text(encoding="utf-8"))
    }
    of_setting = {setting.column: setting for setting in SETTINGS if setting.column}
    rows = []
    for name in COLUMNS:
        setting = of_setting.get(name)
        meaning = MEANINGS.get(name) or (comments.get(setting.name) if setting is not None else None)
        assert meaning, f"{name}: give its meaning in MEANINGS of docs/make/reference.py"
        kind = "text" if name in TEXT_COLUMNS else "true or false" if name in TRUTH_COLUMNS else "number"
        others = dict.fromkeys([*_PLAIN.get(name, "").split(), *(setting.aliases if setting is not None else ())])
        rows.append(
            (f"`{name}`", kind, _unit(name), meaning, ", ".join(f"`{other}`" for other in others if other != name))
        )
    return (
        "# Columns of a table of runs\n\nA table has one row for each run. Yours needs `samples`, `epochs` and "
        "`energy_kwh` (or `train_s`, with `--response time`); every other column is used if it is there, and unknown "
        "if it is not. The last column lists the names of other programs that are understood. Names with a unit, such "
        "as `Energy (Wh)` or `total_energy_j`, are converted: "
        "[files of other programs](../bring_your_own.md#files-of-other-programs).\n\n"
        + table(("column", "type", "unit", "meaning", "also understood"), rows)
    )


def _unit(name: str) -> str:
    units = {"_kwh": "kWh", "_s": "s", "_w": "W", "_gb": "GB", "_g": "g", "_c": "°C", "_g_per_kwh": "g/kWh"}
    return next((unit for end, unit in sorted(units.items(), key=lambda item: -len(item[0])) if name.endswith(end)), "")


# ---------------------------------------------------------------- JSON


def documents() -> str:
    """Return the page of JSON: the record of a run, and what `--json` prints."""
    from lora_scaling.records import schema

    page = [
        "# JSON\n\nFields may be added in a later version; none is renamed or removed. Unknown is `null`, never 0.\n\n"
        "## The record of a run: run.json\n\n`runs/STUDY/RUN/run.json` is written when the run starts, with the status "
        "`interrupted`, and again when it ends.\n\n" + table(("field", "type"), _typed(schema.RunRecord))
    ]
    for title, words, note in _DOCUMENTS:
        with tempfile.TemporaryDirectory() as folder:  # what a command writes, it writes there
            made = [folder if word == "report" else word for word in words]
            document = json.loads(run(["lora-scaling", *made, "--json"])[0])
        command = " ".join(["lora-scaling", *words, "--json"])
        rows = [(f"`{path}`", " or ".join(sorted(kinds))) for path, kinds in _fields(document).items()]
        page.append(f"\n## {title}\n\n{note} Made by:\n\n```\n{command}\n```\n\n" + table(("field", "type"), rows))
    return "".join(page)


_DOCUMENTS = (
    ("Verdicts", ["analyse", "claims", STUDY], "`tests` holds the numbers behind a verdict; its fields depend on it."),
    ("A fit", ["analyse", "fit", STUDY, "--out", "report"], "The same is written to `report/fit.json`."),
    ("A prediction", ["analyse", "extrapolate", STUDY, "samples=2048"], "Intervals are for one more run."),
    ("A backtest", ["analyse", "backtest", STUDY], ""),
    ("The next runs", ["analyse", "design", STUDY], ""),
    ("An estimate", ["estimate", "model=llama-3.1-8b", "hardware=l40s", "method=qlora", "gradient_checkpointing=true",
                     "price.per_hour=1.2"], "With `-m`, it has `runs`, a list of such documents, and `total`."),
)  # fmt: skip
# Mappings whose keys are names of the user's own, or depend on what was fitted.
_OPEN = (
    "tests",
    "terms",
    "params",
    "se",
    "settings",
    "parts_gb",
    "drivers",
    "sources",
    "ci",
    "ranges",
    "hull",
    "dummies",
)


def _typed(kind: Any, before: str = "") -> list[tuple[str, str]]:
    """The fields of a TypedDict, those of nested ones after a dot."""
    rows = []
    for name, hint in typing.get_type_hints(kind).items():
        nested = [item for item in _inside(hint) if typing.is_typeddict(item)]
        many = "[]" if "list[" in str(hint) else ".*" if "dict[" in str(hint) and nested else ""
        rows.append((f"`{before}{name}`", _type_name(hint)))
        for item in nested:
            rows += _typed(item, f"{before}{name}{many}.")
    return rows


def _inside(hint: Any) -> list[Any]:
    arguments = typing.get_args(hint)
    return [hint] if not arguments else [item for argument in arguments for item in _inside(argument)]


def _type_name(hint: Any) -> str:
    names = {"str": "text", "float": "number", "int": "whole number", "bool": "true or false", "NoneType": "null"}
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if typing.is_typeddict(hint) or origin is dict:
        return "object"
    if origin is list:
        return "list"
    if arguments:
        return " or ".join(dict.fromkeys(_type_name(argument) for argument in arguments))
    return names.get(getattr(hint, "__name__", ""), "object")


def _fields(value: Any, path: str = "", found: dict[str, set[str]] | None = None) -> dict[str, set[str]]:
    """The paths of a document's fields, each with the types that it has there."""
    found = {} if found is None else found
    if isinstance(value, Mapping) and path.rpartition(".")[2].removesuffix("[]") not in _OPEN:
        for name, item in value.items():
            below = f"{path}.{name}" if path else name
            found.setdefault(below, set()).add(_json_type(item))
            _fields(item, below, found)
    elif isinstance(value, list):
        for item in value:
            if isinstance(item, Mapping):
                _fields(item, f"{path}[]", found)
    return found


def _json_type(value: Any) -> str:
    if value is None:
        return "null"
    names = {bool: "true or false", str: "text", int: "number", float: "number", list: "list", dict: "object"}
    return names[type(value)]


# ---------------------------------------------------------------- Python


def python() -> str:
    """Return the page of what can be imported."""
    import analysis
    import lora_scaling
    from lora_scaling import energy, footprint

    page = [
        "# Python\n\nTwo packages. `lora_scaling` runs, measures and estimates; `analysis` reads tables of runs. A "
        "function raises `lora_scaling.errors.UserError`, with one sentence, for input that it cannot use. The "
        "objects that `decide`, `fit`, `extrapolate` and `estimate` return show themselves as tables in a notebook.\n"
    ]
    for package in (lora_scaling, analysis):
        page.append(f"\n## {package.__name__}\n")
        for name in package.__all__:
            if name != "__version__":
                page.append(_function(name, getattr(package, name)))
    page.append("\n## Measuring your own code\n")
    page.append(_class(footprint.Footprint, ("note", "phase", "seconds", "mean_power_w")))
    page.append(_class(footprint.FootprintCallback, ()))
    page.append(_class(energy.MeteringSettings, ()))
    page.append("\n## Results\n")
    for module, name in _RESULTS:
        page.append(_class(getattr(importlib.import_module(module), name), ()))
    return "".join(page)


_RESULTS = (
    ("analysis.tables.table", "RunTable"),
    ("analysis.claims.decide", "ClaimsReport"),
    ("analysis.claims.verdicts", "Claim"),
    ("analysis.claims.verdicts", "Needs"),
    ("analysis.energy_model.validated_fit", "ValidatedFit"),
    ("analysis.energy_model.extrapolate", "Extrapolation"),
    ("lora_scaling.estimate.result", "Estimate"),
    ("lora_scaling.estimate.result", "Interval"),
    ("lora_scaling.runs.run", "RunOutcome"),
)


# Functions that share their name with a package.
_HOMES = {
    "estimate": "lora_scaling.estimate.estimator",
    "footprint": "lora_scaling.footprint",
    "figures": "analysis.figures.plot",
    "report": "analysis.report.report",
}


def _function(name: str, function: Any) -> str:
    if name in _HOMES:
        function = getattr(importlib.import_module(_HOMES[name]), name)
    return f"\n### {name}\n\n```text\n{name}{_signature(function)}\n```\n\n{_document(function)}"


def _class(kind: Any, methods: Iterable[str]) -> str:
    signature = "" if dataclasses.is_dataclass(kind) else f"```text\n{kind.__name__}{_signature(kind)}\n```\n\n"
    text = f"\n### {kind.__name__}\n\n{signature}{_document(kind)}"
    if "__init__" in vars(kind) and not dataclasses.is_dataclass(kind) and kind.__init__.__doc__:
        text += "\n" + _document(kind.__init__)
    if dataclasses.is_dataclass(kind):
        rows = [(f"`{item.name}`", f"`{_hint(item.type)}`") for item in dataclasses.fields(kind)]
        text += "\n" + table(("field", "type"), rows)
    for name in methods:
        value = vars(kind)[name]
        member = value.fget if isinstance(value, property) else value
        signature = (
            "" if isinstance(value, property) else _signature(member).replace("(self, ", "(").replace("(self)", "()")
        )
        text += f"\n**`.{name}{signature}`** {' '.join((member.__doc__ or '').split())}\n"
    return text


def _signature(function: Any) -> str:
    try:
        text = str(inspect.signature(function))
    except ValueError:
        return "(…)"
    text = re.sub(r"(?:lora_scaling|analysis|pandas|pathlib|collections|typing)\.(?:\w+\.)*", "", text)
    text = (
        re.sub(r"ColumnOptions\(.*?settings=\(\)\)|ColumnOptions\([^)]*\)", "…", text).replace("'", "").replace('"', "")
    )
    return re.sub(r"<function <lambda> at 0x[0-9a-f]+>", "…", text)


def _hint(kind: Any) -> str:
    text = kind if isinstance(kind, str) else getattr(kind, "__name__", None) if isinstance(kind, type) else str(kind)
    text = str(kind) if text is None or typing.get_args(kind) else text
    return re.sub(r"(?:lora_scaling|analysis|pandas|pathlib|collections|typing)\.(?:\w+\.)*", "", text)


def _document(item: Any) -> str:
    """A docstring as Markdown: its indented examples become blocks of Python."""
    text = inspect.getdoc(item) or ""
    parts = []
    for paragraph in text.split("\n\n"):
        if paragraph.startswith("    "):
            parts.append("```py\n" + inspect.cleandoc("\n" + paragraph) + "\n```")
        elif paragraph.startswith("Raises:"):
            lines = re.sub(r"\n        +", " ", paragraph.removeprefix("Raises:\n")).splitlines()
            parts.append("Raises:\n\n" + "\n".join(f"- `{line.strip().replace(': ', '`: ', 1)}" for line in lines))
        elif re.search(r"^\w+(?:, \w+)*: ", paragraph, re.MULTILINE):
            lines = re.sub(r"\n    +", " ", paragraph).splitlines()
            parts.append(
                "\n".join(f"- {line}" if re.match(r"\w+(?:, \w+)*: ", line) else f"  {line}" for line in lines)
            )
        else:
            parts.append(paragraph)
    return "\n\n".join(parts) + "\n"


PAGES = {
    "settings.md": settings,
    "presets.md": presets,
    "commands.md": commands,
    "columns.md": columns,
    "json.md": documents,
    "python.md": python,
}


def page(name: str) -> str:
    """Return one page as it has to be."""
    return MADE + PAGES[name]()


def main(words: list[str] | None = None) -> int:
    """Write the pages, or say which are out of date."""
    made = {PLACE / name: functools.partial(page, name) for name in PAGES}
    return keep(made, words, "Write the pages of the reference from the code.")


if __name__ == "__main__":
    sys.exit(main())
