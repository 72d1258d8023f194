"""What the columns of a table most likely hold whose names are in no list, where a column that is needed lacks.

A name counts only if all of its words are known: one of the quantity's and others that change nothing (`number of
training examples`). What is taken so is said, and two columns that could be one of ours are asked about.
"""

import itertools
import re
import unicodedata
from collections.abc import Sequence

import pandas as pd

from lora_scaling.errors import UserError

from .column_names import SAME, Meaning, apply_meanings, unit_factor, unit_of_name
from .durations import with_elapsed
from .parsing import FIRST_CELLS, RunWarning, parse_numbers

_NEUTRAL = frozenset(
    "n nb no nr num number numbers of the count counts in for used use using usage "
    "config cfg trainer params hparams hyperparams args data dataset settings summary metrics results measured "
    "anzahl der antal af nombre d de des du numero di el train training trained finetuning finetune fine "
    "tuning tune".split()
)
_NEUTRAL_OF_AMOUNTS = frozenset(
    "the of total overall all mean average avg run run's in for used use using usage summary metrics results "
    "measured der d de du di af".split()
)
_SAMPLES = frozenset(
    "sample samples example examples instance instances row rows record records datapoint datapoints item items "
    "beispiel beispiele trainingsbeispiele eksempler traeningseksempler datapunkter echantillon echantillons "
    "exemple exemples exemplaires ejemplos muestras esempi campioni".split()
)
_SHOWN = frozenset("seen processed shown".split())
_SET = frozenset("set dataset subset corpus train training data sample".split())
_EPOCHS = frozenset("epochs epochen epoker epoques epocas epoche passes".split())
_COUNTED = frozenset("n nb no nr num number anzahl antal nombre numero count".split())
_EPOCH = frozenset({"epoch", "ep"})
_ENERGY = frozenset("energy energie energi energia electricity strom power consumption consumed verbrauch forbrug "
                    "consommation consommee consumo consumida consumata energetico energetica e energieverbrauch "
                    "stromverbrauch energiforbrug elforbrug brugt".split())  # fmt: skip
_PARTS = {"gpu": "energy_gpu_kwh", "gpus": "energy_gpu_kwh", "cpu": "energy_cpu_kwh", "cpus": "energy_cpu_kwh",
          "ram": "energy_ram_kwh", "dram": "energy_ram_kwh"}  # fmt: skip
_EMISSIONS = frozenset("co co2 co2e co2eq eq e carbon emissions emission emitted footprint ghg cost 2".split())
_TIME = frozenset("time duration runtime walltime wall clock elapsed dauer zeit laufzeit tid duree temps tiempo durata "
                  "took varighed traeningstid trainingszeit trainingsdauer".split())  # fmt: skip
_LETTERS = str.maketrans({"æ": "ae", "ø": "o", "ß": "ss", "Æ": "Ae", "Ø": "O"})
# Names in writing without words between blanks, of Chinese and Japanese.
_WHOLE = {**dict.fromkeys("样本数 样本数量 训练样本数 樣本數 サンプル数".split(), "samples"),
          **dict.fromkeys("轮数 训练轮数 輪數 エポック数".split(), "epochs")}  # fmt: skip
_PER = {
    **dict.fromkeys("sample example item datapoint".split(), "samples_seen"),
    "token": "tokens_seen",
    "step": "steps",
}
_SHORT = {"samples": ("n",), "epochs": ("e", "ep")}
_WATTS = {"w": 1.0, "watt": 1.0, "watts": 1.0, "kw": 1e3}
_THOUSANDS = re.compile(r"(\d+(?:\.\d+)?)\s*[kK]")
LEAST_LARGEST = 50  # of a column `n`: below, it may count devices or repeats


def take_likely(raw: pd.DataFrame, wanted: str | None) -> tuple[pd.DataFrame, list[RunWarning]]:
    """Give our names to the columns that most likely hold what is missing, and say so.

    `wanted` is the response's column, None if it has no short name: energies are summed only where one is asked for.

    Raises:
        UserError: two columns could be the same one of ours.
    """
    meanings: dict[str, Meaning] = {}
    for name in map(str, raw.columns):
        meaning = None if name == "_place" else likely_meaning(name)
        if meaning is not None and (meaning.column == "epoch" or meaning.column not in raw.columns):
            meanings[name] = meaning
    if "epochs" not in raw:  # a position within a run, where it differs
        for name in [name for name, meaning in meanings.items() if meaning.column == "epoch"]:
            del meanings[name]
            if raw[name].nunique() == 1:
                meanings[name] = Meaning(column="epochs")
    meanings = {name: meaning for name, meaning in meanings.items() if meaning.column != "epoch"}
    for column in dict.fromkeys(meaning.column for meaning in meanings.values()):
        names = [name for name, meaning in meanings.items() if meaning.column == column]
        if len(names) > 1 and column not in ("samples", "epochs", wanted):
            meanings = {name: meaning for name, meaning in meanings.items() if name not in names}
        elif column == wanted and _agree(raw, [(name, meanings[name].factor) for name in names]):
            meanings = {name: meaning for name, meaning in meanings.items() if name not in names[1:]}
        elif len(names) > 1:
            shown = ", ".join(f"`{name}`" for name in names)
            raise UserError(f"{column}: could be any of {shown}; choose one, such as --column {column}='{names[0]}'")
    raw, notes = apply_meanings(raw, meanings)
    raw, short = _short_names(raw)
    said = [
        RunWarning(kind="likely_columns", message=note.message.replace("read under our names", "taken for ours"))
        for note in (*notes, *short)
    ]
    raw, counted = _thousands(raw)
    raw, elapsed = with_elapsed(raw)
    raw, summed = _energy(raw) if wanted == "energy_kwh" else (raw, [])
    raw, shown = _samples_from_steps(raw)
    if not {"samples", "epochs"} & set(raw.columns) and "samples_seen" in raw:
        raw = raw.assign(samples=raw["samples_seen"], epochs="1")
        message = "Of the samples only how many were shown in all is known: they count as one epoch."
        shown = [RunWarning(kind="samples_seen", message=message)]
    return raw, [*said, *counted, *elapsed, *summed, *shown]


def _agree(raw: pd.DataFrame, columns: Sequence[tuple[str, float]]) -> bool:
    """Whether several columns say the same once their units are converted."""
    first, *others = (_numbers(raw, name) * factor for name, factor in columns)
    return all(((first - other).abs() <= SAME * first.abs()).all() for other in others)


def likely_meaning(name: str) -> Meaning | None:
    """Say what a column of this name most likely holds; the column `epoch` is one that may be a position."""
    if name.strip() in _WHOLE:
        return Meaning(column=_WHOLE[name.strip()])
    if _per_item(name) is not None:
        return None
    for column in ("energy_kwh", "emissions_g"):
        if unit_factor(column, name.strip()) is not None and len(name.strip()) > 2:  # `kWh`, `joules`, `kgCO2e`
            return _in(column, name.strip())
    unit = unit_of_name(name)
    if all(unit_factor(column, unit) is None for column in ("energy_kwh", "total_s", "emissions_g", "peak_memory_gb")):
        unit = ""  # `dataset size (samples)`
    words = _words(_without_unit(name, unit))
    counting = {word for word in words if word not in _NEUTRAL}
    if not unit:
        counting -= {"max"}  # of samples and epochs: as many as were asked for
        if counting and counting <= _SAMPLES:
            return Meaning(column="samples")
        if counting & _SAMPLES and counting & _SHOWN and counting <= _SAMPLES | _SHOWN | {"total"}:
            return Meaning(column="samples_seen")
        if counting - _SET - _SAMPLES == {"size"} and (set(words) & _SET):
            return Meaning(column="samples")
        if counting and counting <= _EPOCHS:
            return Meaning(column="epochs")
        if counting and counting <= _EPOCH and set(words) & _COUNTED:
            return Meaning(column="epochs")
        return Meaning(column="epoch") if counting and counting <= _EPOCH else None
    counting = {word for word in words if word not in _NEUTRAL_OF_AMOUNTS}
    if "per run" in " ".join(words):
        counting.discard("per")
    parts = {_PARTS[word] for word in counting if word in _PARTS}
    counting -= set(_PARTS)
    if unit_factor("energy_kwh", unit) is not None and counting <= _ENERGY and len(parts) <= 1:
        return _in(parts.pop() if parts else "energy_kwh", unit)
    if unit_factor("total_s", unit) is not None and counting and counting <= _TIME and not parts:
        return _in("total_s", unit)
    if unit_factor("emissions_g", unit) is not None and counting and counting <= _EMISSIONS and not parts:
        return _in("emissions_g", unit)
    return None


def _in(column: str, unit: str) -> Meaning | None:
    factor = unit_factor(column, unit)
    return None if factor is None else Meaning(column=column, factor=factor, unit=unit)


def _plain(text: str) -> str:
    """Return letters without accents, in lower case."""
    text = text.translate(_LETTERS)
    return unicodedata.normalize("NFKD", text).encode("ascii", "ignore").decode().lower()


def _without_unit(name: str, unit: str) -> str:
    text = name.strip()
    if not unit:
        return text
    return text[: text.rfind(unit)] if unit in text else text[: len(text) - len(unit)]


def _words(name: str) -> list[str]:
    text = re.sub(r"(?<=[a-z0-9])(?=[A-Z][a-z])", " ", name)
    return re.findall(r"[a-z]+|\d+", _plain(text))


def _short_names(raw: pd.DataFrame) -> tuple[pd.DataFrame, list[RunWarning]]:
    """Take `n` and `e` for samples and epochs in a table that has an energy or a time, and the other of the two."""
    if not {"energy_kwh", "train_s", "total_s", "energy_gpu_kwh"} & set(raw.columns):
        return raw, []
    lower = {str(name).lower(): str(name) for name in raw.columns}
    found: dict[str, Meaning] = {}
    for column, names in _SHORT.items():
        there = [lower[name] for name in names if name in lower]
        if column in raw or len(there) != 1:
            continue
        numbers = parse_numbers(raw[there[0]], run_ids=pd.Series("", index=raw.index))
        whole = not numbers.unreadable and (numbers.values.dropna() % 1 == 0).all() and (numbers.values >= 1).all()
        if whole and (numbers.values.max() >= LEAST_LARGEST if column == "samples" else numbers.values.max() <= 1000):
            found[there[0]] = Meaning(column=column)
    columns = {meaning.column for meaning in found.values()}
    if "samples" in columns and "epochs" not in columns | set(raw.columns):
        return raw, []  # `n` alone may count anything
    if "epochs" in columns and "samples" not in columns | set(raw.columns):
        return raw, []
    return apply_meanings(raw, found)


def _thousands(raw: pd.DataFrame) -> tuple[pd.DataFrame, list[RunWarning]]:
    """Read samples that are written as `1.5k`."""
    if "samples" not in raw or pd.api.types.is_numeric_dtype(raw["samples"]):
        return raw, []
    if not raw["samples"].head(FIRST_CELLS).astype(str).str.strip().str.fullmatch(r"[\d.]+\s*[kK]?").all():
        return raw, []
    text = raw["samples"].astype(str).str.strip()
    found = text.str.fullmatch(_THOUSANDS)
    if not found.any() or not (found | text.str.fullmatch(r"\d+")).all():
        return raw, []
    parsed = text.where(~found, text.str.replace(_THOUSANDS, lambda m: f"{float(m[1]) * 1000:.0f}", regex=True))
    message = f"`samples` counts in thousands where it says k ({text[found].iloc[0]})."
    return raw.assign(samples=parsed), [RunWarning(kind="thousands", message=message)]


def _energy(raw: pd.DataFrame) -> tuple[pd.DataFrame, list[RunWarning]]:
    """Make a total energy of what the table has: its components, the GPUs' alone, or mean power × time."""
    if "energy_kwh" in raw:
        return raw, []
    parts = [name for name in ("energy_gpu_kwh", "energy_cpu_kwh", "energy_ram_kwh") if name in raw]
    if len(parts) > 1 and "energy_cpu_kwh" in parts:
        total = sum(_numbers(raw, name).fillna(0.0) for name in parts)
        known = pd.concat([_numbers(raw, name) for name in parts], axis=1).notna().all(axis=1)
        message = f"The table has no total energy: taken as the sum of {', '.join(f'`{name}`' for name in parts)}."
        return raw.assign(energy_kwh=pd.Series(total, index=raw.index).where(known)), [
            RunWarning(kind="summed_energy", message=message)
        ]
    if parts == ["energy_gpu_kwh"]:
        message = "The table has the energy of the GPUs alone: every verdict is on that."
        return raw.assign(energy_kwh=raw["energy_gpu_kwh"]), [RunWarning(kind="gpu_only", message=message)]
    if (ends := _meter_readings(raw)) is not None:
        first, last, factor = ends
        kwh = (_numbers(raw, last) - _numbers(raw, first)) * factor
        message = f"The table has no energy: taken as `{last}` − `{first}`, the readings of one meter."
        return raw.drop(columns=[first, last]).assign(energy_kwh=kwh), [
            RunWarning(kind="meter_readings", message=message)
        ]
    power = [
        str(name)
        for name in raw.columns
        if unit_of_name(str(name)).lower() in _WATTS
        and {"avg", "average", "mean"} & set(_words(str(name)))
        and set(_words(str(name)))
        <= {
            "avg",
            "average",
            "mean",
            "power",
            "draw",
            "gpu",
            "w",
            "watt",
            "watts",
            "kw",
            "total",
            "forbrug",
            "effekt",
            "leistung",
        }
    ]
    if (times := _times_items(raw))[1]:
        return times
    time = next((name for name in ("total_s", "train_s") if name in raw), None)
    if len(power) == 1 and time is not None:
        kwh = _numbers(raw, power[0]) * _numbers(raw, time) * _WATTS[unit_of_name(power[0]).lower()] / 3.6e6
        message = f"The table has no energy: taken as `{power[0]}` × `{time}`, its mean power times its time."
        return raw.drop(columns=power).assign(energy_kwh=kwh), [RunWarning(kind="power_times_time", message=message)]
    return raw, []


def _per_item(name: str) -> tuple[str, str] | None:
    """Return the unit of an energy for each sample, token or step, and the column that counts these; else None."""
    found = re.search(r"[(\[]\s*(\w+)\s*(?:/|per)\s*(\w+?)s?\s*[)\]]|\b(\w+)\s*/\s*(\w+?)s?$", name.strip())
    if found:
        unit, item = found[1] or found[3], (found[2] or found[4]).lower()
        return (unit, _PER[item]) if item in _PER and unit_factor("energy_kwh", unit) is not None else None
    words, unit = _words(name), unit_of_name(name)
    item = next((after.removesuffix("s") for word, after in itertools.pairwise(words) if word == "per"), "")
    if item not in _PER or unit_factor("energy_kwh", unit) is None:
        return None
    rest = {word for word in words if word not in ("per", item, f"{item}s", unit.lower(), *_NEUTRAL_OF_AMOUNTS)}
    return (unit, _PER[item]) if rest <= _ENERGY else None


def _times_items(raw: pd.DataFrame) -> tuple[pd.DataFrame, list[RunWarning]]:
    """Multiply the energy for each sample, token or step by how many there were."""
    found = {name: item for name in map(str, raw.columns) if (item := _per_item(name)) is not None}
    counted = {name: item for name, item in found.items() if item[1] in raw or item[1] == "samples_seen"}
    if len(counted) != 1:
        return raw, []
    [(name, (unit, column))] = counted.items()
    if column == "samples_seen" and "samples_seen" not in raw:
        if not {"samples", "epochs"} <= set(raw.columns) or not (_numbers(raw, "epochs") == 1).all():
            return raw, []  # for each sample of the set, or each that was shown
        column = "samples"
    kwh = _numbers(raw, name) * _numbers(raw, column) * (unit_factor("energy_kwh", unit) or 0.0)
    message = f"The table has no energy of runs: taken as `{name}` × `{column}`."
    return raw.drop(columns=name).assign(energy_kwh=kwh), [RunWarning(kind="energy_per_item", message=message)]


def _meter_readings(raw: pd.DataFrame) -> tuple[str, str, float] | None:
    """Return the columns of a meter's readings before and after a run, and the factor to kWh; None without such."""
    found: dict[str, list[tuple[str, str]]] = {"first": [], "last": []}
    for name in map(str, raw.columns):
        words, unit = set(_words(name)), unit_of_name(name)
        if unit_factor("energy_kwh", unit) is None:
            continue
        for place, own in (
            ("first", {"start", "begin", "before", "initial"}),
            ("last", {"end", "stop", "after", "final"}),
        ):
            if words & own:
                found[place].append((name, unit))
    if [len(names) for names in found.values()] != [1, 1]:
        return None
    (first, unit), (last, other) = found["first"][0], found["last"][0]
    factor = unit_factor("energy_kwh", unit)
    return (first, last, factor) if unit == other and factor is not None else None


def _samples_from_steps(raw: pd.DataFrame) -> tuple[pd.DataFrame, list[RunWarning]]:
    """Count samples as steps × batch (× accumulation × devices) ÷ epochs where nothing else tells them."""
    if "samples" in raw or not {"steps", "batch_size"} <= set(raw.columns):
        return raw, []
    factors = [name for name in ("batch_size", "gradient_accumulation", "gpu_count") if name in raw]
    shown = _numbers(raw, "steps")
    for name in factors:
        shown = shown * _numbers(raw, name)
    epochs = _numbers(raw, "epochs") if "epochs" in raw else pd.Series(1.0, index=raw.index)
    samples = (shown / epochs.where(epochs > 0)).round()
    if samples.isna().any() or (samples <= 0).any():
        return raw, []
    product = " × ".join(f"`{name}`" for name in ("steps", *factors))
    message = f"The number of samples is not recorded: taken as {product}" + (
        " ÷ `epochs`." if "epochs" in raw else "."
    )
    raw = raw.assign(samples=samples)
    if "epochs" not in raw:
        raw = raw.assign(epochs=1.0)
        message += " They count as one epoch; --set epochs=N if not."
    return raw, [RunWarning(kind="samples_from_steps", message=message)]


def _numbers(raw: pd.DataFrame, name: str) -> pd.Series:
    return parse_numbers(raw[name], run_ids=pd.Series("", index=raw.index)).values
