"""The estimator page: one HTML file that computes in the browser what `python -m lora_scaling.estimate` computes.

`templates/page.html.j2` is the frame and its looks, `page_model.js` the arithmetic, `page_ui.js` the controls.
The scripts hold no constant: shapes, sheets, priors, intensities, and a fit if there is one, go in as JSON from here.
"""

import dataclasses
import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from statistics import NormalDist
from typing import Any

from lora_scaling import templates
from lora_scaling.config import HardwareConfig, RunConfig
from lora_scaling.config.build import build
from lora_scaling.config.devices import DRIVER_NAMES, preset
from lora_scaling.errors import UserError
from lora_scaling.estimate.compare import GPUS, METHODS, ZONES
from lora_scaling.estimate.estimator import Price
from lora_scaling.estimate.fit_file import (
    EFFICIENCY_SD,
    LEAST_POSSIBLE,
    TYPICAL_EFFICIENCY,
    UNSEEN_LABEL_FACTOR,
    UNSEEN_LABEL_SD,
    Fit,
    FittedModel,
)
from lora_scaling.estimate.from_priors import _NUDGE, _UNCERTAIN, weights_from
from lora_scaling.estimate.hardware import _LINKED_GB_S, _LINKED_W, _SHEET, resolve_hardware
from lora_scaling.estimate.lengths import lengths_of
from lora_scaling.estimate.measured import _EXAMPLES, _NAMES, _NUMBER, Measured
from lora_scaling.estimate.plan import _BYTES, _STATE_BYTES, CHUNKED_LOGITS_BYTES
from lora_scaling.estimate.priors import DEFAULT_STACK, load_priors
from lora_scaling.estimate.remedies import _SHARDS, advised_devices
from lora_scaling.estimate.result import LEVEL, MEMORY_PARTS
from lora_scaling.estimate.shapes import with_shape
from lora_scaling.estimate.terms import parse_term
from lora_scaling.grid import static_intensity
from lora_scaling.grid.zones import countries
from lora_scaling.paths import config_dir, presets
from lora_scaling.records import write_text
from lora_scaling.settings import SETTINGS
from lora_scaling.units import JOULES_PER_KWH
from lora_scaling.version import __version__
from lora_scaling.workload import LINEAR, MLP, MemorySetup, ModelShape
from lora_scaling.workload.flops import _BELOW, _QUERIES
from lora_scaling.workload.lengths import EXACT_UP_TO, MEGA_BATCHES, MEGA_BATCHES_LEAST, QUANTILES
from lora_scaling.workload.memory import ADAPTER_BYTES, NF4_BYTES, SHARED_INPUTS

_LEVELS = (0.5, 0.8, LEVEL, 0.95)
_SETTINGS = tuple(setting.name for setting in SETTINGS if setting.counted)


def write_page(path: str | Path, data: Mapping[str, Any]) -> Path:
    """Write the page with what `page_data` returned; it needs no network.

    Raises:
        UserError: the file cannot be written.
    """
    target = Path(path)
    write_text(target, render(data), setting="page")
    return target


def render(data: Mapping[str, Any]) -> str:
    """Return the HTML with these data in it."""
    return str(templates.render("lora_scaling.estimate", "page.html.j2", data=data))


def page_data(
    config: RunConfig,
    *,
    overrides: Sequence[str] = (),
    fit: Fit | None = None,
    level: float = LEVEL,
    stack: str = DEFAULT_STACK,
    measured: Measured | None = None,
    price: Price | None = None,
) -> dict[str, Any]:
    """Return all that the page's script needs, as JSON types; `initial` is this run in the names of the command line.

    `overrides` head the command that the page shows.

    Raises:
        UserError: the run cannot be estimated (see `estimate`).
    """
    priors = load_priors()
    priors.of_stack(stack)  # refuses one that is not listed
    if measured is not None and measured.joules_per_step is not None:
        raise UserError("page: does not read records; give a number, such as measured='0.9 s/step', or leave it out")
    hardware_name, hardware = _hardware(config)
    model_name, models = _models(config)
    normal = NormalDist()
    quantiles = [normal.inv_cdf((i + 0.5) / QUANTILES) for i in range(QUANTILES)]
    place = config.grid.place
    zone = None if place is None else place.zone
    return {
        "version": __version__,
        "overrides": list(overrides),
        "initial": {
            "model": model_name,
            "method": config.method.name,
            "hardware": hardware_name,
            "hardware.count": config.hardware.count,
            "lora.r": config.lora.r,
            "lora.target_modules": _targets(config.lora.target_modules),
            **{name: getattr(config, name) for name in _SETTINGS},
            "data.tokens_per_sample": config.data.tokens_per_sample,
            "data.tokens_cv": config.data.tokens_cv,
            "grid.zone": zone,
            "grid.intensity_g_per_kwh": config.grid.intensity_g_per_kwh,
            "grid.pue": config.grid.pue,
            "stack": stack,
            "measured": None if measured is None else measured.text,
            "price.per_hour": None if price is None else price.per_hour,
            "price.per_kwh": None if price is None else price.per_kwh,
            "level": level,
            "basis": "priors" if fit is None else "fit",
        },
        "constants": dict(priors.values),
        "log_sd": dict(priors.log_sd),
        "stacks": {name: dataclasses.asdict(stack) for name, stack in priors.stacks.items()},
        "linked": {"gb_s": _LINKED_GB_S, "w": _LINKED_W},
        "measured": {"number": _NUMBER, "names": _NAMES, "examples": _EXAMPLES},
        "uncertain": list(_UNCERTAIN),
        "nudge": _NUDGE,
        "joules_per_kwh": JOULES_PER_KWH,
        "workload": _workload_constants(),
        "memory_parts": list(MEMORY_PARTS),
        "default_level": LEVEL,
        "default_stack": DEFAULT_STACK,
        "shards": list(_SHARDS),
        "driver_names": [list(pair) for pair in DRIVER_NAMES],
        "advised_devices": list(map(list, advised_devices())),
        "normal_quantiles": quantiles,
        "z": {_number(p): normal.inv_cdf(0.5 + p / 2) for p in sorted({*_LEVELS, level})},
        "models": models,
        "hardware": hardware,
        "data": _data(config),
        "zones": _zones(zone),
        "compare": {"method": list(METHODS), "hardware": list(GPUS), "grid.zone": list(ZONES)},
        "fit": None if fit is None else _fit(fit),
        "log_beta": {} if fit is None else _log_beta(fit),
        "unseen_label_factor": UNSEEN_LABEL_FACTOR,
        "unseen_label_sd": UNSEEN_LABEL_SD,
        "floor": {
            "least_possible": LEAST_POSSIBLE,
            "typical_efficiency": TYPICAL_EFFICIENCY,
            "efficiency_sd": EFFICIENCY_SD,
        },
    }


def _number(value: float) -> str:
    """As JavaScript writes a number used as a key."""
    return str(int(value)) if value == int(value) else repr(value)


def _targets(modules: str | tuple[str, ...]) -> str:
    return modules if isinstance(modules, str) else f"[{','.join(modules)}]"


def _workload_constants() -> dict[str, Any]:
    setup = MemorySetup(compute_bytes=2, trainable_bytes=4, state_bytes=8, checkpointing=False, accumulates=False)
    return {
        "queries": list(_QUERIES),
        "mlp": list(MLP),
        "shared_inputs": [list(names) for names in SHARED_INPUTS],
        "linear": list(LINEAR),
        "below": {name: list(inputs) for name, inputs in _BELOW.items()},
        "nf4_bytes": NF4_BYTES,
        "adapter_bytes": ADAPTER_BYTES,
        "adapter_input_bytes": setup.adapter_input_bytes,
        "loss_bytes": setup.loss_bytes,
        "chunked_logits_bytes": CHUNKED_LOGITS_BYTES,
        "state_bytes": dict(_STATE_BYTES),
        "bytes": dict(_BYTES),
        "mega_batches": MEGA_BATCHES,
        "mega_batches_least": MEGA_BATCHES_LEAST,
        "exact_up_to": EXACT_UP_TO,
    }


def _models(config: RunConfig) -> tuple[str, dict[str, Any]]:
    """(the run's own key, {preset: name, weights, shape}); a model that is no preset comes under its own name."""
    from omegaconf import OmegaConf

    found: dict[str, Any] = {}
    for name in presets("model", shipped=True):
        values = OmegaConf.to_container(OmegaConf.load(config_dir() / "model" / f"{name}.yaml"))
        assert isinstance(values, dict)
        shape = build(ModelShape, values["shape"], "model.shape.")
        found[name] = {"name": values["name"], "weights": values["weights"], "shape": _shape(shape)}
    model = with_shape(config.model)
    if model.shape is None:
        raise UserError(f"model.shape: unknown here for {model.name}; give model.shape.* or choose a preset")
    own = {"name": model.name, "weights": weights_from(model), "shape": _shape(model.shape)}
    return _placed(own, model.name, found)


def _shape(shape: ModelShape) -> dict[str, Any]:
    """A shape with what follows from it, so that the page need not know the architectures."""
    names = ("query_size", "kv_size", "score_size", "mlp_size", "params", "layer_params", "linear_params")
    matmuls = [{**dataclasses.asdict(m), "linear": m.linear} for m in shape.matmuls()]
    widths = {name: getattr(shape, name) for name in ("layers", "hidden_size", "heads", "vocab_size", "experts")}
    kept = {**widths, "experts_per_token": shape.experts_per_token, "tied_embeddings": shape.tied_embeddings}
    return {**kept, **{name: getattr(shape, name) for name in names}, "matmuls": matmuls}


def _hardware(config: RunConfig) -> tuple[str, dict[str, Any]]:
    """The same of devices. A processor or Mac that was recognised is one device, however many are asked for."""
    found = {name: _sheet(preset(name)) for name in presets("hardware")}
    resolved = resolve_hardware(config.hardware, config.device)
    own = _sheet(resolved, fixed=config.hardware.kind == "auto" and resolved.kind in ("cpu", "mps"))
    return _placed(own, resolved.name, found)


def _sheet(hardware: HardwareConfig, *, fixed: bool = False) -> dict[str, Any]:
    names = ("name", "kind", "devices_per_node", *_SHEET)
    sheet = {name: getattr(hardware, name) for name in names}
    shares = {"peak_tflops": dict(hardware.peak_tflops), "matmul_share": dict(hardware.matmul_share)}
    return {**sheet, **shares, "fixed_count": fixed}


def _placed(own: Mapping[str, Any], name: str, listed: dict[str, Any]) -> tuple[str, dict[str, Any]]:
    for key, value in listed.items():
        if value == own:
            return key, listed
    key = name if name not in listed else f"{name} (as given)"
    return key, {key: own, **listed}


def _data(config: RunConfig) -> dict[str, Any]:
    """Lengths of the run's data where no mean is given, and the spread of a mean that is."""
    priors, data = load_priors(), config.data
    known = lengths_of(dataclasses.replace(data, tokens_per_sample=data.tokens_per_sample or 1.0), priors)
    basis = lengths_of(data, priors)
    stated = data.tokens_per_sample is not None
    return {
        "mean": basis.lengths.mean,
        "values": None if stated else list(basis.lengths.values),
        "log_sd": basis.log_sd,
        "known_log_sd": known.log_sd,
        "sentence": basis.sentence,
        "path": data.path,
        "available": basis.available,
        "repeat": data.repeat,
    }


def _zones(own: str | None) -> dict[str, Any]:
    """Yearly values by zone; "" is the world's. Countries without a value are left out, unless asked for."""
    asked = ("DK1", "DK2", *countries(), *([own] if own else []))
    found = {"": _intensity(None)}
    for zone in asked:
        value = _intensity(zone)
        if value["notice"] is None or zone == own:
            found[zone] = value
    return found


def _intensity(zone: str | None) -> dict[str, Any]:
    value = static_intensity(zone)
    return {name: getattr(value, name) for name in ("g_per_kwh", "year", "place", "definition", "source", "notice")}


def _fit(fit: Fit) -> dict[str, Any]:
    def model(item: FittedModel) -> dict[str, Any]:
        terms = {name: dataclasses.asdict(parse_term(text)) for name, text in item.terms.items()}
        return {**dataclasses.asdict(item), "terms": terms, "df": None if math.isinf(item.df) else item.df}

    values = dataclasses.asdict(fit)
    for name in ("energy", "time"):
        values[name] = [model(item) for item in getattr(fit, name)]
    for name in ("fixed_energy_j", "fixed_time_s"):
        spread = getattr(fit, name)
        if spread is not None:
            values[name]["models"] = [model(item) for item in spread.models]
    return values


def _log_beta(fit: Fit) -> dict[str, float]:
    """ln B(df/2, 1/2) for every number of degrees of freedom in the fit: browsers have no log-gamma."""
    return {_number(df): math.lgamma(df / 2) + math.lgamma(0.5) - math.lgamma(df / 2 + 0.5) for df in _degrees(fit)}


def _degrees(fit: Fit) -> Iterable[float]:
    spreads = [spread for spread in (fit.fixed_energy_j, fit.fixed_time_s) if spread is not None]
    models = [*fit.energy, *fit.time, *(model for spread in spreads for model in spread.models)]
    found = {model.df for model in models} | {float(spread.n - 1) for spread in spreads if spread.n > 1}
    return sorted(df for df in found if math.isfinite(df))
