"""The estimator page computes what the command computes, in node and in Chromium; and the picture of a comparison."""

import html
import json
import math
import random
import re
import shlex
import shutil
import subprocess
import xml.etree.ElementTree as ET
from collections import Counter
from typing import Any

import pytest

from lora_scaling.commands.estimate import main
from lora_scaling.config import compose
from lora_scaling.errors import UserError
from lora_scaling.estimate import Price, estimate, load_fit
from lora_scaling.estimate.compare import compare
from lora_scaling.estimate.compare_plot import draw
from lora_scaling.estimate.fit_file import Fit
from lora_scaling.estimate.measured import earlier_run, parse_measured
from lora_scaling.estimate.page import page_data, render
from lora_scaling.text import ENERGY, MASS, POWER, TIME
from tests.support.paths import ROOT

BASE = ("+experiment=munin_skolegpt",)
OWN_MODEL = (
    "model=shape", "model.shape.layers=2", "model.shape.hidden_size=64", "model.shape.intermediate_size=96",
    "model.shape.heads=4", "hardware=t4", "grid.zone=SE",
)  # fmt: skip
NODE, CHROMIUM = shutil.which("node"), shutil.which("chromium")
needs_node = pytest.mark.skipif(NODE is None, reason="node is not installed")

MODELS = (
    "munin-7b", "mixtral-8x7b", "llama-3.1-70b", "qwen2.5-0.5b", "smollm2-135m", "ladder-1m", "llama-3.2-3b",
    "deepseek-v3", "gpt-oss-20b", "phi-4", "gemma-3-4b", "qwen3-30b-a3b", "llama-4-scout",
)  # fmt: skip
GPUS = ("rtx-a4000", "t4", "v100", "h100-sxm", "mi300x", "apple-m3-max", "a100-pcie", "rtx-4090", "b200")


def drawn(seed: int, **fixed):
    pick = random.Random(seed).choice
    case = {
        "model": pick(MODELS),
        "method": pick(("lora", "qlora", "full")),
        "hardware": pick(GPUS),
        "hardware.count": pick((1, 1, 2, 3, 8)),
        "lora.r": pick((1, 8, 64, 300)),
        "lora.target_modules": pick(("all-linear", "[q_proj,v_proj]", "[gate_proj,down_proj]", "[o_proj]")),
        "samples": pick((1, 7, 999, 50000)),
        "epochs": pick((1, 3)),
        "max_steps": pick((None, None, 5)),
        "batch_size": pick((1, 4, 16, 33)),
        "gradient_accumulation": pick((1, 3, 16)),
        "max_seq_len": pick((128, 512, 4096)),
        "packing": pick((True, False, False)),
        "padding": "longest",
        "gradient_checkpointing": pick((True, False)),
        "group_by_length": pick((True, False)),
        "optimizer": pick(("adamw", "adamw", "adamw_8bit", "paged_adamw_8bit")),
        "pure_bf16": pick((True, False)),
        "precision": pick(("auto", "bf16", "fp16", "fp32", "fp8")),
        "eval_samples": pick((0, 16)),
        "data.tokens_per_sample": pick((None, 96, 600.5, 3000)),
        "grid.zone": pick((None, "FR", "DK2", "PL")),
        "grid.pue": pick((1.0, 1.3)),
        "grid.intensity_g_per_kwh": pick((None, None, 82.5)),
        "sharding": pick(("none", "none", "fsdp")),
    } | fixed
    if case["method"] == "full":
        del case["lora.r"], case["lora.target_modules"]
    else:
        del case["pure_bf16"]
    pick = random.Random(-seed).choice
    case |= {"use_liger_kernel": pick((False, False, True)), "stack": pick(("hf", "unsloth", "torchtune", "other"))}
    case |= {"price.per_hour": pick((None, None, 2.5)), "price.per_kwh": pick((None, 0.3))} | fixed
    if not case["packing"] and pick((True, False, False)):
        case["padding"] = "max_length"
    return case


CASES = [
    {},
    drawn(0, max_steps=0, method="lora", **{"lora.r": 8}),
    {"model": "mixtral-8x7b", "hardware": "h100-sxm", "hardware.count": 2, "gradient_accumulation": 4},
    {
        "model": "llama-3.1-70b",
        "method": "full",
        "hardware": "a100-40gb",
        "hardware.count": 8,
        "gradient_accumulation": 8,
        "gradient_checkpointing": True,
    },
    {"packing": True, "eval_samples": 70, "warmup_steps": 5, "max_steps": 7, "epochs": 3, "samples": 11},
    *(drawn(seed) for seed in range(1, 45)),
    *(
        {"measured": text}
        for text in ("300 tokens/s", "31 % MFU", "tokens/s: 9000000", "2 s/step @ batch_size=1", "3 cups")
    ),
    {"measured": "90 tokens/s/gpu @ model=llama-3.2-3b hardware=h100-sxm", "hardware": "a100-80gb", "samples": 500},
    {"hardware": "t4", "hardware.count": 16, "gradient_accumulation": 16, "method": "full", "sharding": "fsdp"},
]


def answer(case: dict[str, Any], fit: Fit | None = None) -> dict[str, Any]:
    """What the command says, or its sentence of refusal."""
    own = ("stack", "measured", "price.per_hour", "price.per_kwh")
    written = [f"{k}={'null' if v is None else str(v).lower() if isinstance(v, bool) else v}" for k, v in case.items()
               if k not in own]  # fmt: skip
    price = Price(per_hour=case.get("price.per_hour"), per_kwh=case.get("price.per_kwh"))
    try:
        measured = None
        if "measured" in case:
            measured = earlier_run(parse_measured(case["measured"]), [*BASE, *written])
        config, stack = compose([*BASE, *written]), case.get("stack", "hf")
        priced = price if price != Price() else None
        return estimate(config, fit=fit, stack=stack, measured=measured, price=priced).to_dict()
    except UserError as error:
        return {"error": str(error)}


def evaluation(cases):
    """Script that answers the cases, as JSON in `answers`."""
    return (
        "const answers = JSON.stringify(" + json.dumps(cases) + ".map((c) => { try {"
        " return loraEstimator(DATA).estimate({ ...DATA.initial, ...c }); }"
        " catch (e) { if (e instanceof EstimateError) return { error: e.message }; throw e; } }));"
    )


def in_node(page, cases):
    assert NODE is not None
    scripts = re.findall(r'<script id="(?:data|model)">(.*?)</script>', page, re.S)
    assert len(scripts) == 2
    program = "".join([*scripts, evaluation(cases), "console.log(answers)"])
    ran = subprocess.run([NODE, "-"], input=program, capture_output=True, text=True, check=True, timeout=60)
    return json.loads(ran.stdout)


def differences(wanted, got, path=""):
    """Where the page's answer is not the command's; the page may leave out fields, and adds none to a mapping."""
    if isinstance(wanted, dict) and isinstance(got, dict):
        for key in got:
            yield from differences(wanted[key], got[key], f"{path}/{key}") if key in wanted else [f"{path}/{key} added"]
    elif isinstance(wanted, list) and isinstance(got, list) and len(wanted) == len(got):
        for i, (a, b) in enumerate(zip(wanted, got, strict=True)):
            yield from differences(a, b, f"{path}/{i}")
    elif isinstance(wanted, int | float) and isinstance(got, int | float) and not isinstance(wanted, bool):
        if not math.isclose(wanted, got, rel_tol=1e-8):
            yield f"{path}: {got} for {wanted}"
    elif wanted != got:
        yield f"{path}: {got!r} for {wanted!r}"


def agree(wanted, got, cases):
    for case, a, b in zip(cases, wanted, got, strict=True):
        assert not list(differences(a, b)), (case, list(differences(a, b)))
        if "error" not in a:
            assert {"time_s", "energy_kwh", "emissions_g", "peak_memory_gb", "work", "parts", "assumptions"} <= b.keys()


@pytest.fixture(scope="module")
def page():
    return render(page_data(compose(BASE), overrides=BASE))


@pytest.fixture(scope="module")
def wanted():
    return [answer(case) for case in CASES]


def test_the_cases_cover_what_an_estimate_depends_on(wanted):
    answered = [case for case, a in zip(CASES, wanted, strict=True) if a.get("energy_kwh")]
    assert len(answered) >= 30
    for name, least in (("method", 3), ("model", 7), ("hardware", 8), ("hardware.count", 3), ("packing", 2)):
        assert len({case.get(name) for case in answered if case}) >= least, name
    kinds = Counter(a["peak_memory_gb"]["fits"] for a in wanted if "error" not in a)
    assert kinds[True] >= 10
    assert kinds[False] >= 5
    assert any("error" in a for a in wanted)
    assert any(a.get("peak_memory_gb", {}).get("shards", 1) > 1 for a in wanted)


@needs_node
def test_the_page_computes_what_the_command_computes(page, wanted):
    agree(wanted, in_node(page, CASES), CASES)


FIT = {
    "schema_version": 1,
    "kind": "energy_fit",
    "models": [
        {
            "name": "saturating",
            "weight": 0.7,
            "per": "flops",
            "terms": {
                "a": "1",
                "h": "saturation(tokens, 0.5)",
                "q": "method=qlora",
                "b": "log(batch_size)",
                "r": "roofline(flops_per_token, 3)",
                "c": "cost(epochs)",
                "d": "cost(samples)",
            },
            "params": {"a": -26.7, "h": 11.0, "q": 0.3, "b": -0.02, "r": 23.0, "c": -0.5, "d": 6.0},
            "param_names": ["a", "h", "q", "b", "r", "c", "d"],
            "covariance": [
                [4e-4, 1e-5, 0, 0, 0, 0, 0],
                [1e-5, 2e-4, 0, 0, 0, 0, 0],
                [0, 0, 1e-4, 0, 0, 0, 0],
                [0, 0, 0, 1e-5, 0, 0, 0],
                [0, 0, 0, 0, 1e-3, 0, 0],
                [0, 0, 0, 0, 0, 4e-2, -1e-2],
                [0, 0, 0, 0, 0, -1e-2, 1e-2],
            ],
            "df": 17,
            "sigma": 0.05,
            "noise": {"variable": "steps", "reference": 100, "exponent": -0.3, "range": [10, 4000]},
        },
        {
            "name": "power",
            "weight": 0.3,
            "per": "tokens",
            "params": {"alpha": -22.0, "gamma": 0.97},
            "param_names": ["alpha", "gamma"],
            "covariance": [[1e-3, -4e-5], [-4e-5, 2e-6]],
            "df": None,
            "sigma": 0.08,
        },
    ],
    "time": [
        {
            "name": "power",
            "weight": 1,
            "per": "flops",
            "params": {"alpha": -31.0},
            "param_names": ["alpha"],
            "covariance": [[1e-3]],
            "df": 2.5,
            "sigma": 0.1,
        }
    ],
    "fixed": {"energy_j": {"mean": 900.0, "sd": 120.0, "n": 9}, "time_s": {"mean": 20.0, "sd": 0.0, "n": 1}},
    "ranges": {"samples": [100, 5000], "flops_per_token": [1e9, 1e11]},
    "beyond": {"flops_per_token": 0.08},
    "methods": ["lora", "qlora"],
    "precisions": ["bf16"],
    "hardware": ["NVIDIA RTX A4000", "NVIDIA H100 80GB HBM3"],
    "gpu_counts": [1, 2, 3, 8],
    "session": {"sd": 0.065},
    "floor": {"energy_j_per_flop": 2.6e-12, "time_s_per_flop": 3.4e-14},
    "n": 21,
}


@needs_node
@pytest.mark.parametrize(
    ("floor", "counting"),
    [
        (None, None),
        (FIT["floor"], {"padding": False, "by_parameters": False}),
        ({"energy_j_per_flop": 1e-9, "time_s_per_flop": 1e-11}, {"padding": False, "by_parameters": True}),
    ],
    ids=["none", "near", "above"],
)
def test_an_embedded_fit_answers_as_the_command_does(tmp_path, floor, counting):
    """Without a physical floor, with one amid the predictions, and with one that overrules the models.

    With all work counted, without padding, and by the parameters.
    """
    path = tmp_path / "fit.json"
    path.write_text(json.dumps(FIT | {"floor": floor, "counting": counting}))
    fit = load_fit(path)
    cases = [{}, *(drawn(i, hardware=GPUS[3 * (i % 3 > 0)], max_steps=None) for i in range(12)), {"hardware": "t4"}]
    cases += [{"hardware.count": 16}, {"max_steps": 0}, {"precision": "fp16"}]
    wanted = [answer(case, fit) for case in cases]
    assert sum(a.get("basis") == "fit" for a in wanted) >= 8
    assert any(a.get("extrapolates") for a in wanted)
    refused = ("efficiency does not carry over", "was fitted on runs of 1, 2, 3, 8", "max_steps: got 0")
    for a, words in zip(wanted[-4:-1], refused, strict=True):
        assert words in a["error"]
    assert {"variable": "precision", "factor": None} in wanted[-1]["extrapolates"]
    got = in_node(render(page_data(compose(BASE), fit=fit)), [*cases, {"basis": "priors"}])
    agree([*wanted, answer({})], got, [*cases, {}])


@needs_node
@pytest.mark.parametrize(
    "overrides",
    [
        ["level=0.8", "model=ladder-3m", "hardware=rtx-4090"],
        OWN_MODEL,
        [*OWN_MODEL[:-2], "hardware=custom", "hardware.name=mine", "hardware.memory_gb=8"],
        ["hardware=l4", "data=hub", "data.path=a/b", "data.bytes_per_sample=800", "grid.zone=SE"],
        ["hardware=l4", "grid.provider=uk"],
        ["hardware=auto", "device=cpu"],
        ["hardware=auto", "device=cpu", "precision=bf16"],
        ["hardware=l4", "model=smollm2-135m", "model.gguf_file=weights.gguf"],
        ["hardware=rtx-4090", "model=qwen2.5-3b", "method=full"],
    ],
)
def test_any_run_can_be_the_first_one(overrides):
    level = 0.8 if overrides[0] == "level=0.8" else 0.9
    config = compose([o for o in overrides if o != "level=0.8"])
    got = in_node(render(page_data(config, level=level)), [{}])
    agree([estimate(config, level=level).to_dict()], got, [{}])


@needs_node
def test_a_file_has_as_many_samples_on_the_page_as_for_the_command(tmp_path):
    path = tmp_path / "samples.json"
    path.write_text(json.dumps([{"instruction": "Say it.", "output": "It is said."}] * 50))
    job = ["hardware=l4", "data=file", f"data.path={path}", "samples=40", "eval_samples=4"]
    cases = [{}, {"samples": 47}, {"eval_samples": 50}, {"samples": 47, "data.tokens_per_sample": 9}]
    wanted = []
    for case in cases:
        try:
            wanted.append(estimate(compose([*job, *(f"{k}={v}" for k, v in case.items())])).to_dict())
        except UserError as error:
            wanted.append({"error": str(error)})
    assert "error" in wanted[1]
    assert "error" in wanted[2]
    agree(wanted[:3], in_node(render(page_data(compose(job))), cases)[:3], cases[:3])
    assert "error" not in in_node(render(page_data(compose(job))), cases)[3]
    agree([estimate(compose([*job, "data.repeat=true", "samples=470"])).to_dict()],
          in_node(render(page_data(compose([*job, "data.repeat=true"]))), [{"samples": 470}]), [{}])  # fmt: skip


@needs_node
def test_several_processors_are_one_on_the_page_too():
    config = compose(["hardware=auto", "device=cpu", "hardware.count=4"])
    wanted = estimate(config).to_dict()
    assert any("hardware.count 4 is left out" in text for text in wanted["assumptions"])
    agree([wanted], in_node(render(page_data(config)), [{}]), [{}])


@needs_node
@pytest.mark.parametrize(("overrides", "value"), [([], "undefined"), (["data=skolegpt"], "null")])
def test_no_length_is_asked_of_samples_whose_own_are_not_there(overrides, value):
    """The emptied field: the data set's own lengths, or nothing changes."""
    assert NODE is not None
    page = render(page_data(compose([*overrides, "hardware=l4"])))
    data = re.findall(r'<script id="data">(.*?)</script>', page, re.S)
    field = re.findall(r"^function fromField.*?^}$", page, re.S | re.M)
    row = 'const KINDS = { "data.tokens_per_sample": ["data.tokens_per_sample", "", "slide"] };'
    asked = 'console.log(String(fromField({ name: "data.tokens_per_sample", value: "" })))'
    ran = subprocess.run(
        [NODE, "-"],
        input="\n".join([*data, row, *field, asked]),
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    assert ran.stdout.strip() == value


@needs_node
def test_figures_are_written_as_in_the_table():
    """Thousands apart, and no power of ten where there is a unit."""
    assert NODE is not None
    page = render(page_data(compose(BASE)))
    scripts = re.findall(r'<script id="(?:data|model)">(.*?)</script>', page, re.S)
    parts = re.findall(
        r"^const UNITS = .*?^};$|^const unitOf.*?$|^const number.*?$|^function show\(.*?^}$", page, re.S | re.M
    )
    values = [0.0004, 0.99, 5.5, 99.96, 999.7, 6620.0, 54321.0, 9.57e6, 3.21e9]
    kinds = {"time_s": TIME.show, "energy_kwh": ENERGY.show, "emissions_g": MASS.show, "mean_power_w": POWER.show}
    asked = f"console.log(JSON.stringify({list(kinds)}.map((kind) => {values}.map((x) => show(kind, x)))))"
    program = "\n".join([*scripts, "const g = loraEstimator(DATA).format;", *parts, asked])
    ran = subprocess.run([NODE, "-"], input=program, capture_output=True, text=True, check=True, timeout=60)
    assert json.loads(ran.stdout) == [[show(x) for x in values] for show in kinds.values()]
    assert (POWER.show(6620.0), ENERGY.show(9.57e6), MASS.show(54321000.0)) == ("6.62 kW", "9.57 GWh", "54.3 t")
    assert (ENERGY.show(999.7), TIME.show(3.21e9)) == ("1,000 kWh", "37,200 days")


def test_the_page_is_one_file_that_asks_nothing_of_a_network(page):
    assert not re.search(r"(?:src|href)\s*=|url\(|@import|fetch\(|XMLHttpRequest|import\(", page)
    assert page.count("</script>") == 3
    assert len(page) < 400_000


def test_page_on_the_command_line(tmp_path, capsys):
    path = tmp_path / "out" / "estimator.html"
    assert main([*BASE, f"page={path}", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {"schema_version": 1, "page": str(path)}
    assert "+experiment=munin_skolegpt" in path.read_text(encoding="utf-8")
    assert main([*BASE, f"page={tmp_path}"]) == 2
    assert "page: got" in capsys.readouterr().err
    assert main([*BASE, f"page={path}", "compare=method"]) == 2
    assert "leave compare= out" in capsys.readouterr().err


@pytest.fixture
def browser(tmp_path):
    if CHROMIUM is None:
        pytest.skip("Chromium is not installed")

    def dump(text: str, address: str = "") -> str:
        """The document after its scripts ran."""
        path = tmp_path / "page.html"
        path.write_text(text, encoding="utf-8")
        flags = "headless no-sandbox disable-gpu disable-quic no-first-run disable-background-networking"
        flags += f" disable-component-update disable-sync dump-dom user-data-dir={tmp_path / 'profile'}"
        command = [CHROMIUM, *(f"--{flag}" for flag in flags.split()), f"{path.as_uri()}{address}"]
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=120).stdout

    return dump


@pytest.mark.slow
def test_chromium_computes_what_the_command_computes(page, wanted, browser):
    write = "document.body.append(Object.assign(document.createElement('pre'), { textContent: answers }))"
    check = evaluation(CASES) + write
    document = browser(page.replace("</body>", f"<script>{check}</script></body>"))
    found = re.findall(r"<pre>(\[\{.*?\])</pre>", document, re.S)
    agree(wanted, json.loads(html.unescape(found[-1])), CASES)


@pytest.mark.slow
def test_what_the_page_shows_is_what_its_address_asks_for(page, browser):
    document = browser(page, "#method=lora&samples=5000&hardware=h100-sxm")
    shown = re.findall(r"<h2>(\w+)</h2><b>([^<]*)</b>", document)
    run = answer({"method": "lora", "samples": 5000, "hardware": "h100-sxm"})
    assert dict(shown) == {
        "Time": TIME.show(run["time_s"]["estimate"]),
        "Energy": ENERGY.show(run["energy_kwh"]["estimate"]),
        "Emissions": MASS.show(run["emissions_g"]["estimate"]),
        "Memory": f"{run['peak_memory_gb']['estimate']:.3g} GB",
    }


@pytest.mark.slow
@pytest.mark.parametrize(
    ("base", "address"),
    [
        (BASE, "#method=lora&samples=5000&hardware=h100-sxm&lora.target_modules=[q_proj,v_proj]&level=0.8"),
        (OWN_MODEL, "#model=llama-3.2-1b&hardware=l4&grid.zone=null"),
        ((*OWN_MODEL[:-1], "grid.provider=energidataservice", "grid.zone=DK1"), "#grid.zone=FR"),
        (OWN_MODEL, "#samples=20000&epochs=-3&model=none&method=100%&packing=true&max_seq_len=128&grid.pue=1.2"),
    ],
)
def test_the_command_that_the_page_shows_gives_its_figures(base, address, browser, capsys):
    document = browser(render(page_data(compose(base), overrides=base)), address)
    found = re.search(r"<pre>(python -m lora_scaling.estimate .*?)</pre>", document)
    assert found is not None
    assert main([*shlex.split(html.unescape(found[1]))[3:], "--json"]) == 0
    run = json.loads(capsys.readouterr().out)
    shown = dict(re.findall(r"<h2>(\w+)</h2><b>([^<]*)</b>", document))
    assert shown["Energy"] == ENERGY.show(run["energy_kwh"]["estimate"])
    assert shown["Emissions"] == MASS.show(run["emissions_g"]["estimate"])


SVG = "{http://www.w3.org/2000/svg}"


def test_a_comparison_is_drawn_with_its_figures_and_marks():
    config = compose(BASE)
    rows = compare(config, "method")
    drawing = ET.fromstring(draw(rows, what="method"))
    words = [element.text for element in drawing.iter(f"{SVG}text")]
    for label, e in rows:
        assert label in words
        assert e.energy_kwh is not None
        assert f"{e.energy_kwh.estimate:.3g} kWh" in words
    fitting = sum(e.memory.fits is True for _, e in rows)
    assert len(list(drawing.iter(f"{SVG}circle"))) == 2 * fitting
    diamonds = [path for path in drawing.iter(f"{SVG}path") if path.get("fill") == "#ffffff"]
    assert len(diamonds) == 2 * (len(rows) - fitting)


def test_positions_are_logarithmic_in_what_they_show():
    rows = compare(compose(BASE), "zones:NO,DK1,PL")
    drawing = ET.fromstring(draw(rows, what="zones"))
    x = [float(circle.get("cx") or "nan") for circle in drawing.iter(f"{SVG}circle")]
    y = [math.log(e.emissions_g.grams.estimate) for _, e in rows if e.emissions_g]
    assert (x[1] - x[0]) / (x[2] - x[0]) == pytest.approx((y[1] - y[0]) / (y[2] - y[0]), abs=1e-3)


def test_plot_on_the_command_line(tmp_path, capsys):
    path = tmp_path / "compare.svg"
    assert main([*BASE, "compare=gpus:t4,l4", f"plot={path}"]) == 0
    assert "l4" in path.read_text(encoding="utf-8")
    assert main([*BASE, "compare=gpus:t4,l4", f"plot={tmp_path / 'x.jpg'}"]) == 2
    assert "ends in .svg" in capsys.readouterr().err
    assert main([*BASE, f"plot={path}"]) == 2
    assert "of what?" in capsys.readouterr().err


def test_the_page_of_the_docs_is_the_one_that_the_command_writes():
    """python -m lora_scaling.estimate +experiment=munin_skolegpt page=docs/estimator.html"""
    kept = (ROOT / "docs" / "estimator.html").read_text(encoding="utf-8")
    assert kept == render(page_data(compose(BASE), overrides=BASE)), "write it again, with the command above"
