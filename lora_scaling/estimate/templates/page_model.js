"use strict";
// The arithmetic of `python -m lora_scaling.estimate`, line for line: workload, physics, priors, fits. It holds no
// constant of its own: all of them come from DATA, which Python wrote. Tests hold the two equal.
class EstimateError extends Error {}

function loraEstimator(DATA) {
  const W = DATA.workload;
  let C = DATA.constants, SD = DATA.log_sd; // those of the stack that is chosen, and of what was measured
  const sum = (xs) => xs.reduce((a, b) => a + b, 0);
  const round = (x) => { const r = Math.round(x); return Math.abs(x - Math.trunc(x)) === 0.5 && r % 2 ? r - 1 : r; };
  const hypot = (...xs) => Math.sqrt(sum(xs.map((x) => x * x)));

  // Python's format(x, ".Pg"), "," and ".0%"
  function g(x, p = 6) {
    if (x === 0) return "0";
    const [digits, power] = x.toExponential(p - 1).split("e"), e = Number(power);
    const strip = (t) => (t.includes(".") ? t.replace(/0+$/, "").replace(/\.$/, "") : t);
    if (e < -4 || e >= p) return `${strip(digits)}e${e < 0 ? "-" : "+"}${String(Math.abs(e)).padStart(2, "0")}`;
    return strip(x.toFixed(p - 1 - e));
  }
  const thousands = (x) => x.toLocaleString("en-US");
  const percent = (x) => `${(100 * x).toFixed(0)}%`;

  // ---- workload/shape.py; what follows from a shape comes with it
  function shapeOf(s) {
    const matmuls = s.matmuls.map((m) => ({ ...m, weights: m.inputs * m.outputs }));
    return { ...s, matmuls, head: s.hidden_size * s.vocab_size, linear: matmuls.filter((m) => m.linear) };
  }

  function tuningOf(state, shape) {
    const method = state.method, rank = state["lora.r"], adapted = method !== "full";
    if (!adapted) return { method, rank, adapted, adapters: [], trainable: shape.params, modules: 0 };
    const targets = targetNames(state["lora.target_modules"]);
    const listed = `[${targets.map((t) => `'${t}'`).join(", ")}]`, held = shape.linear.filter((m) => shape.experts === 1 ||
      !W.mlp.includes(m.name)), names = [...new Set(held.map((m) => m.name))];
    const unknown = targets.filter((t) => !W.linear.includes(t) && !names.includes(t));
    if (unknown.length) throw new EstimateError("lora.target_modules: got " + listed +
      `; choose from ${W.linear.join(", ")}, or all-linear`);
    const everything = W.linear.every((t) => targets.includes(t)) && targets.every((t) => W.linear.includes(t));
    const adapters = held.filter((m) => everything || targets.includes(m.name));
    if (!everything && targets.some((t) => !names.includes(t))) throw new EstimateError("lora.target_modules: got " + listed +
      `; ${shape.experts > 1 ? "a model with experts" : "this model"} is adapted in ${names.join(", ")}`);
    const least = Math.min(...adapters.map((m) => Math.min(m.inputs, m.outputs)));
    if (rank > least) {
      const m = adapters.find((x) => Math.min(x.inputs, x.outputs) === least);
      throw new EstimateError("lora.r: got " + rank +
        `; ${m.name} of this model is ${m.inputs} × ${m.outputs}, so at most ${least} makes sense`);
    }
    const trainable = sum(adapters.map((m) => m.layers * rank * (m.inputs + m.outputs)));
    return { method, rank, adapted, adapters, trainable, modules: sum(adapters.map((m) => m.layers)) };
  }

  const targetNames = (text) => (text === "all-linear" ? W.linear : text.replace(/[[\]\s]/g, "").split(","));

  // ---- workload/lengths.py; the data set's own lengths stand where no mean is given
  const lognormals = new Map();
  function lognormal(mean, cv) {
    const key = `${mean} ${cv}`;
    if (!lognormals.has(key)) {
      const sigma = Math.sqrt(Math.log1p(cv * cv));
      const raw = DATA.normal_quantiles.map((x) => Math.exp(sigma * x));
      const scale = (mean * raw.length) / sum(raw);
      lognormals.set(key, raw.map((x) => Math.max(1, round(scale * x))));
    }
    return lognormals.get(key);
  }

  function lengthsOf(state) {
    const mean = state["data.tokens_per_sample"], cv = state["data.tokens_cv"];
    if (mean === null) {
      refuseShort(state);
      return DATA.data;
    }
    return { values: lognormal(mean, cv), log_sd: DATA.data.known_log_sd, sentence:
      `${g(mean)} tokens a sample on average (data.tokens_per_sample), log-normal with cv ${g(cv)}` };
  }

  // ---- training/samples.py
  function refuseShort({ samples, eval_samples: held }) {
    const { path, available, repeat } = DATA.data, left = available - held;
    if (available === null) return;
    if (left <= 0) throw new EstimateError("eval_samples: got " +
      `${held}, and ${path} has ${available} samples; leave some to train on`);
    if (samples > left && !repeat) throw new EstimateError("samples: got " + `${samples}, and ${path} has ${available} ` +
      `samples${held ? `, of which ${held} are held out for evaluation` : ""}; ` +
      `ask for ${left} or fewer, or set data.repeat=true to show them again`);
  }

  function moments(ordered, below) {
    let length = 0, square = 0, before = 0;
    ordered.forEach((value, i) => {
      if (i + 1 < ordered.length && ordered[i + 1] === value) return;
      const now = below((i + 1) / ordered.length);
      length += (now - before) * value;
      square += (now - before) * value * value;
      before = now;
    });
    return [length, square];
  }

  const shares = new Map();
  function batchesBelow(p, batch, mega) {
    const key = `${p} ${batch} ${mega}`;
    if (!shares.has(key)) {
      const size = batch * mega, low = p <= 0.5, odds = low ? p / (1 - p) : (1 - p) / p;
      let probability = (low ? 1 - p : p) ** size, expected = 0;
      for (let j = 0; j <= size; j++) {
        expected += probability * Math.floor((low ? j : size - j) / batch);
        probability *= ((size - j) / (j + 1)) * odds;
      }
      shares.set(key, expected / mega);
    }
    return shares.get(key);
  }

  function groupedMaximum(kept, batch, mega) {
    const n = kept.length, size = batch * mega, squares = (xs) => sum(xs.map((x) => x * x));
    if (size <= W.exact_up_to) return moments(kept, (p) => batchesBelow(p, batch, mega));
    const starts = Array.from({ length: n + 1 }, (_, k) => Math.ceil((k * size) / n - 0.5));
    const tops = Array.from({ length: mega }, (_, j) =>
      kept[Math.min(n - 1, Math.floor(((batch * (j + 1) - 0.5) / size) * n))]);
    const drawn = (power) => sum(kept.map((x, k) => (starts[k + 1] - starts[k]) * x ** power)) / size;
    return [sum(kept) / n + sum(tops) / mega - drawn(1), squares(kept) / n + squares(tops) / mega - drawn(2)];
  }

  function statistics(values, state, batch) {
    const limit = state.max_seq_len, kept = values.map((v) => Math.min(v, limit)), n = kept.length;
    const mean = sum(values) / n, tokens = sum(kept) / n, truncated = mean - tokens;
    if (state.packing) {
      const rows = tokens / limit;
      return { mean, tokens, padding: 0, truncated, pairs: rows * limit * limit, rows };
    }
    let length = 0, square = 0;
    if (state.padding === "max_length") { length = limit; square = limit * limit; }
    else if (state.group_by_length) {
      const mega = Math.max(1, Math.min(Math.floor(state.samples / (W.mega_batches_least * batch)), W.mega_batches));
      [length, square] = groupedMaximum(kept, batch, mega);
    } else [length, square] = moments(kept, (p) => p ** batch);
    return { mean, tokens, padding: Math.max(0, length - tokens), truncated, pairs: square, rows: 1 };
  }

  // ---- workload/run.py
  function workloadOf(state, shape, tuning, lengths, maxSteps = state.max_steps) {
    const { samples, epochs, batch_size: batch, gradient_accumulation: accumulation } = state;
    const stats = statistics(lengths.values, state, Math.min(batch, samples));
    const rows = Math.max(1, Math.ceil(samples * stats.rows));
    const all = epochs * Math.max(1, Math.ceil(Math.ceil(rows / batch) / accumulation));
    const steps = maxSteps === null ? all : Math.min(all, maxSteps), passes = Math.ceil(rows / batch);
    const anEpoch = Math.ceil(passes / accumulation), whole = Math.floor(steps / anEpoch);
    const further = (steps % anEpoch) * accumulation, microSteps = whole * passes + further;
    const seen = Math.min(samples * epochs, whole * samples + Math.min(further * batch, rows) / stats.rows);
    const flops = trainingFlops(shape, tuning, {
      tokens: round(seen * (stats.tokens + stats.padding)), pairs: round(seen * stats.pairs),
      checkpointing: state.gradient_checkpointing,
    });
    return { stats, rows, steps, passes, microSteps, seen, flops,
      tokensSeen: seen * stats.tokens, tokensPadded: seen * stats.padding };
  }

  // ---- workload/flops.py
  function trainingFlops(shape, tuning, { tokens, pairs, checkpointing }) {
    const r = tuning.rank, L = shape.layers, head = 2 * shape.head * tokens;
    const scores = L * round(4 * shape.score_size * pairs);
    const matrices = sum(shape.matmuls.map((m) => 2 * m.layers * m.active * m.weights)) * tokens;
    const adapters = sum(tuning.adapters.map((m) => m.layers * 2 * r * (m.inputs + m.outputs))) * tokens;
    const forward = matrices + scores + adapters + head;
    let inputs, weights, recompute = 0;
    if (tuning.adapted) {
      inputs = matrices + 2 * scores + adapters + head - (checkpointing ? 0 : firstLayerSavings(shape, tuning, tokens, scores));
      weights = adapters;
    } else {
      inputs = matrices + 2 * scores + head;
      weights = matrices + head;
    }
    if (checkpointing) {
      const down = shape.matmuls[shape.matmuls.length - 1], has = tuning.adapters.some((m) => m.name === down.name);
      const last = shape.experts > 1 ? 0 : has ? 2 * r * down.outputs : 2 * down.active * down.weights;
      recompute = matrices + scores + adapters - L * last * tokens;
    }
    return { forward, matrices, model: forward + inputs + weights, total: forward + inputs + weights + recompute };
  }

  function firstLayerSavings(shape, tuning, tokens, scores) {
    const names = tuning.adapters.map((m) => m.name);
    let saved = 0;
    for (const m of shape.matmuls) {
      if (!m.first || W.below[m.name].some((name) => names.includes(name))) continue;
      saved += 2 * m.active * m.weights * tokens;
      if (m.linear && names.includes(m.name)) saved += 2 * tuning.rank * m.inputs * tokens;
    }
    if (!W.queries.some((name) => names.includes(name))) saved += Math.floor((2 * scores) / shape.layers);
    return saved;
  }

  // ---- workload/memory.py
  function weightBytes(shape, tuning, setup) {
    if (!tuning.adapted) return shape.params * setup.trainable_bytes;
    if (tuning.method !== "qlora") return shape.params * setup.compute_bytes;
    return shape.linear_params * W.nf4_bytes + (shape.params - shape.linear_params) * setup.compute_bytes;
  }

  function layerActivationBytes(shape, tuning, setup) {
    const a = setup.compute_bytes, h = shape.hidden_size, mlp = shape.mlp_size, { adapters } = tuning;
    const hidden = tuning.adapted ? a : setup.hidden_bytes;
    const norms = setup.fused ? 2 * hidden * h : 8 * h + (tuning.adapted ? 0 : 2 * hidden * h);
    const between = a * mlp * (setup.fused && shape.experts === 1 ? 2 : 3);
    let kept = norms + a * (2 * shape.query_size + 2 * shape.kv_size) + 4 * shape.heads + between;
    if (shape.experts > 1) kept += 8 * shape.experts + 2 * a * h * shape.experts_per_token;
    if (!tuning.adapted) return kept + a * ((setup.autocast ? 5 : 2) * h + mlp);
    kept += (4 * tuning.rank * sum(adapters.map((m) => m.layers))) / shape.layers;
    if (a < W.adapter_bytes)
      return kept + (setup.adapter_input_bytes * sum(adapters.map((m) => m.layers * m.inputs))) / shape.layers;
    const shared = W.shared_inputs.map((names) =>
      Math.max(0, ...adapters.filter((m) => names.includes(m.name)).map((m) => m.layers * m.inputs)));
    return kept + (a * sum(shared)) / shape.layers;
  }

  const matrices = (shape) => sum(shape.matmuls.map((m) => m.layers * m.copies * m.weights));

  function castBytes(shape, tuning, setup) {
    if (tuning.adapted || !setup.autocast) return 0;
    return setup.compute_bytes * (matrices(shape) + shape.head);
  }

  function castsAtLoss(shape, tuning, setup, tokens) {
    const copies = castBytes(shape, tuning, setup);
    if (!setup.checkpointing || !copies) return copies;
    return Math.max(setup.compute_bytes * shape.head, copies - (tokens * shape.vocab_size * setup.loss_bytes) / 6);
  }

  const gatheredBytes = (shape, tuning, setup) =>
    tuning.adapted ? weightBytes(shape, tuning, setup) : shape.params * setup.compute_bytes;

  function trainingMemory(shape, tuning, setup, rows, rowTokens) {
    const tokens = rows * rowTokens, { shards, compute_bytes: a } = setup, trained = tuning.trainable;
    const gradients = (trained * setup.trainable_bytes) / shards;
    const layer = layerActivationBytes(shape, tuning, setup);
    const hidden = tuning.adapted ? a : setup.hidden_bytes;
    const inputs = setup.offloads ? Math.min(2, shape.layers) : shape.layers;
    let kept = setup.checkpointing ? inputs * hidden * shape.hidden_size : shape.layers * layer;
    kept += shape.hidden_size * (4 + (tuning.adapted ? 0 : hidden + a));
    const use = {
      weights: weightBytes(shape, tuning, setup) / shards,
      adapters: (tuning.adapted ? trained * setup.trainable_bytes : 0) / shards,
      casts: castsAtLoss(shape, tuning, setup, tokens),
      gradients: setup.accumulates ? gradients : 0,
      optimizer: (trained * setup.state_bytes) / shards,
      activations: tokens * kept,
      logits: tokens * shape.vocab_size * setup.loss_bytes,
      rerun: rerunBytes(shape, tuning, setup, tokens * layer, tokens, gradients),
      workspace: workspaceBytes(shape, tuning, setup),
      buckets: setup.buckets ? gradients : 0,
      at_update: atUpdateBytes(shape, tuning, setup, gradients),
    };
    return { ...use, peak: reservedBytes(use, 1) };
  }

  function reservedBytes(use, factor) {
    const held = use.weights + use.adapters + use.optimizer + use.buckets;
    const last = Math.max(use.logits + use.casts, use.rerun);
    const passes = held + use.gradients + factor * (use.activations + use.workspace + last);
    return Math.max(passes, held + use.at_update);
  }

  function rerunBytes(shape, tuning, setup, layer, tokens, gradients) {
    if (!setup.checkpointing) return 0;
    const widest = 2 * setup.compute_bytes * shape.mlp_size;
    let running = layer + tokens * widest;
    if (!tuning.adapted && setup.autocast) running += (setup.compute_bytes * matrices(shape)) / shape.layers;
    if (tuning.adapted || setup.accumulates) return running;
    const inputs = tokens * (shape.layers - 1) * setup.hidden_bytes * shape.hidden_size;
    return running + Math.max((gradients * shape.head) / shape.params,
      gradients * (1 - shape.layer_params / shape.params) - inputs);
  }

  function atUpdateBytes(shape, tuning, setup, gradients) {
    if (tuning.adapted) return gradients;
    const tied = shape.tied_embeddings;
    const copies = tied && setup.autocast ? 2 : Number(setup.accumulates) + 2 * Number(tied);
    return gradients + (copies * shape.head * setup.trainable_bytes) / setup.shards;
  }

  function workspaceBytes(shape, tuning, setup) {
    let bytes = 0;
    if (tuning.method === "qlora") bytes += Math.max(...shape.linear.map((m) => m.weights)) * setup.compute_bytes;
    if (setup.shards > 1) {
      const biggest = Math.max(gatheredBytes(shape, tuning, setup) / shape.layers, shape.head * setup.compute_bytes);
      bytes += 2 * biggest * (1 - 1 / setup.shards);
    }
    return bytes;
  }

  // ---- estimate/plan.py
  function makePlan(state, hw, shape, tuning, lengths, precision) {
    const plan = layOut(state, hw, shape, tuning, lengths, precision);
    const canShard = state.method !== "qlora" && state.optimizer === "adamw";
    if (plan.fits || hw.count === 1 || !canShard || state.sharding === "fsdp") return plan;
    const split = layOut({ ...state, sharding: "fsdp" }, hw, shape, tuning, lengths, precision);
    if (!split.fits) return plan;
    return { ...split, notes: ["no device could hold the whole model: ask for sharding=fsdp", ...split.notes] };
  }

  function layOut(state, hw, shape, tuning, lengths, precision) {
    const devices = hw.count, asked = state.gradient_accumulation, notes = [];
    const accumulation = Math.max(1, Math.floor(asked / devices));
    state = { ...state, gradient_accumulation: accumulation * devices };
    const w = workloadOf(state, shape, tuning, lengths);
    const budget = hw.memory_gb === null ? null : ((hw.memory_gb - C.memory_fixed_gb) * 1e9) / C.memory_stack;
    const filled = state.packing || state.padding === "max_length";
    const longest = filled ? state.max_seq_len
      : Math.min(state.max_seq_len, Math.max(...lengths.values.slice(-1)));
    const rows = Math.min(state.batch_size, w.rows);
    const setup = memorySetup(state, tuning, precision, devices, accumulation > 1);
    const memory = trainingMemory(shape, tuning, setup, rows, longest);
    const frugal = { ...setup, loss_bytes: W.chunked_logits_bytes, offloads: true, fused: true };
    const leanest = stackOf(state).habits_known ? memory : trainingMemory(shape, tuning, frugal, rows, longest);
    if (setup.shards > 1) {
      notes.push(`weights sharded over ${devices} devices (FSDP), gathered for every pass`);
      if (state.method === "qlora") notes.push("this program does not run 4-bit weights that are split; others do " +
        "(bitsandbytes' bnb_4bit_quant_storage=bfloat16)");
    } else if (devices > 1) notes.push(`${devices} devices each hold the whole model (DDP)`);
    else if (state.sharding === "fsdp")
      notes.push("one device holds the whole model: sharding=fsdp needs two or more (hardware.count)");
    if (accumulation * devices !== asked) notes.push(
      `gradient_accumulation ${asked} is not a multiple of ${devices} devices, which the run refuses: give a multiple; ` +
      `${accumulation} a device is assumed, a global batch of ${accumulation * devices * state.batch_size} rows`);
    const passes = Math.ceil(w.passes / devices), anEpoch = Math.ceil(passes / accumulation);
    const microSteps = Math.floor(w.steps / anEpoch) * passes + (w.steps % anEpoch) * accumulation;
    const sameLengths = filled || Math.min(lengths.values[0], state.max_seq_len) === longest;
    const varying = sameLengths ? null : hw.kind === "cpu" ? "memory_varying_cpu" : "memory_varying";
    const gigabytes = (use, factor) => (reservedBytes(use, factor) / 1e9) * C.memory_stack + C.memory_fixed_gb;
    const needed = gigabytes(memory, C.memory), least = gigabytes(leanest, C.memory);
    const held = gigabytes(memory, varying === null ? C.memory : C.memory * C[varying]);
    const load = loadOf(state, shape, tuning, lengths, setup, devices, w.steps, microSteps);
    return { workload: w, precision, setup, memory, microSteps, longest, budget, needed, held, least, varying, notes, load,
      warmup: warmupOf(state, shape, tuning, setup, load),
      evaluation: evaluationOf(state, shape, tuning, lengths, setup, load),
      fits: budget === null || reservedBytes(memory, C.memory) <= budget };
  }

  function memorySetup(state, tuning, precision, devices, accumulates) {
    const compute = W.bytes[precision];
    const trainable = state.pure_bf16 && !tuning.adapted && ["bf16", "fp8"].includes(precision) ? compute : 4;
    const shards = state.sharding === "fsdp" ? devices : 1, autocast = trainable > compute && shards === 1;
    return { compute_bytes: compute, trainable_bytes: trainable, shards, autocast,
      hidden_bytes: autocast ? trainable : compute,
      state_bytes: W.state_bytes[state.optimizer] ?? 2 * trainable,
      checkpointing: state.gradient_checkpointing, accumulates,
      buckets: devices > 1 && state.sharding === "none",
      loss_bytes: state.use_liger_kernel || stackOf(state).chunked_loss ? W.chunked_logits_bytes : W.loss_bytes,
      offloads: stackOf(state).offloads, fused: state.use_liger_kernel || stackOf(state).fused, adapter_input_bytes: W.adapter_input_bytes };
  }

  function loadOf(state, shape, tuning, lengths, setup, devices, steps, microSteps) {
    const whole = workloadOf(state, shape, tuning, lengths, null);
    const tokens = (whole.seen * (whole.stats.tokens + whole.stats.padding)) / whole.microSteps;
    const accumulation = steps ? microSteps / steps : 0;
    const matrixPasses = (tuning.adapted ? 2 : 3) + Number(setup.checkpointing);
    return { gpus: devices, steps, accumulation, passes: setup.checkpointing ? 3 : 2, tokens: Math.max(tokens, 1),
      flops: whole.flops.total / whole.microSteps,
      matrix_flops: Math.min(whole.flops.total, whole.flops.matrices * matrixPasses) / whole.microSteps,
      activation_bytes: tokens * keptBytes(shape, tuning, setup) + castBytes(shape, tuning, setup),
      weight_bytes: shape.params * setup.compute_bytes, layers: shape.layers, modules: tuning.modules,
      quantized: tuning.method === "qlora" ? shape.linear_params : 0, trainable: tuning.trainable / setup.shards,
      comm_bytes: sentBytes(shape, tuning, setup, devices, accumulation) };
  }

  function warmupOf(state, shape, tuning, setup, load) {
    return { ...load, steps: state.warmup_steps, accumulation: 1, trainable: 0,
      comm_bytes: sentBytes(shape, tuning, setup, load.gpus, 1) };
  }

  function evaluationOf(state, shape, tuning, lengths, setup, load) {
    const heldOut = { ...state, samples: Math.max(1, state.eval_samples), epochs: 1 };
    const w = workloadOf(heldOut, shape, tuning, lengths, null), batches = state.eval_samples ? w.microSteps : 0;
    const tokens = (w.seen * (w.stats.tokens + w.stats.padding)) / w.microSteps;
    return { ...load, steps: 2 * Math.ceil(batches / load.gpus), accumulation: 1, passes: 1,
      tokens: Math.max(tokens, 1), flops: w.flops.forward / w.microSteps, matrix_flops: w.flops.matrices / w.microSteps,
      activation_bytes: tokens * keptBytes(shape, tuning, setup) + castBytes(shape, tuning, setup), trainable: 0,
      comm_bytes: gatheredBytes(shape, tuning, setup) * (1 - 1 / setup.shards) };
  }

  const keptBytes = (shape, tuning, setup) =>
    shape.layers * layerActivationBytes(shape, tuning, setup) + setup.loss_bytes * shape.vocab_size;

  function sentBytes(shape, tuning, setup, devices, accumulation) {
    const trained = tuning.trainable * setup.trainable_bytes, ring = (devices - 1) / devices;
    if (setup.shards > 1) return accumulation * (2 * gatheredBytes(shape, tuning, setup) + trained) * ring;
    return 2 * trained * ring;
  }

  function largestBatch(plan, shape, tuning) {
    const fits = (rows) => reservedBytes(trainingMemory(shape, tuning, plan.setup, rows, plan.longest), C.memory) <= plan.budget;
    let least = 0, beyond = 1;
    while (fits(beyond)) { least = beyond; beyond *= 2; }
    while (beyond - least > 1) {
      const middle = Math.floor((least + beyond) / 2);
      if (fits(middle)) least = middle;
      else beyond = middle;
    }
    return least;
  }

  // ---- estimate/physics.py
  function norm(a, b, p) {
    if (a === 0 || b === 0) return a + b;
    const larger = Math.max(a, b), smaller = Math.min(a, b);
    return larger * (1 + (smaller / larger) ** p) ** (1 / p);
  }

  function stepTime(load, machine, c) {
    if (load.steps === 0) return { gemm: 0, traffic: 0, dequant: 0, update: 0, ideal: 0, total: 0 };
    const p = c.overlap_power, bandwidth = machine.bandwidth * c.bandwidth_share, n = load.accumulation;
    const balance = machine.products / machine.bandwidth;
    const products = load.matrix_flops / machine.matrix_products + (load.flops - load.matrix_flops) / machine.products;
    const compute = (products / c.eta) * (1 + (c.half_tokens * balance) / load.tokens);
    const gemm = norm(compute, (load.passes * load.weight_bytes) / bandwidth, p);
    const traffic = (((c.traffic_factor * load.activation_bytes * load.passes) / 2) / bandwidth);
    const layer = machine.kind === "cpu" ? c.cpu_layer_s : c.layer_launch_s;
    const launch = (load.passes / 2) * (load.layers * layer + load.modules * c.module_launch_s);
    const dequant = (load.passes * load.quantized * c.dequant_bytes) / machine.bandwidth;
    const micro = (machine.kind === "cpu" ? gemm + traffic + launch : norm(gemm + traffic, launch, p)) + dequant;
    const comm = load.comm_bytes ? load.comm_bytes / (machine.link * c.comm_share) : 0;
    const update = (load.trainable * c.update_bytes) / bandwidth;
    const ideal = norm(n * micro, comm, p) + update;
    return { gemm: n * gemm, traffic: n * traffic, dequant: n * dequant, update, ideal, total: ideal * c.software };
  }

  function meanPower(step, load, machine) {
    const host = machine.host_power_w;
    if (machine.kind === "cpu" || step.ideal === 0) return [0, host * C.power];
    let compute = step.gemm / step.ideal, memory = (step.traffic + step.dequant + step.update) / step.ideal;
    let busy = compute + memory;
    if (busy > 1) { compute /= busy; memory /= busy; busy = 1; }
    const use = C.power_compute * compute + C.power_memory * memory + C.power_waiting * (1 - busy);
    const board = machine.idle_power_w + (machine.board_power_w - machine.idle_power_w) * use;
    return [load.gpus * board * C.power, host * C.power];
  }

  // ---- estimate/hardware.py
  function hardwareOf(state) {
    const sheet = DATA.hardware[state.hardware];
    return { ...sheet, count: sheet.fixed_count ? 1 : state["hardware.count"] };
  }

  function resolvePrecision(state, hw) {
    if (state.precision !== "auto") return state.precision;
    const peak = (name) => hw.peak_tflops[name] ?? null;
    if (["cuda", "rocm"].includes(hw.kind)) return peak("bf16") === null && peak("fp16") !== null ? "fp16" : "bf16";
    return ["cpu", "mps"].includes(hw.kind) ? "fp32" : "bf16";
  }

  function machineOf(hw, precision) {
    const peak = hw.peak_tflops[precision] ?? null;
    if (precision === "fp8") return withFp8(hw, peak);
    if (precision === "bf16" && peak === null && (hw.peak_tflops.fp16 ?? null) !== null)
      return [null, `${hw.name} has no bf16: give precision=fp16`];
    if (hw.kind === "cpu" && peak === null && (hw.peak_tflops.fp32 ?? null) !== null)
      return [null, `how fast ${hw.name} computes ${precision} is unknown, which few processors have units for: ` +
        `give precision=fp32, or hardware.peak_tflops.${precision}=NUMBER`];
    const known = { [`hardware.peak_tflops.${precision}`]: peak, "hardware.bandwidth_gb_s": hw.bandwidth_gb_s,
      "hardware.board_power_w": hw.board_power_w };
    const missing = Object.keys(known).filter((name) => known[name] === null);
    if (missing.length) return [null, `${missing.join(", ")} of ${hw.kind === "auto" ? "this device" : hw.name} ` +
      "unknown: choose hardware= a preset, or give them"];
    const [products, peakSd] = productsOf(hw, precision, peak), [, link, linkSd] = linkOf(hw);
    return [{ kind: hw.kind, peak: peak * 1e12, products: products * 1e12, matrix_products: products * 1e12, bandwidth: hw.bandwidth_gb_s * 1e9,
      link: link * 1e9, peak_log_sd: peakSd, link_log_sd: linkSd, board_power_w: hw.board_power_w,
      idle_power_w: hw.idle_power_w ?? C.idle_share * hw.board_power_w,
      host_power_w: hw.kind === "cpu" ? hw.board_power_w
        : hw.kind === "mps" ? C.mps_ram_w : hw.host_power_w !== null ? hw.host_power_w * hw.count : C.host_w + C.host_share * hw.count * hw.board_power_w }, null];
  }

  function withFp8(hw, peak) {
    if (peak === null) return [null, `hardware.peak_tflops.fp8 of ${hw.kind === "auto" ? "this device" : hw.name} ` +
      "unknown: give precision=bf16, or its number"];
    const [machine, missing] = machineOf(hw, "bf16");
    if (machine === null) return [null, missing];
    const [products, logSd] = productsOf(hw, "fp8", peak);
    return [{ ...machine, matrix_products: products * 1e12, peak_log_sd: Math.max(machine.peak_log_sd, logSd) }, null];
  }

  function productsOf(hw, precision, peak) {
    const measured = hw.matmul_share[precision] ?? null;
    return measured !== null ? [measured * peak, 0] : [peak * C.matmul_share, SD.matmul_share];
  }

  function linkOf(hw) {
    const inside = ["link_gb_s", ...linkInside(hw)];
    if (hw.count <= hw.devices_per_node) return inside;
    const known = hw.network_gb_s !== null;
    const across = ["network_gb_s", (known ? hw.network_gb_s : C.network_gb_s) * hw.devices_per_node, known ? 0 : SD.network_gb_s];
    return hw.devices_per_node === 1 || across[1] <= inside[1] ? across : inside;
  }

  function linkInside(hw) {
    if (hw.link_gb_s !== null) return [hw.link_gb_s, 0];
    if (hw.bandwidth_gb_s === null || ["cpu", "mps"].includes(hw.kind)) return [C.pcie_gb_s, SD.pcie_gb_s];
    if (hw.bandwidth_gb_s >= DATA.linked.gb_s && (hw.board_power_w ?? 0) >= DATA.linked.w)
      return [C.link_share * hw.bandwidth_gb_s, SD.link_share];
    return [C.pcie_gb_s, SD.pcie_gb_s];
  }

  function unknownLink(hw) {
    const [name, gbs, logSd] = linkOf(hw), across = name === "network_gb_s";
    if (logSd === 0) return [];
    const what = across ? `the network between machines of ${hw.devices_per_node} devices` : "the link between devices";
    return [`${what} is unknown: ${g(across ? gbs / hw.devices_per_node : gbs, 3)} GB/s a device assumed, with a wide interval; ` +
      `give hardware.${name}=NUMBER`];
  }

  // ---- estimate/priors.py
  const stackOf = (state) => DATA.stacks[state.stack];
  function setPriors(state) {
    const stack = stackOf(state);
    C = { ...DATA.constants, software: stack.software, memory_stack: stack.memory };
    SD = { ...DATA.log_sd, software: stack.log_sd };
  }

  // ---- estimate/from_priors.py
  function modelRun(state, plan, machine, shape, tokensLogSd, reference = null) {
    const cpu = machine.kind === "cpu", start = cpu ? "start_cpu_s" : "start_s", parts = {};
    const rate = `${DATA.models[state.model].weights}_weights_per_s`;
    const setup = { [start]: C[start], [rate]: shape.params / C[rate] };
    const part = (seconds, watts) => ({ seconds, energy_kwh: (seconds * watts) / DATA.joules_per_kwh });
    const idle = machine.host_power_w * C.power + (cpu ? 0 : plan.load.gpus * machine.idle_power_w);
    parts.setup = part(sum(Object.values(setup)), idle);
    for (const [name, load] of [["warmup", plan.warmup], ["train", plan.load], ["eval", plan.evaluation]]) {
      const step = stepTime(load, machine, C);
      parts[name] = part(load.steps * step.total, sum(meanPower(step, load, machine)));
    }
    const total = sum(Object.values(parts).map((p) => p.seconds));
    const kwh = sum(Object.values(parts).map((p) => p.energy_kwh));
    const variances = { ...variancesOf(plan, machine, reference), tokens: tokensLogSd ** 2 };
    const power = SD[cpu ? "cpu_core_w" : "power"], drivers = {};
    const all = sum(Object.values(variances)), trainSd = Math.sqrt(all);
    const setupSd = hypot(...Object.entries(setup).map(([name, s]) => s * SD[name])) / parts.setup.seconds;
    const logSd = (share) => hypot((1 - share) * trainSd, share * setupSd);
    for (const [name, v] of Object.entries(variances)) if (v > 0.01 * (all || 1)) drivers[name] = v / (all || 1);
    return { seconds: total, kwh, power_w: (kwh * DATA.joules_per_kwh) / total, parts, drivers,
      time_log_sd: logSd(parts.setup.seconds / total),
      energy_log_sd: hypot(logSd(parts.setup.energy_kwh / kwh), power) };
  }

  function variancesOf(plan, machine, reference) {
    const load = [plan.load, plan.evaluation, plan.warmup].find((x) => x.steps), found = {};
    if (load === undefined) return {};
    const beyond = { eta: machine.peak_log_sd, comm_share: machine.link_log_sd };
    for (const name of DATA.uncertain) {
      let slope = elasticity(name, load, machine);
      if (reference && name !== "software") slope -= elasticity(name, ...reference);
      found[name] = (slope * hypot(SD[name], beyond[name] ?? 0)) ** 2;
    }
    return found;
  }

  function elasticity(name, load, machine) {
    const nudged = { ...C, [name]: C[name] * (1 + DATA.nudge) };
    return Math.log(stepTime(load, machine, nudged).total / stepTime(load, machine, C).total) / Math.log1p(DATA.nudge);
  }

  // ---- estimate/remedies.py
  function remedyOf(state, hw, plan, shape, lengths) {
    const options = [], largest = largestBatch(plan, shape, tuningOf(state, shape));
    if (largest) options.push(`batch_size=${largest}`);
    const tried = (changes, device = hw, precision = plan.precision) => {
      const other = { ...state, ...changes }, tuning = tuningOf(other, shape);
      return [makePlan(other, device, shape, tuning, lengths, precision), tuning, shape];
    };
    const ckpt = "gradient_checkpointing", changes = [], whole = state.sharding === "none";
    if (!state[ckpt]) changes.push([`${ckpt}=true`, { [ckpt]: true }]);
    if (state.method !== "qlora") {
      const words = (whole ? "method=qlora" : "method=qlora sharding=none") + (state.pure_bf16 ? " pure_bf16=false" : "");
      const change = { method: "qlora", sharding: "none", pure_bf16: false };
      changes.push([words, change]);
      if (!state[ckpt]) changes.push([`${words} ${ckpt}=true`, { ...change, [ckpt]: true }]);
    }
    if (state.method === "full" && plan.precision === "bf16" && !state.pure_bf16)
      changes.push(["pure_bf16=true", { pure_bf16: true }]);
    if (state.method === "full" && state.optimizer === "adamw" && whole)
      changes.push(["optimizer=adamw_8bit", { optimizer: "adamw_8bit" }]);
    if (!state.optimizer.startsWith("paged") && hw.kind === "cuda" && whole)
      changes.push(["optimizer=paged_adamw_8bit", { optimizer: "paged_adamw_8bit" }]);
    const split = (changed) => (changed.setup.shards > 1 && whole ? " sharding=fsdp" : "");
    for (const [words, change] of changes) {
      const [changed, tuning] = tried(change), rows = largest || changed.fits ? 0 : largestBatch(changed, shape, tuning);
      if (changed.fits) options.push(words + split(changed));
      else if (rows) options.push(`${words} with batch_size=${rows}`);
    }
    if (["cuda", "rocm"].includes(hw.kind)) options.push(...shardedOptions(state, hw, largest, tried));
    for (const [gb, name] of DATA.advised_devices) {
      if (gb < hw.memory_gb) continue;
      const device = { ...DATA.hardware[name], count: hw.count }, precision = resolvePrecision(state, device);
      if ((device.peak_tflops[precision] ?? null) === null) continue;
      const [changed] = tried({}, device, precision);
      if (!changed.fits) continue;
      options.push(`hardware=${name}${split(changed)} (${g(gb)} GB)`);
      break;
    }
    return "batch_size: got " + `${state.batch_size}: ${DATA.models[state.model].name} ${state.method} needs about ` +
      `${g(plan.needed, 3)} GB on each device, ${g(plan.needed - hw.memory_gb, 3)} GB more than the ` +
      `${g(hw.memory_gb, 3)} GB of ${hw.name}; what would fit: ` +
      (options.join("; ") || "nothing short of a much larger device would do");
  }

  function shardedOptions(state, hw, largest, tried) {
    const words = [], change = { sharding: "fsdp" }, options = [];
    if (state.method === "qlora") { words.push("method=lora"); change.method = "lora"; }
    if (state.optimizer !== "adamw") { words.push("optimizer=adamw"); change.optimizer = "adamw"; }
    if (state.sharding === "none") words.push("sharding=fsdp");
    if (words.length && hw.count > 1) {
      const [changed, tuning, shape] = tried(change), rows = largest || changed.fits ? 0 : largestBatch(changed, shape, tuning);
      if (changed.fits) return [words.join(" ")];
      if (rows) options.push(`${words.join(" ")} with batch_size=${rows}`);
    }
    const count = DATA.shards.find((n) => n > hw.count && tried(change, { ...hw, count: n })[0].fits);
    return count ? [...options, [`hardware.count=${count}`, ...words].join(" ")] : options;
  }

  // ---- estimate/quantiles.py; ln B(df/2, 1/2) of each df in use comes with DATA
  function erf(x) {
    let term = x, total = x;
    for (let n = 1; n < 400 && Math.abs(term) > 1e-17 * Math.abs(total); n++) total += term *= (2 * x * x) / (2 * n + 1);
    return (2 / Math.sqrt(Math.PI)) * Math.exp(-x * x) * total;
  }

  function tCdf(t, df) {
    if (df === null) return Math.abs(t) > 9 ? Number(t > 0) : 0.5 * (1 + erf(t / Math.SQRT2));
    const tail = 0.5 * beta(df / (df + t * t), (t * t) / (df + t * t), df / 2, 0.5, DATA.log_beta[df]);
    return t > 0 ? 1 - tail : tail;
  }

  function beta(x, y, a, b, logBeta) {
    if (x <= 0 || y <= 0) return x <= 0 ? 0 : 1;
    if (x > (a + 1) / (a + b + 2)) return 1 - beta(y, x, b, a, logBeta);
    let c = 1, d = 1 / (1 - ((a + b) * x) / (a + 1)), value = d;
    for (let m = 1; m < 400; m++) {
      for (const k of [(m * (b - m) * x) / ((a + 2 * m - 1) * (a + 2 * m)),
        (-(a + m) * (a + b + m) * x) / ((a + 2 * m) * (a + 2 * m + 1))]) {
        d = 1 / (1 + k * d);
        c = 1 + k / c;
        value *= c * d;
      }
      if (Math.abs(c * d - 1) < 1e-15) break;
    }
    return (Math.exp(a * Math.log(x) + b * Math.log(y) - logBeta) / a) * value;
  }

  const massBelow = (components, x) => sum(components.map((c) => c.weight *
    (c.scale === 0 ? Number(x >= c.location) : tCdf((x - c.location) / c.scale, c.df))));

  function mixtureQuantile(components, probability) {
    const total = sum(components.map((c) => c.weight)), wanted = probability * total;
    const mass = (x) => massBelow(components, x);
    const centre = sum(components.map((c) => c.weight * c.location)) / total;
    let step = Math.max(...components.map((c) => Math.abs(c.location - centre) + c.scale)) || 1;
    let low = centre - step, high = centre + step;
    while (mass(low) > wanted) low -= step *= 2;
    while (mass(high) < wanted) high += step *= 2;
    for (let i = 0; i < 200; i++) {
      const middle = 0.5 * (low + high);
      if (middle === low || middle === high) break;
      if (mass(middle) < wanted) low = middle;
      else high = middle;
    }
    return 0.5 * (low + high);
  }

  // ---- estimate/fitted.py, terms.py, target.py
  function targetOf(state, hw, plan, shape, tuning, lengths, counting) {
    const w = plan.workload;
    const rank = state["lora.r"];
    const [tokens, flops] = countedWork(state, w, shape, tuning, lengths, counting);
    const values = { run: 1, samples: state.samples, epochs: state.epochs, samples_seen: w.seen, steps: w.steps, tokens,
      flops, params: shape.params, params_samples_seen: shape.params * w.seen, trainable_params: tuning.trainable,
      adapter_rank: tuning.adapted ? rank : 1,
      batch_size: state.batch_size, max_seq_len: state.max_seq_len, gpu_count: Math.max(1, hw.count) };
    if (tokens > 0) values.flops_per_token = flops / tokens;
    if (tuning.adapted) values.rank = rank;
    const labels = { method: state.method, hardware: hw.name,
      precision: hw.kind === "auto" ? state.precision : plan.precision };
    for (const key of Object.keys(labels)) if (labels[key] === "auto") delete labels[key];
    return { values, labels };
  }

  // ---- workload/counting.py
  function countedWork(state, w, shape, tuning, lengths, { padding, by_parameters }) {
    let tokens = w.tokensSeen + w.tokensPadded, flops = w.flops.total;
    if (!padding) {
      const alone = { ...state, padding: "longest", group_by_length: false };
      const stats = state.packing ? w.stats : statistics(lengths.values, alone, 1);
      tokens = w.tokensSeen;
      flops = trainingFlops(shape, tuning, { tokens: round(w.seen * stats.tokens), pairs: round(w.seen * stats.pairs),
        checkpointing: state.gradient_checkpointing }).total;
    }
    return [tokens, by_parameters ? (tuning.adapted ? 4 : 6) * shape.params * tokens : flops];
  }

  function valueOf(target, name) {
    if (!(name in target.values)) throw new EstimateError(
      "fit: needs " + `${name} of the target run, which is unknown here; estimate without fit=`);
    return target.values[name];
  }

  // ---- devices.py
  function listedAs(name) {
    const spaced = name.replace(/[-_]/g, " ");
    const found = DATA.driver_names.find(([pattern]) => new RegExp(pattern, "i").test(spaced));
    return found ? found[1] : null;
  }

  function sameDevice(one, other) {
    const listed = listedAs(one), also = listedAs(other);
    if (listed !== null || also !== null) return listed === also;
    const words = (name) => new Set((name.toLowerCase().match(/[a-z0-9.]+/g) ?? [])
      .filter((word) => !["nvidia", "amd"].includes(word)));
    const [a, b] = [words(one), words(other)], within = (x, y) => [...x].every((word) => y.has(word));
    return a.size > 0 && b.size > 0 && (within(a, b) || within(b, a));
  }

  function contribution(term, parameter, target) {
    if (term.kind === "one") return [parameter, 1];
    if (term.kind === "label") {
      const given = target.labels[term.name];
      const has = given !== undefined && (term.name === "hardware" ? sameDevice(given, term.value) : given === term.value);
      return has ? [parameter, 1] : [0, 0];
    }
    const value = valueOf(target, term.name);
    if (term.kind === "linear") return [parameter * value, value];
    if (term.kind === "log") return [parameter * Math.log(value), Math.log(value)];
    const exponent = term.power * (parameter - Math.log(value));
    const outer = term.kind === "roofline" ? term.power : 1;
    if (exponent > 40) return [exponent / outer, term.power / outer];
    const ratio = Math.exp(exponent);
    return [Math.log1p(ratio) / outer, (term.power * ratio) / (1 + ratio) / outer];
  }

  function componentOf(model, target, extraSd) {
    let location = Math.log(valueOf(target, model.per));
    const costs = model.param_names.map((name) => model.terms[name].kind !== "cost" ? 0 :
      Math.exp(model.params[name] - Math.log(valueOf(target, model.terms[name].name))));
    location += Math.log1p(sum(costs));
    const gradient = model.param_names.map((name, i) => {
      if (model.terms[name].kind === "cost") return costs[i] / (1 + sum(costs));
      const [added, slope] = contribution(model.terms[name], model.params[name], target);
      location += added;
      return slope;
    });
    const variance = sum(gradient.map((a, i) => sum(gradient.map((b, j) => a * b * model.covariance[i][j]))));
    let sigma = model.sigma;
    if (model.noise) {
      const { variable, reference, exponent, range: [low, high] } = model.noise, value = valueOf(target, variable);
      sigma *= ((exponent < 0 ? Math.min(value, high) : Math.max(value, low)) / reference) ** exponent;
    }
    return { weight: model.weight, location, scale: Math.sqrt(Math.max(0, variance) + sigma ** 2 + extraSd ** 2),
      df: model.df };
  }

  function quantiles(models, target, level, extraSd, floor = null) {
    let components = models.map((model) => componentOf(model, target, extraSd)), below = 0;
    if (floor !== null) {
      below = massBelow(components, floor) / sum(components.map((c) => c.weight));
      const location = floor - Math.log(DATA.floor.typical_efficiency), scale = DATA.floor.efficiency_sd;
      components = components.map((c) => 1 - below < DATA.floor.least_possible ? { ...c, location, scale,
        weight: 1 + c.weight * tCdf((c.location - location) / scale, null) } :
        { ...c, weight: c.weight * tCdf((c.location - location) / scale, null) });
      below = massBelow(components, floor) / sum(components.map((c) => c.weight));
    }
    return [0.5 - level / 2, 0.5, 0.5 + level / 2].map(
      (p) => Math.exp(mixtureQuantile(components, below + p * (1 - below))));
  }

  // The log of the least joules or seconds that training can take; null where it is not known.
  function logFloor(perFlop, target, devices) {
    return perFlop > 0 && target.values.flops > 0 ? Math.log((perFlop * target.values.flops) / devices) : null;
  }

  function fixedQuantiles(fixed, target, level) {
    if (fixed === null) return [0, 0, 0];
    if (fixed.models.length) return quantiles(fixed.models, target, level, 0);
    const half = fixed.n < 2 ? Math.abs(fixed.mean) : fixed.sd * Math.sqrt(1 + 1 / fixed.n) *
      mixtureQuantile([{ weight: 1, location: 0, scale: 1, df: fixed.n - 1 }], 0.5 + level / 2);
    return [fixed.mean - half, fixed.mean, fixed.mean + half];
  }

  function extrapolations(fit, target) {
    const found = [];
    for (const [name, [low, high]] of Object.entries(fit.ranges)) {
      const value = target.values[name];
      if (!(value > 0) || !(low > 0)) continue;
      const factor = Math.max(value / high, low / value);
      if (factor > 1.005) found.push({ variable: name, factor });
    }
    for (const [label, seen] of [["method", fit.methods], ["precision", fit.precisions]]) {
      const given = target.labels[label];
      if (given !== undefined && seen.length && !seen.includes(given)) found.push({ variable: label, factor: null });
    }
    return found;
  }

  function predict(fit, models, fixed, target, level, floor) {
    const given = target.labels.hardware;
    if (given !== undefined && fit.hardware.length && !fit.hardware.some((name) => sameDevice(given, name)))
      throw new EstimateError("fit: got " + `${fit.path}, fitted on ${fit.hardware.join(", ")}, not on ${given}; ` +
        "efficiency does not carry over: estimate without fit=, or fit a sweep from that device");
    const extrapolates = extrapolations(fit, target), unseen = extrapolates.filter((x) => x.factor === null).length;
    let form = 0;
    for (const [name, rate] of Object.entries(fit.beyond)) {
      const value = target.values[name];
      if (!(value > 0) || !(name in fit.ranges)) continue;
      const [low, high] = fit.ranges[name];
      form += (rate * Math.max(0, Math.log(value / high), Math.log(low / value))) ** 2;
    }
    const extraSd = hypot(DATA.unseen_label_sd * Math.sqrt(unseen), Math.sqrt(form));
    const [low, middle, high] = quantiles(models, target, level, extraSd, floor);
    const [fixedLow, fixedMiddle, fixedHigh] = fixedQuantiles(fixed, target, level);
    const estimate = middle + fixedMiddle;
    const below = Math.max(low, estimate - hypot(middle - low, fixedMiddle - fixedLow));
    const above = estimate + hypot(high - middle, fixedHigh - fixedMiddle), session = DATA.z[level] * fit.session_sd;
    const lowest = below > 0 ? estimate * Math.exp(-hypot(Math.log(estimate / below), session)) : below;
    return { estimate, low: floor === null ? lowest : Math.max(lowest, Math.exp(floor)),
      high: estimate * Math.exp(hypot(Math.log(above / estimate), session)), extrapolates };
  }

  // ---- estimate/estimator.py
  const scaled = (x, k) => ({ estimate: x.estimate * k, low: x.low * k, high: x.high * k });
  const interval = (estimate, logSd, z) =>
    ({ estimate, low: estimate / Math.exp(z * logSd), high: estimate * Math.exp(z * logSd) });
  const together = (factor, spread) => (factor > 0 ? Math.exp(hypot(Math.log(factor), spread)) : 1);

  function intensityOf(state) {
    const own = state["grid.intensity_g_per_kwh"];
    if (own === null) return DATA.zones[state["grid.zone"] ?? ""];
    return { g_per_kwh: own, year: null, place: "as given", notice: null, definition:
      `${g(own)} g/kWh as given by the user (grid.intensity_g_per_kwh); its definition is not known` };
  }

  function withGrams(answer, state, z) {
    if (answer.energy_kwh === null) return answer;
    const intensity = intensityOf(state), given = state["grid.intensity_g_per_kwh"] !== null;
    const spread = given ? 0 : z * SD.intensity_static, kwh = answer.energy_kwh, pue = state["grid.pue"];
    const grams = intensity.g_per_kwh * pue;
    const emissions_g = {
      estimate: kwh.estimate * grams,
      low: (kwh.estimate * grams) / together(kwh.estimate / kwh.low, spread),
      high: kwh.estimate * grams * together(kwh.high / kwh.estimate, spread),
      intensity_g_per_kwh: intensity.g_per_kwh, definition: intensity.definition,
    };
    const said = `${g(intensity.g_per_kwh, 4)} g/kWh, ${intensity.place}${intensity.year ? ` ${intensity.year}` : ""}`;
    const notes = [given ? said : `${said}: a yearly mean, of which an hour may differ by a factor 1.6`];
    if (intensity.notice) notes.push(intensity.notice);
    if (pue !== 1) notes.push(`grams include PUE ${g(pue)}; kWh do not`);
    return { ...answer, emissions_g, assumptions: [...answer.assumptions, ...notes] };
  }

  function fromFit(base, state, hw, plan, shape, tuning, lengths) {
    const fit = DATA.fit, level = state.level;
    if (plan.workload.steps === 0) throw new EstimateError("max_steps: got 0; a fit speaks of training: estimate a run " +
      "without steps by priors, without fit=");
    if (hw.kind === "auto" && fit.hardware.length) throw new EstimateError("hardware: got auto, and no device was " +
      `recognised here; ${fit.path} was fitted on ${fit.hardware.join(", ")}: name the run's device with hardware=`);
    if (fit.gpu_counts.length && !fit.gpu_counts.includes(hw.count)) throw new EstimateError("hardware.count: got " +
      `${hw.count}; ${fit.path} was fitted on runs of ${fit.gpu_counts.join(", ")}: estimate without fit=, or ` +
      "fit runs on as many, or see lora-scaling analyse extrapolate, which states a spread for it");
    const target = targetOf(state, hw, plan, shape, tuning, lengths, fit.counting);
    const { extrapolates, ...joules } = predict(fit, fit.energy, fit.fixed_energy_j, target, level,
      logFloor(fit.floor_j_per_flop, target, 1));
    const energy_kwh = scaled(joules, 1 / DATA.joules_per_kwh);
    const seen = fit.gpu_counts.includes(hw.count) ? hw.count : Math.max(1, ...fit.gpu_counts);
    let time_s = null;
    if (fit.time.length) {
      const { extrapolates: _, ...seconds } = predict(fit, fit.time, fit.fixed_time_s, target, level,
        logFloor(fit.floor_s_per_flop, target, seen));
      time_s = seconds;
    }
    const unseen = extrapolates.filter((x) => x.factor === null).map((x) => x.variable);
    const said = [`fitted on ${fit.n} runs of ${fit.hardware.join(", ") || "a device not named"}`];
    if (unseen.length) said.push(
      `the fit has not seen this ${unseen.join(" and ")}: its interval is widened ${g(DATA.unseen_label_factor)} times for each`);
    return { ...base, basis: "fit", time_s, energy_kwh, extrapolates, assumptions: [...base.assumptions, ...said],
      mean_power_w: time_s === null ? null : (energy_kwh.estimate * DATA.joules_per_kwh) / time_s.estimate };
  }

  function fromPriors(base, state, plan, machine, shape, lengths, z, reference = null) {
    const run = modelRun(state, plan, machine, shape, lengths.log_sd, reference);
    const device = machine.kind === "cpu" ? "processor measured here, " : "peak and board power by the sheet, ";
    return { ...base, time_s: interval(run.seconds, run.time_log_sd, z), parts: run.parts, drivers: run.drivers,
      energy_kwh: interval(run.kwh, run.energy_log_sd, z), mean_power_w: run.power_w,
      assumptions: [...base.assumptions, `${device}efficiencies from published runs (priors.json)`,
        "CPU and RAM as CodeCarbon models them; no PUE, no losses of the power supply"] };
  }

  // ---- estimate/measured.py
  function parseMeasured(text) {
    const [figure, settings = ""] = text.split(/@(.*)/s), M = DATA.measured;
    const squeezed = figure.toLowerCase().replace(/\s+per\s+|_per_/g, "/").replace(/\s+/g, "").replaceAll("=", ":")
      .replace(/^train_/, "");
    const wrong = (rest) => new EstimateError("measured: got " + rest);
    const m = squeezed.match(new RegExp(`^(?:(${M.number})(k?)(%?):?([a-z/]+)|([a-z/]+):?(${M.number})(k?)(%?))$`));
    const [number, thousand, percent, word] = m ? (m[1] ? m.slice(1, 5) : [m[6], m[7], m[8], m[5]]) : [];
    const [unit, scale] = (m && Object.hasOwn(M.names, word) && M.names[word]) || [];
    if (unit === undefined) throw wrong(`'${text}'; give a number with its unit, or a record: ${M.examples}`);
    if (number.includes(",")) throw wrong(`'${figure.trim()}'; write the number without commas, such as 2300 or 0.9`);
    let value = (Number(number) * scale * (thousand ? 1000 : 1)) / (percent ? 100 : 1);
    if (unit === "mfu" && !percent && value > 1) value /= 100;
    if (!(value > 0 && value < 1e12) || (unit === "mfu" && value > 1) || (percent && unit !== "mfu"))
      throw wrong(`'${figure.trim()}'; give a number above 0 with its unit: ${M.examples}`);
    return { unit, value, overrides: settings.split(/\s+/).filter(Boolean) };
  }

  // The settings of the run that was measured: those of this one, or the page's with what follows @.
  function earlierState(state, overrides) {
    const earlier = { ...state };
    for (const word of overrides) {
      const at = word.indexOf("="), name = word.slice(0, at), value = word.slice(at + 1);
      if (at < 1 || !(name in state)) throw new EstimateError("measured: got " + `${word} after @; the page knows only ` +
        "its own settings: use the command line");
      const now = state[name], number = value !== "" && Number.isFinite(Number(value));
      earlier[name] = value === "null" ? null : value === "true" || value === "false" ? value === "true"
        : number && typeof now !== "string" ? Number(value) : value;
    }
    if (!(earlier.model in DATA.models) || !(earlier.hardware in DATA.hardware))
      throw new EstimateError("measured: got " + `${overrides.join(" ")} after @; choose a model and device of the page`);
    return earlier;
  }

  function fromMeasured(base, state, plan, machine, missing, shape, tuning, lengths, z) {
    const { unit, value, overrides } = parseMeasured(state.measured);
    let [hw, own, ref, refMachine, refMissing] = [hardwareOf(state), state, plan, machine, missing];
    if (overrides.length) {
      own = earlierState(state, overrides);
      hw = hardwareOf(own);
      const otherShape = shapeOf(DATA.models[own.model].shape), otherTuning = tuningOf(own, otherShape);
      const precision = resolvePrecision(own, hw);
      ref = makePlan(own, hw, otherShape, otherTuning, lengthsOf(own), precision);
      [refMachine, refMissing] = machineOf(hw, precision);
    }
    if (machine === null || refMachine === null) return { ...base, reason: missing ?? refMissing };
    const load = ref.load, w = ref.workload, steps = load.steps;
    if (steps === 0) throw new EstimateError("measured: got a run of no steps; give max_steps= or samples= of the run " +
      "that was measured");
    const sheet = hw.peak_tflops[ref.precision] ?? null, dense = sheet === null ? refMachine.peak : sheet * 1e12;
    const perStep = { tokens: w.tokensSeen / steps, samples: w.seen / steps, steps: 1, tflop: w.flops.model / steps / 1e12,
      mfu: w.flops.model / steps / dense };
    const [thing, device] = unit.split("_per_s");
    const seconds = { s_per_run: value / steps, s_per_step: value, s_per_sample: value * perStep.samples }[unit] ??
      perStep[thing] / (value * (device || thing === "mfu" ? load.gpus : 1));
    const least = (load.matrix_flops * load.accumulation) / dense;
    if (seconds < least) throw new EstimateError("measured: got " + `${state.measured.trim()}, which is ` +
      `${g(least / seconds, 3)} times the peak of ${hw.name}; give the settings it was for after @, such as @ batch_size=1`);
    C = { ...C, software: 1 };
    const software = seconds / stepTime(load, refMachine, C).total;
    const same = JSON.stringify({ ...plan.load, steps }) === JSON.stringify(load);
    C = { ...C, software };
    SD = { ...SD, software: SD[same ? "measured" : "measured_elsewhere"] };
    const answer = fromPriors(base, state, plan, machine, shape, lengths, z, [load, refMachine]);
    return { ...answer, basis: "measured", assumptions: [...answer.assumptions, `one earlier run took ${g(software, 3)} ` +
      "times as long as a perfect stack; its level replaces that of stack="] };
  }

  function withPrice(answer, state) {
    const [hour, kwh] = [state["price.per_hour"], state["price.per_kwh"]];
    if ((hour === null && kwh === null) || answer.energy_kwh === null || (hour !== null && answer.time_s === null)) return answer;
    let cost = { estimate: 0, low: 0, high: 0 };
    const plus = (x) => { cost = { estimate: cost.estimate + x.estimate, low: cost.low + x.low, high: cost.high + x.high }; };
    if (hour !== null) plus(scaled(answer.time_s, hour / 3600));
    if (kwh !== null) plus(scaled(answer.energy_kwh, kwh));
    return { ...answer, cost };
  }

  function assumptionsOf(state, hw, plan, shape, lengths) {
    const s = plan.workload.stats, said = [lengths.sentence], cut = s.truncated / Math.max(1e-9, s.mean);
    if (hw.count !== state["hardware.count"]) said.push(
      `hardware.count ${state["hardware.count"]} is left out: ${hw.name}, which is here, counts as one device`);
    if (cut > 0.02) said.push(`max_seq_len ${state.max_seq_len} cuts ${percent(cut)} of the tokens`);
    if (s.padding > 0.01 * s.tokens)
      said.push(`padding adds ${percent(s.padding / s.tokens)} to the tokens processed`);
    if (state.method === "qlora" && shape.experts > 1)
      said.push("the experts stay in 16 bit: they are held in fused tensors, which bitsandbytes does not quantise");
    if (state.precision === "auto") said.push(`precision auto taken as ${plan.precision}`);
    if (state.method === "full" && plan.precision === "bf16")
      said.push(state.pure_bf16 ? "full fine-tuning in pure bf16: weights, gradients and AdamW's moments in 16 bit"
        : "full fine-tuning of 32-bit weights, computed in bf16 (pure_bf16=true: of 16-bit weights)");
    if (plan.precision === "fp8")
      said.push("FP8 for the products of the layers' own matrices; weights, adapters, attention and head in 16 bit");
    return [...said, ...plan.notes, ...(plan.load.comm_bytes ? unknownLink(hw) : [])];
  }

  function memoryOf(state, hw, plan, shape, tuning, lengths, z) {
    const logSd = hypot(SD.memory, tuning.method === "qlora" ? SD.memory_qlora : 0), { needed, held } = plan;
    const available = hw.memory_gb;
    const upwards = hypot(logSd, plan.varying === null ? 0 : SD[plan.varying]), room = available ?? Infinity;
    const estimate = Math.min(held, Math.max(needed, room));
    const peak = { estimate, low: plan.least / Math.exp(z * logSd),
      high: Math.min(held * Math.exp(z * upwards), Math.max(needed * Math.exp(z * logSd), (room * 2 ** 30) / 1e9)) };
    const fits = available === null ? null : plan.fits, parts = {};
    for (const name of DATA.memory_parts) parts[name] = plan.memory[name] / 1e9;
    return { ...peak, allocated_gb: plan.memory.peak / 1e9, fits, available_gb: available, shards: plan.setup.shards, parts_gb: parts,
      largest_batch_size: plan.budget === null ? null : largestBatch(plan, shape, tuning),
      remedy: fits === false ? remedyOf(state, hw, plan, shape, lengths) : null };
  }

  // ---- config/run.py
  function refuseUnsharded(state) {
    if (state.sharding !== "fsdp") return;
    if (state.optimizer !== "adamw") throw new EstimateError(`optimizer: got ${state.optimizer} with sharding=fsdp, ` +
      "whose states cannot be split here; use optimizer=adamw");
  }

  // What `estimate(config).to_dict()` gives for these settings, whose names are those of the command line.
  function estimate(state) {
    refuseUnsharded(state);
    setPriors(state);
    const hw = hardwareOf(state), shape = shapeOf(DATA.models[state.model].shape), tuning = tuningOf(state, shape);
    const lengths = lengthsOf(state), precision = resolvePrecision(state, hw), z = DATA.z[state.level];
    const plan = makePlan(state, hw, shape, tuning, lengths, precision), w = plan.workload;
    const rank = tuning.adapted ? ` r=${state["lora.r"]}` : "", most = state.max_steps ?? null;
    const cut = most === null ? "" : most ? `, at most ${thousands(most)} steps` : ", no training";
    const base = {
      name: `${DATA.models[state.model].name} ${state.method}${rank}, ${thousands(state.samples)} samples × ${state.epochs}${cut}`,
      level: state.level, basis: "priors", hardware: hw.name, gpu_count: hw.count, stack: state.stack,
      work: { params: shape.params, trainable_params: tuning.trainable, samples_seen: w.seen, tokens: w.tokensSeen,
        tokens_padded: w.tokensPadded, tokens_truncated: w.seen * w.stats.truncated, steps: plan.load.steps,
        micro_steps: plan.microSteps, flops: w.flops.total, model_flops: w.flops.model },
      peak_memory_gb: memoryOf(state, hw, plan, shape, tuning, lengths, z),
      assumptions: assumptionsOf(state, hw, plan, shape, lengths), time_s: null, energy_kwh: null, emissions_g: null,
      mean_power_w: null, parts: {}, drivers: {}, extrapolates: [], reason: null,
    };
    if (DATA.fit && state.basis !== "priors")
      return withPrice(withGrams(fromFit(base, state, hw, plan, shape, tuning, lengths), state, z), state);
    const [machine, missing] = machineOf(hw, precision);
    if (state.measured) return withPrice(withGrams(
      fromMeasured(base, state, plan, machine, missing, shape, tuning, lengths, z), state, z), state);
    if (machine === null) return { ...base, reason: missing };
    return withPrice(withGrams(fromPriors(base, state, plan, machine, shape, lengths, z), state, z), state);
  }

  return { estimate, targetNames, format: g };
}
