"use strict";
const ESTIMATOR = loraEstimator(DATA), g = ESTIMATOR.format;
const $ = (id) => document.getElementById(id);
const text = (value) => String(value).replace(/[&<>"]/g, (c) => `&#${c.charCodeAt(0)};`);
let state = { ...DATA.initial }, view = { by: "method", of: "energy_kwh" };

// ---- figures in the units of the command's table: [from, divisor, unit], smallest first
const UNITS = {
  time_s: [[0, 1, "s"], [100, 60, "min"], [5400, 3600, "h"], [172800, 86400, "days"]],
  energy_kwh: [[0, 1e-6, "mWh"], [1e-5, 1e-3, "Wh"], [0.1, 1, "kWh"], [1e3, 1e3, "MWh"], [1e6, 1e6, "GWh"]],
  emissions_g: [[0, 1e-3, "mg"], [0.01, 1, "g"], [1e3, 1e3, "kg"], [1e6, 1e6, "t"]],
  peak_memory_gb: [[0, 1, "GB"]],
  cost: [[0, 1, ""]],
  mean_power_w: [[0, 1, "W"], [1e3, 1e3, "kW"]],
};
const unitOf = (kind, x) => UNITS[kind].filter(([from]) => x >= from).pop();
const number = (x) => (x < 999.5 ? g(x, 3) : Number(x.toPrecision(3)).toLocaleString("en-US"));
function show(kind, x) {
  const [, divisor, unit] = unitOf(kind, x);
  return `${number(x / divisor)} ${unit}`.trim();
}
function range(kind, { estimate, low, high }) {
  const [, divisor, unit] = unitOf(kind, estimate);
  return `${number(low / divisor)} – ${number(high / divisor)} ${unit}`.trim();
}
const count = (n) => Math.round(n).toLocaleString("en-US");
function big(n) {
  const steps = [[1e12, "T"], [1e9, "B"], [1e6, "M"], [1e3, "k"]], step = steps.find(([size]) => n >= size);
  return step ? `${g(n / step[0], 3)}${step[1]}` : g(n, 3);
}

// ---- controls: [setting, label, kind, …]
const twos = (top) => Array.from({ length: Math.log2(top) + 1 }, (_, i) => 2 ** i);
const modelNames = Object.keys(DATA.models), gpuNames = Object.keys(DATA.hardware);
const zoneNames = Object.keys(DATA.zones).sort((a, b) => (a && DATA.zones[a].place).localeCompare(b && DATA.zones[b].place) ||
  a.localeCompare(b));
const zoneLabel = (zone) => zone === "" ? "world (2018)"
  : `${DATA.zones[zone].place}${/^DK\d$/.test(zone) ? ` ${zone}` : ""} · ${g(DATA.zones[zone].g_per_kwh, 3)} g/kWh`;
const TARGETS = [["all-linear", "all linear layers"], ["[q_proj,k_proj,v_proj,o_proj]", "attention"],
  ["[q_proj,v_proj]", "q and v"], ["[gate_proj,up_proj,down_proj]", "MLP"]];
if (!TARGETS.some(([value]) => value === state["lora.target_modules"]))
  TARGETS.push([state["lora.target_modules"], state["lora.target_modules"]]);
const same = (names) => names.map((name) => [name, name]);
const CONTROLS = [
  ["The run", [
    ["model", "Model", "select", same(modelNames)],
    ["method", "Method", "select", [["lora", "LoRA"], ["qlora", "QLoRA (4-bit base)"], ["full", "full fine-tuning"]]],
    ["samples", "Samples", "slide", 16, 1e6],
    ["epochs", "Epochs", "slide", 1, 50],
    ["data.tokens_per_sample", "Tokens a sample, mean", "slide", 16, 8192],
    ["lora.r", "Rank of the adapter", "steps", twos(512)],
  ]],
  ["The machine", [
    ["hardware", "GPU", "select", same(gpuNames)],
    ["hardware.count", "How many", "steps", [1, 2, 3, 4, 6, 8, 16, 32, 64, 128]],
    ["sharding", "The model, over several", "select", [["none", "whole on each (DDP)"], ["fsdp", "split over them (FSDP)"]]],
    ["batch_size", "Batch size, rows", "steps", twos(256)],
    ["max_seq_len", "Longest sequence, tokens", "steps", [64, 128, 256, 512, 1024, 2048, 4096, 8192, 16384, 32768]],
    ["gradient_checkpointing", "Activation checkpointing", "check"],
    ["packing", "Packing (no padding)", "check"],
  ]],
  ["The software", [
    ["stack", "It will run on", "select", [["hf", "Hugging Face (this program)"], ["unsloth", "Unsloth"], ["torchtune", "torchtune"],
      ["litgpt", "LitGPT"], ["llm-foundry", "LLM Foundry"], ["megatron", "Megatron, NeMo"], ["other", "other"]]],
    ["measured", "Measured earlier, if at all", "text", "2300 tokens/s"],
  ]],
  ["The grid", [["grid.zone", "Electricity of", "zone"]]],
  ["The price", [
    ["price.per_hour", "Per hour of all devices", "optional", "unknown"],
    ["price.per_kwh", "Per kWh", "optional", "unknown"],
  ]],
  ["More settings", [
    ["lora.target_modules", "Adapted layers", "select", TARGETS],
    ["gradient_accumulation", "Gradient accumulation", "steps", twos(256)],
    ["precision", "Precision", "select", same(["auto", "bf16", "fp16", "fp32", "fp8"])],
    ["pure_bf16", "16-bit weights (full, bf16)", "check"],
    ["optimizer", "Optimizer", "select", [["adamw", "AdamW"], ["adamw_8bit", "AdamW, 8-bit states"],
      ["paged_adamw_32bit", "AdamW, paged"], ["paged_adamw_8bit", "AdamW, paged 8-bit states"]]],
    ["use_liger_kernel", "Liger kernels (loss in chunks)", "check"],
    ["group_by_length", "Group rows by length", "check"],
    ["eval_samples", "Samples for evaluation", "slide", 0, 1e4],
    ["grid.intensity_g_per_kwh", "Own carbon intensity, g/kWh", "optional"],
    ["grid.pue", "PUE (on grams)", "number", 1, 3, 0.01],
    ["level", "Level of the intervals", "select", Object.keys(DATA.z).map((p) => [p, `${g(100 * p)} %`])],
    ...(DATA.fit ? [["basis", "Basis", "select", [["fit", "the embedded fit"], ["priors", "priors only"]]]] : []),
  ]],
];
const KINDS = Object.fromEntries(CONTROLS.flatMap(([, rows]) => rows.map((row) => [row[0], row])));
const LEAST = { "data.tokens_per_sample": 1, max_seq_len: 8, eval_samples: 0 };

function field([name, label, kind, first, last, step]) {
  const id = `f-${name}`, head = `<label for="${id}">${label}</label>`;
  const slider = (top) => `<input type="range" data-for="${name}" min="0" max="${top}" step="1" aria-label="${label}, slider">`;
  const typed = (attributes) => `<input type="number" id="${id}" name="${name}" ${attributes}>`;
  if (kind === "select") return `${head}<select id="${id}" name="${name}">${options(first)}</select>`;
  if (kind === "zone") return `${head}<select id="${id}" name="${name}">${options(zoneNames.map((z) => [z, zoneLabel(z)]))}</select>`;
  if (kind === "check") return `${head}<input type="checkbox" id="${id}" name="${name}">`;
  if (kind === "number") return head + typed(`min="${first}" max="${last}" step="${step}"`);
  if (kind === "optional") return head + typed(`min="0" step="any" placeholder="${first ?? "by zone"}"`);
  if (kind === "text") return `${head}<input type="text" id="${id}" name="${name}" placeholder="${first}" spellcheck="false">`;
  const least = LEAST[name] ?? 1;
  return head + typed(`min="${least}" step="${name === "data.tokens_per_sample" ? "any" : 1}"`) +
    slider(kind === "steps" ? first.length - 1 : 300);
}
const options = (pairs) => pairs.map(([value, label]) => `<option value="${text(value)}">${text(label)}</option>`).join("");

function build() {
  $("controls").innerHTML = CONTROLS.map(([legend, rows]) => {
    const inner = rows.map((row) => `<div class="row">${field(row)}</div>`).join("");
    const notes = legend === "The grid" ? '<p class="note">A yearly mean of the country. DK1 and DK2 share Denmark\'s; ' +
      "hourly values of a zone come with <code>at=</code> on the command line.</p>" : "";
    const hints = legend !== "The software" ? "" : '<p class="note">A figure of one of your own runs on it, in tokens/s, s/step, ' +
      "samples/s or % MFU, replaces the software's level. Of other settings: <code>0.9 s/step @ batch_size=2</code>.</p>";
    return legend === "More settings" ? `<details><summary>${legend}</summary><div style="margin-top:8px">${inner}</div></details>`
      : `<fieldset><legend>${legend}</legend>${inner}${notes}${hints}</fieldset>`;
  }).join("");
  $("controls").addEventListener("input", ({ target }) => {
    if (target.dataset.for) change(target.dataset.for, fromSlider(target));
    else change(target.name, fromField(target), target);
  });
  $("controls").addEventListener("submit", (event) => event.preventDefault());
  document.addEventListener("click", ({ target }) => {
    const { by, of, reset } = target.dataset ?? {};
    if (reset !== undefined) { state = { ...DATA.initial }; update(); }
    if (by) view.by = by;
    if (of) view.of = of;
    if (by || of) showComparison();
  });
}

// Sliders of wide ranges are logarithmic, and give two digits.
const lowest = (first) => Math.max(first, 1);
function fromSlider(slider) {
  const [, , kind, first, last] = KINDS[slider.dataset.for], at = Number(slider.value);
  if (kind === "steps") return first[at];
  if (at === 0) return first;
  return Number((lowest(first) * (last / lowest(first)) ** (at / 300)).toPrecision(2)) | 0;
}
function toSlider(value, [, , kind, first, last]) {
  if (kind === "steps") return first.reduce((best, x, i) => Math.abs(Math.log(x / value)) < Math.abs(Math.log(first[best] / value)) ? i : best, 0);
  return value <= first ? 0 : Math.round((300 * Math.log(value / lowest(first))) / Math.log(last / lowest(first)));
}
function fromField(input) {
  const kind = KINDS[input.name][2];
  if (kind === "check") return input.checked;
  if (kind === "text") return input.value.trim() === "" ? null : input.value;
  if (kind === "zone") return input.value === "" ? null : input.value;
  if (kind === "select") return input.name === "level" ? Number(input.value) : input.value;
  if (input.value === "") return kind === "optional" || DATA.data.values && input.name === "data.tokens_per_sample" ? null : undefined;
  const value = Number(input.value);
  return input.validity.valid ? value : undefined;
}
const shownValue = (name) => name === "data.tokens_per_sample" ? state[name] ?? Number(g(DATA.data.mean, 4)) : state[name];

function change(name, value, source) {
  if (value === undefined) return; // half-typed
  state[name] = value;
  if (name === "packing" && value && state.padding === "max_length") state.padding = "longest";
  update(source);
}

function showControls(source) {
  for (const input of $("controls").querySelectorAll("[name]")) {
    if (input === source) continue;
    const value = shownValue(input.name);
    if (input.type === "checkbox") input.checked = value;
    else input.value = value ?? "";
  }
  for (const slider of $("controls").querySelectorAll("[data-for]")) {
    const value = shownValue(slider.dataset.for);
    slider.value = toSlider(value, KINDS[slider.dataset.for]);
    slider.setAttribute("aria-valuetext", value);
  }
  for (const name of ["lora.r", "lora.target_modules"])
    $(`f-${name}`).closest(".row").hidden = state.method === "full";
  $("f-hardware.count").disabled = DATA.hardware[state.hardware].fixed_count;
  $("f-grid.zone").disabled = state["grid.intensity_g_per_kwh"] !== null;
}

// ---- answers
function answerOf(settings) {
  try { return { ...ESTIMATOR.estimate(settings), error: null }; }
  catch (error) {
    if (!(error instanceof EstimateError)) throw error;
    if (DATA.fit && settings.basis !== "priors") {
      const priors = answerOf({ ...settings, basis: "priors" });
      return priors.error ? priors : { ...priors, notice: error.message };
    }
    return { error: error.message };
  }
}

const BASES = {
  priors: "<strong>Priors only</strong>: constants set from published runs, no measurement of yours. A pilot " +
    "(<code>pilot=60s</code>) or a fit of your own sweep (<code>fit=PATH</code>) narrows the intervals.",
  measured: "<strong>One figure of an earlier run</strong> in place of the level of its software.",
  fit: () => `<strong>A fit of ${DATA.fit.n} runs</strong> on ${text(DATA.fit.hardware.join(", ") || "a device not named")}, embedded in this page.`,
};
const basisText = (basis) => (basis === "fit" ? BASES.fit() : BASES[basis]);

function figure(title, kind, interval, more, off) {
  if (!interval) return `<div class="figure"><h2>${title}</h2><b>unknown</b></div>`;
  return `<div class="figure"><h2>${title}</h2><b>${show(kind, interval.estimate)}</b>` +
    (off ? '<span class="off">does not fit</span>' : `<span>${range(kind, interval)}</span>`) +
    `<span class="more">${more ?? ""}</span></div>`;
}

function showFigures(a) {
  const m = a.peak_memory_gb, per = a.emissions_g;
  const devices = a.gpu_count > 1 ? `${a.gpu_count} × ${a.hardware}` : a.hardware;
  $("figures").innerHTML = `<p class="run">${text(a.name)}, on ${text(devices)}</p><div class="figures">` + [
    figure("Time", "time_s", a.time_s, a.work.steps ? `${count(a.work.steps)} steps` : ""),
    figure("Energy", "energy_kwh", a.energy_kwh, a.mean_power_w ? `mean ${show("mean_power_w", a.mean_power_w)}` : ""),
    figure("Emissions", "emissions_g", per, per && `${g(per.intensity_g_per_kwh, 4)} g/kWh`),
    ...(a.cost ? [figure("Cost", "cost", a.cost, "from the price given")] : []),
    figure(a.gpu_count > 1 ? "Memory a GPU" : "Memory", "peak_memory_gb", m, m.fits ? "fits" : "", m.fits === false),
  ].join("") + `</div><p class="basis">Median, and the ${g(100 * a.level)} % interval below it. ${basisText(a.basis)}</p>`;
}

function showWarnings(a) {
  const said = [];
  if (a.error) said.push(["Not possible.", a.error]);
  else {
    if (a.peak_memory_gb.fits === false) said.push(["Does not fit.", a.peak_memory_gb.remedy]);
    if (a.notice) said.push(["The fit does not apply; priors are shown.", a.notice]);
    if (a.reason) said.push(["No time and no energy.", a.reason]);
    if (a.extrapolates.length) said.push(["Extrapolates:", a.extrapolates.map(({ variable, factor }) =>
      factor === null ? `${variable} (not in the data)` : `${variable} ×${number(factor)}`).join(", ")]);
  }
  $("warnings").innerHTML = said.map(([head, body]) => `<p class="warn" role="status"><strong>${head}</strong> ${text(body)}</p>`).join("");
}

const PARTS = { weights: "weights", adapters: "adapters", casts: "16-bit copies of the weights", gradients: "gradients with the activations", optimizer: "optimizer states",
  activations: "activations kept", logits: "logits and loss", rerun: "a layer run again", workspace: "short-lived copies",
  buckets: "gradients once more, to be sent", at_update: "gradients at the update" };
function showMemory(a) {
  const m = a.peak_memory_gb, top = 1.06 * Math.max(m.high, m.available_gb ?? 0), at = (x) => `${(100 * x) / top}%`;
  const bar = `<div class="room" role="img" aria-label="${show("peak_memory_gb", m.estimate)} of ${m.available_gb ?? "unknown"} GB">` +
    `<i class="used" style="width:${at(m.estimate)}"></i><i class="band" style="left:${at(m.low)};width:${at(m.high - m.low)}"></i>` +
    (m.available_gb === null ? "" : `<i class="limit" style="left:${at(m.available_gb)}"></i>`) + "</div>";
  const where = m.shards > 1 ? `, sharded over ${m.shards}` : "";
  const room = m.available_gb === null ? "The device's memory is unknown."
    : !m.fits ? `Does not fit into ${g(m.available_gb, 3)} GB (the upright mark)${where}.`
      : `${m.high > ((m.available_gb * 2 ** 30) / 1e9) * (1 + 1e-9) ? "Probably fits" : "Fits"} into ${g(m.available_gb, 3)} GB (the upright mark)${where}` +
        (m.largest_batch_size ? `; batch size up to ${count(m.largest_batch_size)}.` : ".");
  const parts = Object.entries(m.parts_gb).filter(([, gb]) => gb > 0.0005);
  $("memory").innerHTML = `<h2>Peak memory${a.gpu_count > 1 ? " on each GPU" : ""}</h2>${bar}<p class="note">${room} The thin line is the interval.</p>` +
    `<details><summary>What it goes to</summary><table>${parts.map(([name, gb]) => `<tr><td>${PARTS[name]}</td><td>${g(gb, 3)} GB</td></tr>`).join("")}</table>` +
    '<p class="note">The peak is the largest of three moments (the loss, a layer run again, the update), so these do not add up.</p></details>';
}

// ---- the same job otherwise
const BY = [["method", "method"], ["hardware", "GPU"], ["grid.zone", "zone"]];
const OF = [["energy_kwh", "energy"], ["time_s", "time"], ["emissions_g", "grams"]];
function showComparison() {
  const tabs = (pairs, key) => `<span role="group">${pairs.map(([value, label]) =>
    `<button type="button" data-${key}="${value}" aria-pressed="${view[key] === value}">${label}</button>`).join("")}</span>`;
  const own = state[view.by], names = [...DATA.compare[view.by]];
  if (own !== null && !names.includes(own)) names.unshift(own);
  const rows = names.map((name) => {
    const changes = view.by === "grid.zone" ? { "grid.intensity_g_per_kwh": null } : name === "qlora" ? { sharding: "none" } : {};
    return [name, answerOf({ ...state, ...changes, [view.by]: name })];
  });
  const label = (name) => view.by === "grid.zone" ? DATA.zones[name].place : name === "lora" ? "LoRA" : name === "qlora" ? "QLoRA" : name;
  $("compare").innerHTML = `<h2>The same job otherwise</h2><div class="tabs">${tabs(BY, "by")}${tabs(OF, "of")}</div>${chart(rows, own, label)}`;
}

function chart(rows, own, label) {
  const known = rows.map(([, a]) => a[view.of]).filter(Boolean);
  if (!known.length) return '<p class="note">Unknown for all of them.</p>';
  const low = Math.log(Math.min(...known.map((x) => x.low))), high = Math.log(Math.max(...known.map((x) => x.high)));
  const pad = 0.05 * (high - low || 1), at = (x) => (100 * (Math.log(x) - low + pad)) / (high - low + 2 * pad);
  const ticks = tickValues(Math.exp(low - pad), Math.exp(high + pad)), lines = ticks.map((x) => `<u style="left:${at(x)}%"></u>`).join("");
  const body = rows.map(([name, a]) => {
    const x = a[view.of], off = a.error === null && a.peak_memory_gb.fits === false;
    const track = x ? `<i style="left:${at(x.low)}%;width:${at(x.high) - at(x.low)}%"></i><b style="left:${at(x.estimate)}%"></b>` : "";
    const value = x ? `${show(view.of, x.estimate)}${off ? " <em>does not fit</em>" : ` <small>${range(view.of, x)}</small>`}`
      : `<small>${a.error ? "not possible" : text(a.reason ?? "unknown")}</small>`;
    return `<div class="${name === own ? "here" : ""}">${text(label(name))}</div><div class="track${off ? " off" : ""}">${lines}${track}</div><div>${value}</div>`;
  }).join("");
  const [, divisor, unit] = unitOf(view.of, Math.exp((low + high) / 2));
  const axis = ticks.map((x, i) => `<span style="left:${at(x)}%">${number(x / divisor)}${ticks[i + 1] ? "" : ` ${unit}`}</span>`).join("");
  return `<div class="chart">${body}<div></div><div class="ticks">${axis}</div><div></div></div>` +
    `<p class="note">Dot: median; bar: ${g(100 * state.level)} % interval; logarithmic scale. Bold: the run chosen. Open dot: does not fit into memory.</p>`;
}

// Three to five round values of the unit that is shown: powers of ten, or 1-3, or 1-2-5, …
function tickValues(low, high) {
  const divisor = unitOf(view.of, Math.sqrt(low * high))[1], powers = Array.from({ length: 19 }, (_, i) => 10 ** (i - 9));
  let inside = [];
  for (const digits of [[1], [1, 3], [1, 2, 5], [1, 2, 3, 4, 5, 6, 7, 8, 9]]) {
    inside = powers.flatMap((x) => digits.map((d) => x * d * divisor)).filter((x) => x >= low && x <= high);
    if (inside.length >= 3) break;
  }
  while (inside.length > 5) inside = inside.filter((_, i) => i % 2 === 0);
  return inside;
}

// ---- what the numbers mean
const DRIVERS = { eta: "utilisation of the peak", half_tokens: "few tokens a micro-batch", traffic_factor: "memory traffic",
  layer_launch_s: "launches, a layer", cpu_layer_s: "overhead, a layer", module_launch_s: "launches, an adapter",
  dequant_bytes: "unpacking 4-bit weights", update_bytes: "the optimizer's pass", comm_share: "communication",
  software: "the software's level", tokens: "tokens a sample" };
function showBasis(a) {
  const w = a.work, share = (x) => `${(100 * x).toFixed(0)} %`, parts = Object.entries(a.parts).filter(([, p]) => p.seconds > 0);
  const work = [["parameters", big(w.params)], ["trainable", `${big(w.trainable_params)} (${g((100 * w.trainable_params) / w.params, 3)} %)`],
    ["tokens trained on", big(w.tokens)], ["padding", big(w.tokens_padded)], ["cut off", big(w.tokens_truncated)],
    ["optimizer steps", count(w.steps)], ["FLOPs", w.flops.toExponential(3)]];
  const table = (rows, head = "") => `<table>${head}${rows.map((row) => `<tr>${row.map((cell) => `<td>${cell}</td>`).join("")}</tr>`).join("")}</table>`;
  const phases = parts.length ? `<h2 style="margin-top:14px">Where it goes</h2>` + table(parts.map(([name, p]) =>
    [name, show("time_s", p.seconds), show("energy_kwh", p.energy_kwh)])) : "";
  const drivers = Object.entries(a.drivers).sort((x, y) => y[1] - x[1]).slice(0, 4);
  const spread = drivers.length ? '<h2 style="margin-top:14px">What makes the time uncertain</h2>' +
    table(drivers.map(([name, x]) => [DRIVERS[name] ?? name, share(x)])) : "";
  const grams = a.emissions_g ? `<h2 style="margin-top:14px">What the grams are</h2><p class="note">${text(a.emissions_g.definition)}.` +
    `${DATA.zones[state["grid.zone"] ?? ""] && state["grid.intensity_g_per_kwh"] === null ? ` Source: ${text(DATA.zones[state["grid.zone"] ?? ""].source)}.` : ""}` +
    " Electricity of the computer alone: nothing of its making or idling, and of cooling only what a PUE adds.</p>" : "";
  $("basis").innerHTML = `<div class="columns"><div><h2>Work, counted exactly</h2>${table(work)}${phases}${spread}</div>` +
    `<div><h2>Assumed</h2><ul>${a.assumptions.map((s) => `<li>${text(s)}</li>`).join("")}</ul>${grams}</div></div>`;
}

// A setting that the method does not use is refused on the command line.
const used = (name) => (state.method === "full" ? !name.startsWith("lora.") : name !== "pure_bf16");
const changes = () => Object.keys(state).filter((name) => state[name] !== DATA.initial[name])
  .map((name) => `${name}=${state[name] ?? "null"}`);
const overrides = () => changes().filter((item) => !/^(basis=|(measured|price\.\w+)=null$)/.test(item) && used(item.split("=")[0]));
// What heads the command, less what a changed setting replaces: a new model brings its own shape, a provider its zone.
function firstOverrides(changed) {
  const replaced = (name) => changed.some((item) => {
    const setting = item.split("=")[0];
    return name === setting || (setting === "grid.zone" && name === "grid.provider") ||
      (["model", "hardware"].includes(setting) && name.startsWith(`${setting}.`) && name !== "hardware.count");
  });
  return DATA.overrides.filter((item) => !replaced(item.split("=")[0]) && used(item.split("=")[0]));
}
function showCommand(a) {
  const fit = DATA.fit && state.basis !== "priors" && !a.notice ? [`fit=${DATA.fit.path}`] : [];
  const level = DATA.initial.level !== DATA.default_level && state.level === DATA.initial.level ? [`level=${state.level}`] : [];
  const stack = DATA.initial.stack !== DATA.default_stack && state.stack === DATA.initial.stack ? [`stack=${state.stack}`] : [];
  const kept = ["measured", "price.per_hour", "price.per_kwh"].filter((name) => state[name] !== null && state[name] === DATA.initial[name])
    .map((name) => `${name}=${state[name]}`);
  const changed = overrides(), words = [...firstOverrides(changed), ...changed, ...level, ...stack, ...kept, ...fit];
  const quoted = words.map((word) => (/[^\w=.,+:/@%-]/.test(word) ? `'${word}'` : word));
  $("command").innerHTML = `<h2>The same on the command line</h2><pre>${text(["python -m lora_scaling.estimate", ...quoted].join(" "))}</pre>` +
    `<p class="note">It ${a.error || a.peak_memory_gb.fits === false ? "refuses with the sentence above" : "prints these very figures"}. ` +
    'The page\'s address holds the settings: bookmark or share it. <button type="button" data-reset>Back to the first settings</button></p>';
}

function update(source) {
  showControls(source);
  const a = answerOf(state);
  showWarnings(a);
  if (!a.error) { showFigures(a); showMemory(a); showBasis(a); }
  for (const id of ["figures", "memory", "basis", "compare"]) $(id).hidden = Boolean(a.error);
  if (!a.error) showComparison();
  showCommand(a);
  const hash = changes().map(encodeURIComponent).join("&");
  history.replaceState(null, "", hash ? `#${hash}` : location.pathname + location.search);
}

// An address that somebody shortened or typed may hold a % that stands for nothing.
function decoded(text) {
  try { return decodeURIComponent(text); } catch { return text; }
}

// Settings in the address: page.html#samples=1000&method=full. What no control could set is passed over.
function fromAddress() {
  for (const item of location.hash.slice(1).split("&").map(decoded)) {
    const cut = item.indexOf("="), name = item.slice(0, cut), word = item.slice(cut + 1), initial = DATA.initial[name];
    const [, , kind, choices] = KINDS[name] ?? [];
    const value = word === "null" ? null : kind === "check" ? word === "true" : kind === "text" || (kind === "select" && name !== "level") ? word : Number(word);
    if (kind === "zone") { if (word === "null" || word in DATA.zones) state[name] = word === "null" ? null : word; }
    else if (kind === "text") state[name] = value;
    else if (value === null ? initial === null : kind === "select" ? choices.some(([choice]) => choice === word)
      : kind === "check" || value >= (LEAST[name] ?? (kind === "optional" ? 0 : 1))) state[name] = value;
  }
}

$("footer").textContent = `lora-scaling ${DATA.version}. Shapes of ${modelNames.length} models and sheets of ${gpuNames.length} devices are embedded; ` +
  "the constants and what each was set from stand in lora_scaling/estimate/priors.json.";
fromAddress();
build();
update();
