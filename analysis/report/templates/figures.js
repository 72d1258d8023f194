// Figures that one can point at: values of the nearest point, series shown or hidden, one panel or all, and the figure
// as SVG, PNG or CSV. Without script, and on paper, a figure is the drawing that it is.
const NEAR = 16; // points of the drawing within which a point is pointed at
const SVG_NS = "http://www.w3.org/2000/svg";

function make(kind, text, press) {
  const made = document.createElement(kind);
  made.textContent = text;
  if (press) { made.type = "button"; made.addEventListener("click", () => press(made)); }
  return made;
}

function save(name, type, content) {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(content instanceof Blob ? content : new Blob([content], { type }));
  link.download = name;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 10000);
}

function group(name, ...buttons) {
  const made = document.createElement("div");
  made.setAttribute("role", "group");
  made.setAttribute("aria-label", name);
  made.append(...buttons);
  return made;
}

for (const figure of document.querySelectorAll("figure[data-name]")) {
  const data = JSON.parse(figure.querySelector("script").textContent);
  const canvas = figure.querySelector(".canvas"), whole = figure.querySelector("svg");
  const drawing = whole.querySelector("g"), salt = drawing.id.replace(/-all$/, "");
  const panels = [...figure.querySelectorAll("svg.panel")];
  const hidden = new Set();
  const tip = make("output", "");
  tip.className = "tip";
  tip.hidden = true;
  canvas.append(tip);

  const number = (value) => value.toLocaleString("en", { maximumSignificantDigits: 5 });
  const points = data.panels.flatMap((panel, p) => panel.points.map(([left, top, x, y, series, run]) => {
    const name = data.names[series] ?? "", lines = [data.runs[run] ?? "", name];
    lines.push(`${panel.x}: ${number(x)}`, panel.y ? `${panel.y}: ${number(y)}` : "", run >= 0 ? data.note : "");
    return { p, left, top, x, y, series, run: data.runs[run] ?? "", name, text: lines.filter((line) => line).join("\n") };
  }));
  // The drawings that are seen: the whole one, or panels of it in the same coordinates.
  const seen = () => [whole, ...panels].filter((svg) => svg.getBoundingClientRect().width > 10);
  const inside = (svg, point) => {
    const box = svg.viewBox.baseVal;
    return point.left >= box.x && point.left <= box.x + box.width && !hidden.has(point.name);
  };
  let shown = null;

  function show(svg, point) {
    for (const ring of canvas.querySelectorAll(".ring")) ring.remove();
    shown = point;
    tip.hidden = !point;
    if (!point) return;
    const ring = document.createElementNS(SVG_NS, "circle");
    for (const [name, value] of Object.entries({ class: "ring", cx: point.left, cy: point.top, r: 6 })) ring.setAttribute(name, value);
    svg.append(ring);
    tip.textContent = point.text;
    const place = new DOMPoint(point.left, point.top).matrixTransform(svg.getScreenCTM());
    const frame = canvas.getBoundingClientRect();
    const left = place.x - frame.left, top = place.y - frame.top;
    tip.style.left = `${Math.max(2, Math.min(left + 10, frame.width - tip.offsetWidth - 4))}px`;
    tip.style.top = `${top + 12 + tip.offsetHeight < frame.height ? top + 12 : Math.max(2, top - tip.offsetHeight - 12)}px`;
  }

  canvas.addEventListener("pointermove", (event) => {
    const svg = event.target.closest("svg");
    if (!svg || !canvas.contains(svg)) return show(null, null);
    const at = new DOMPoint(event.clientX, event.clientY).matrixTransform(svg.getScreenCTM().inverse());
    const distance = (point) => Math.hypot(point.left - at.x, point.top - at.y);
    const near = points.filter((point) => inside(svg, point) && distance(point) < NEAR);
    near.sort((a, b) => distance(a) - distance(b));
    show(svg, near[0] ?? null);
  });
  canvas.addEventListener("pointerleave", () => show(null, null));
  canvas.addEventListener("blur", () => show(null, null));
  if (points.length) {
    canvas.tabIndex = 0;
    canvas.setAttribute("role", "group");
    canvas.setAttribute("aria-label", `${whole.getAttribute("aria-label")}: arrow keys go from point to point`);
  }
  canvas.addEventListener("keydown", (event) => {
    const step = { ArrowRight: 1, ArrowDown: 1, ArrowLeft: -1, ArrowUp: -1 }[event.key];
    if (event.key === "Escape") show(null, null);
    if (!step) return;
    event.preventDefault();
    const steps = seen().flatMap((svg) => points.filter((point) => inside(svg, point))
      .sort((a, b) => a.series - b.series || a.left - b.left || a.top - b.top).map((point) => ({ svg, point })));
    const now = steps.findIndex((one) => one.point === shown);
    const next = steps[now < 0 ? (step > 0 ? 0 : steps.length - 1) : now + step];
    if (next) show(next.svg, next.point);
  });

  const tools = document.createElement("div");
  tools.className = "tools";
  if (data.series.length > 1) {
    tools.append(group("Series", ...data.series.map((name, i) => {
      const button = make("button", name, () => {
        hidden[hidden.has(name) ? "delete" : "add"](name);
        button.setAttribute("aria-pressed", String(!hidden.has(name)));
        const part = new RegExp(`^${salt}-p\\d+s${i}\\D`);
        for (const one of drawing.querySelectorAll("g[id]")) if (part.test(one.id)) one.style.display = hidden.has(name) ? "none" : "";
        show(null, null);
      });
      button.setAttribute("aria-pressed", "true");
      return button;
    })));
  }
  if (data.views.length > 1 && panels.length === data.views.length) {
    const choose = (p) => {
      figure.classList.toggle("views", p >= 0);
      panels.forEach((panel, i) => panel.classList.toggle("chosen", i === Math.max(p, 0)));
      buttons.forEach(([i, button]) => button.setAttribute("aria-pressed", String(i === p)));
      show(null, null);
    };
    const buttons = data.views.map((name, p) => [p, make("button", name, () => choose(p))]);
    if (!figure.classList.contains("views")) buttons.unshift([-1, make("button", "both", () => choose(-1))]);
    tools.append(group("Axes", ...buttons.map(([, button]) => button)));
    buttons.forEach(([, button], i) => button.setAttribute("aria-pressed", String(i === 0)));
  }

  function svgText() {
    const copy = whole.cloneNode(true), box = whole.viewBox.baseVal;
    copy.querySelectorAll(".ring").forEach((ring) => ring.remove());
    copy.removeAttribute("class");
    copy.removeAttribute("style");
    copy.setAttribute("width", `${box.width}pt`);
    copy.setAttribute("height", `${box.height}pt`);
    return new XMLSerializer().serializeToString(copy);
  }
  function csvText() {
    // Text that a spreadsheet would run as a formula gets an apostrophe.
    const cell = (value) => {
      const text = typeof value === "string" ? value.replace(/^\s*[=+\-@＝＋－＠]/, "'$&") : String(value);
      return /[",\n]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text;
    };
    const rows = [["panel", "series", "kind", "run_id", "x", "y", "x_label", "y_label", "note"]];
    const label = (p) => [data.panels[p].x, data.panels[p].y];
    for (const point of points) rows.push([point.p + 1, point.name, "points", point.run, point.x, point.y, ...label(point.p), point.run ? data.note : ""]);
    data.panels.forEach((panel, p) => panel.lines.forEach(([name, xs, ys]) => xs.forEach((x, i) => rows.push([p + 1, name, "line", "", x, ys[i], ...label(p), ""]))));
    return rows.map((row) => row.map(cell).join(",")).join("\n") + "\n";
  }
  function savePng() {
    const image = new Image(), box = whole.viewBox.baseVal;
    image.addEventListener("load", () => {
      const sheet = document.createElement("canvas");
      sheet.width = 3 * box.width;
      sheet.height = 3 * box.height;
      const brush = sheet.getContext("2d");
      brush.fillStyle = "#fff";
      brush.fillRect(0, 0, sheet.width, sheet.height);
      brush.drawImage(image, 0, 0, sheet.width, sheet.height);
      sheet.toBlob((blob) => save(`${figure.dataset.name}.png`, "image/png", blob));
    });
    image.src = URL.createObjectURL(new Blob([svgText()], { type: "image/svg+xml" }));
  }
  tools.append(group("Save as",
    make("button", "SVG", () => save(`${figure.dataset.name}.svg`, "image/svg+xml", svgText())),
    make("button", "PNG", savePng),
    make("button", "CSV", () => save(`${figure.dataset.name}.csv`, "text/csv", csvText()))));
  canvas.before(tools);
}
