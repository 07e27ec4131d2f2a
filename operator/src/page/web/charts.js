// Drawing with SVG: a line over the last minutes, and a histogram with the expected density above it.

const SVG = "http://www.w3.org/2000/svg";

function svg(name, attributes = {}, parent = null) {
  const element = document.createElementNS(SVG, name);
  for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
  if (parent) parent.append(element);
  return element;
}

function ms(value) {
  if (value === null || value === undefined) return "–";
  return `${value < 10 ? value.toFixed(value < 1 ? 2 : 1) : value.toFixed(0)} ms`;
}

function rounded(value) {
  return value >= 100 ? value.toFixed(0) : value >= 10 ? value.toFixed(1) : value > 0 ? value.toFixed(2) : "0";
}

// The next round number that is not below.
function nice(value) {
  const power = 10 ** Math.floor(Math.log10(Math.max(value, 1e-6)));
  return [1, 1.5, 2, 3, 4, 5, 6, 8, 10].find((step) => step * power >= value * 0.9999) * power;
}

const HEIGHT = 190;
const PAD = { left: 44, right: 8, top: 12, bottom: 22 };

class Chart {
  constructor(container, label) {
    this.container = container;
    this.root = svg("svg", { role: "img", "aria-label": label });
    container.append(this.root);
  }

  // An empty plane with its vertical axis up to `top`; gives the scale of both axes.
  begin(top, unit) {
    const width = Math.max(200, this.container.clientWidth);
    this.root.setAttribute("viewBox", `0 0 ${width} ${HEIGHT}`);
    this.root.replaceChildren();
    const plane = { left: PAD.left, right: width - PAD.right, top: PAD.top, bottom: HEIGHT - PAD.bottom };
    const y = (value) => plane.bottom - (value / top) * (plane.bottom - plane.top);
    for (const part of [0, 0.5, 1]) {
      const at = y(part * top);
      svg("line", { class: "grid", x1: plane.left, x2: plane.right, y1: at, y2: at }, this.root);
      if (unit !== null) this.text(plane.left - 6, at + 4, `${Number((part * top).toPrecision(3))}`, "end");
    }
    if (unit) this.text(plane.left - 6, plane.bottom + 16, unit, "end");
    return { ...plane, y };
  }

  text(x, y, content, anchor) {
    svg("text", { class: "axis", x, y, "text-anchor": anchor }, this.root).textContent = content;
  }

  empty(plane, words) {
    const x = (plane.left + plane.right) / 2;
    svg("text", { class: "empty", x, y: (plane.top + plane.bottom) / 2 }, this.root).textContent = words;
  }
}

const SPAN_MS = 180_000;

class LineChart extends Chart {
  constructor(container, label, unit, series) {
    super(container, label);
    this.unit = unit;
    this.series = series;
  }

  draw(points, now) {
    const seen = points.filter((point) => point.at >= now - SPAN_MS);
    const largest = Math.max(0, ...seen.flatMap((point) => this.series.map(({ key }) => point[key] ?? 0)));
    const plane = this.begin(nice(Math.max(largest * 1.1, 1)), this.unit);
    const x = (at) => plane.right - ((now - at) / SPAN_MS) * (plane.right - plane.left);
    this.text(plane.left, HEIGHT - 5, "3 min ago", "start");
    this.text(plane.right, HEIGHT - 5, "now", "end");
    if (largest === 0) this.empty(plane, "nothing is being written");
    for (const { key, name, area } of this.series) {
      for (const run of this.runs(seen, key)) {
        const line = run.map((point) => `${x(point.at).toFixed(1)} ${plane.y(point[key]).toFixed(1)}`).join("L");
        if (area) {
          const [first, last] = [x(run[0].at).toFixed(1), x(run.at(-1).at).toFixed(1)];
          svg("path", { class: `area ${name}`, d: `M${line}L${last} ${plane.bottom}L${first} ${plane.bottom}Z` }, this.root);
        }
        svg("path", { class: `series ${name}`, d: `M${line}` }, this.root);
      }
    }
  }

  // Without what is missing, and without the time in which nobody looked.
  runs(points, key) {
    const runs = [];
    let before = null;
    for (const point of points) {
      if (point[key] === null || point[key] === undefined) {
        before = null;
        continue;
      }
      if (!before || point.at - before.at > 3000) runs.push([]);
      runs.at(-1).push(point);
      before = point;
    }
    return runs.filter((run) => run.length > 1);
  }
}

const BARS = 30;

class Histogram extends Chart {
  // `theory` is the density of the q-th fastest of n round trips between min and max, if one is expected.
  draw({ count, mean, p99, buckets }, theory) {
    const longest = nice(Math.max((theory ? theory.max : 0) * 1.08, count ? p99 * 1.25 : 0, 0.5));
    const width = longest / BARS;
    const shares = new Array(BARS).fill(0);
    for (const [from, to, number] of buckets) {
      // A bucket that lies across bars is divided among them.
      for (let bar = Math.floor(from / width); bar * width < to && bar < BARS; bar += 1) {
        const common = Math.min(to, (bar + 1) * width) - Math.max(from, bar * width);
        shares[bar] += (number / count) * (common / (to - from));
      }
    }
    const density = theory ? theory.density : () => 0;
    const curve = Array.from({ length: 121 }, (_, n) => [(n / 120) * longest, density((n / 120) * longest) * width]);
    const top = Math.max(0.01, ...shares, ...curve.map(([, share]) => share)) * 1.08;
    const plane = this.begin(top, null);
    const x = (value) => plane.left + (value / longest) * (plane.right - plane.left);
    for (const part of plane.right < 340 ? [0, 0.5, 1] : [0, 0.25, 0.5, 0.75, 1]) {
      const anchor = part === 0 ? "start" : part === 1 ? "end" : "middle";
      this.text(x(part * longest), HEIGHT - 5, `${Number((part * longest).toPrecision(3))}${part === 1 ? " ms" : ""}`, anchor);
    }
    shares.forEach((share, bar) => {
      const [left, y] = [x(bar * width), plane.y(share)];
      const size = { x: left + 0.5, y, width: Math.max(1, x(width) - x(0) - 1), height: plane.bottom - y };
      svg("rect", { class: "bar", ...size }, this.root);
    });
    if (theory) {
      const line = curve.map(([at, share]) => `${x(at).toFixed(1)} ${plane.y(share).toFixed(1)}`).join("L");
      svg("path", { class: "series theory", d: `M${line}` }, this.root);
    }
    if (count) svg("line", { class: "series mean", x1: x(mean), x2: x(mean), y1: plane.top, y2: plane.bottom }, this.root);
    else this.empty(plane, "nothing is being written");
  }
}

// The q-th smallest of n independent uniform values has a beta distribution.
function orderStatistic(settings, followers) {
  const { writeQuorum: q, delayMinMs: min, delayMaxMs: max } = settings;
  if (q > followers || max <= min) return null;
  let factor = 1;
  for (let k = 1; k <= followers; k += 1) factor *= k;
  for (let k = 1; k < q; k += 1) factor /= k;
  for (let k = 1; k <= followers - q; k += 1) factor /= k;
  const density = (value) => {
    const u = (value - min) / (max - min);
    return u < 0 || u > 1 ? 0 : (factor * u ** (q - 1) * (1 - u) ** (followers - q)) / (max - min);
  };
  return { max, density };
}
