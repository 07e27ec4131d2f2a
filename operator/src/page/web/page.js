// The page: a stream of frames comes in, wishes go out.

const at = (id) => document.getElementById(id);
const KEPT_POINTS = 600;
const KEPT_LINES = 200;

const topology = new Topology(at("drawing"));
const latency = new LineChart(at("latency"), "Mean latency of the last minutes", "ms", [
  { key: "meanMs", name: "mean" },
  { key: "theoryMs", name: "theory" },
]);
const rate = new LineChart(at("rate"), "Acknowledged writes per second of the last minutes", "/s", [
  { key: "rate", name: "rate", area: true },
]);
const histogram = new Histogram(at("histogram"), "How the latencies of the last ten seconds are distributed");

let store = null;
let abilities = {};
let stream = null;
let points = [];
let last = null;

// --- the stream ---

function connect(chosen) {
  stream?.close();
  store = chosen;
  last = null;
  location.replace(`#${chosen.namespace}/${chosen.name}`);
  document.title = `${chosen.name} – quorumkv`;
  at("rows").replaceChildren();
  stream = new EventSource(`${path()}/events`);
  stream.addEventListener("history", (event) => begin(JSON.parse(event.data)));
  stream.addEventListener("frame", (event) => show(JSON.parse(event.data)));
  stream.addEventListener("error", () => {
    document.body.classList.add("stale");
    pill("lost", "No connection to the operator; trying again");
    // It tries again by itself, unless it was refused.
    if (stream.readyState === EventSource.CLOSED) setTimeout(() => store === chosen && connect(chosen), 3000);
  });
}

function path() {
  return `/api/stores/${encodeURIComponent(store.namespace)}/${encodeURIComponent(store.name)}`;
}

function begin(history) {
  points = history.points;
  at("log").replaceChildren();
  // What is long past is not read out.
  at("log").setAttribute("aria-live", "off");
  history.news.forEach(tell);
  setTimeout(() => at("log").setAttribute("aria-live", "polite"), 1000);
}

function show(frame) {
  document.body.classList.remove("stale");
  pill(frame.ready ? "ready" : "trouble", frame.ready && frame.connected === frame.nodes.length - 1 ? "Ready" : frame.message);
  points.push(frame.point);
  points.splice(0, points.length - KEPT_POINTS);
  figures(frame);
  topology.show(frame);
  caption(frame);
  latency.draw(points, frame.at);
  rate.draw(points, frame.at);
  histogram.draw(frame.latency, frame.applied ? orderStatistic(frame.applied, frame.connected) : null);
  notes(frame);
  rows(frame);
  controls(frame);
  frame.news.forEach(tell);
  last = frame;
}

function pill(kind, words) {
  // Said again only if it changed: it is read out.
  if (at("ready").textContent === words) return;
  at("ready").className = `pill ${kind}`;
  at("ready").textContent = words;
}

function figures(frame) {
  const { applied, point } = frame;
  const followers = frame.nodes.length - 1;
  const leader = frame.leader ?? "none";
  at("f-leader").textContent = short(leader);
  at("f-epoch").textContent = short(leader) === leader ? `epoch ${frame.epoch}` : `${leader}, epoch ${frame.epoch}`;
  at("f-quorum").textContent = applied ? `${applied.writeQuorum} of ${followers}` : "–";
  at("f-connected").textContent = `${frame.connected} of ${followers} followers connected`;
  at("f-rate").textContent = rounded(point.rate);
  at("f-commit").textContent = `log committed up to ${frame.commit.toLocaleString("en")}, ${frame.keys} keys`;
  at("f-mean").textContent = ms(point.meanMs);
  at("f-theory").textContent = frame.theoryMs === null ? "no delay is simulated" : `expected ${ms(frame.theoryMs)}`;
  if (frame.theoryMs === null && applied && applied.delayMaxMs > 0) at("f-theory").textContent = "too few followers connected";
  if (!applied) at("f-theory").textContent = "";
}

function caption({ applied }) {
  const words = applied
    ? `Now and then one write is followed, in slow motion. The numbers are the order in which followers confirm it: it is answered at ${applied.writeQuorum}, the rest is not waited for.`
    : "No leader takes writes at the moment.";
  put(at("caption"), words);
}

function ordinal(number) {
  return `${number}${["th", "st", "nd", "rd"][number] ?? "th"}`;
}

// What the lines should show, as a sum that can be checked by hand.
function notes({ applied, connected, theoryMs, load, latency: { count, median, p95, p99 } }) {
  const { delayMinMs: min, delayMaxMs: max, writeQuorum: q } = applied ?? {};
  const sum = `${min} + (${max} − ${min}) · ${q} / (${connected} + 1) = ${ms(theoryMs)}`;
  put(at("latency-note"), theoryMs === null ? "" : `Expected of the ${ordinal(q)} fastest of ${connected}: ${sum}.`);
  const most = load.clients > 0 && theoryMs !== null ? (load.clients * 1000) / theoryMs : null;
  const bound = `${load.clients} clients that wait ${ms(theoryMs)} each make at most ${rounded(most ?? 0)} per second.`;
  put(at("rate-note"), most === null ? "" : bound);
  const quantiles = `${count} writes: median ${ms(median)}, p95 ${ms(p95)}, p99 ${ms(p99)}.`;
  put(at("quantiles"), count ? quantiles : "");
}

// --- the table of nodes ---

function rows(frame) {
  at("th-actions").hidden = !abilities.nodes && !abilities.switchover;
  const body = at("rows");
  if (body.children.length !== frame.nodes.length) body.replaceChildren(...frame.nodes.map(({ node }) => row(node)));
  frame.nodes.forEach((node, index) => {
    const cells = body.children[index].cells;
    const words = STATES[node.state][1];
    cells[1].className = `state ${node.state}`;
    put(cells[1], words);
    put(cells[2], node.epoch ?? "–");
    put(cells[3], node.seq ?? "–");
    put(cells[4], node.lag ?? "–");
    put(cells[5], ms(node.ackMs));
    for (const button of cells[6].children) {
      const { action } = button.dataset;
      if (action === "lead") button.disabled = node.state !== "follows";
      if (action === "kill") button.disabled = node.state === "down";
      if (action === "halt") {
        button.disabled = node.state === "down";
        put(button, node.state === "halted" ? "Continue" : "Halt");
        button.setAttribute("aria-label", `${button.textContent} ${node.node}`);
      }
    }
  });
}

function put(element, content) {
  const text = String(content);
  if (element.textContent !== text) element.textContent = text;
}

function row(name) {
  const line = document.createElement("tr");
  const head = document.createElement("th");
  head.scope = "row";
  head.textContent = name;
  line.append(head);
  for (const label of ["", "epoch", "log", "behind", "confirms in", ""]) {
    const cell = line.insertCell();
    if (label) {
      cell.dataset.label = label;
      cell.className = "number";
    }
  }
  const actions = line.cells[6];
  actions.className = "actions";
  if (abilities.switchover) action(actions, "lead", "Make leader", `Make ${name} the leader`, name);
  if (abilities.nodes) {
    action(actions, "halt", "Halt", `Halt ${name}`, name);
    action(actions, "kill", "Kill", `Kill ${name}`, name);
  }
  return line;
}

function action(cell, kind, words, spoken, node) {
  const button = document.createElement("button");
  button.type = "button";
  button.dataset.action = kind;
  button.textContent = words;
  button.setAttribute("aria-label", spoken);
  button.addEventListener("click", () => {
    if (kind === "lead") return wish("POST", "switchover", { node }, `${node} is asked to lead.`);
    const what = kind === "kill" ? kind : button.textContent.toLowerCase();
    return wish("POST", "process", { node, action: what }, { halt: `${node} is halted.`, continue: `${node} goes on.`, kill: `${node} is killed.` }[what]);
  });
  cell.append(button);
}

// --- the log ---

function tell(item) {
  const line = document.createElement("li");
  if (item.warning) line.className = "warning";
  const time = document.createElement("time");
  const moment = new Date(item.at);
  time.dateTime = moment.toISOString();
  time.textContent = moment.toLocaleTimeString("en-GB");
  const words = document.createElement("span");
  words.textContent = item.text;
  line.append(time, words);
  at("log").prepend(line);
  while (at("log").children.length > KEPT_LINES) at("log").lastChild.remove();
}

// --- wishes ---

async function wish(method, what, body, done) {
  try {
    const headers = { "content-type": "application/json" };
    const answer = await fetch(`${path()}/${what}`, { method, headers, body: JSON.stringify(body) });
    if (answer.ok) return feedback("good", done);
    const { error } = await answer.json();
    return feedback("bad", `Refused: ${error}.`);
  } catch {
    return feedback("bad", "The operator does not answer.");
  }
}

let fading;

function feedback(kind, words) {
  at("feedback").className = kind;
  at("feedback").textContent = words;
  clearTimeout(fading);
  fading = setTimeout(() => at("feedback").replaceChildren(), 10_000);
  return kind === "good";
}

let delayTouched = false;
let clientsTouched = false;

function controls({ nodes, wanted, applied, remark, message, load }) {
  const followers = nodes.length - 1;
  const choices = at("quorum-choices");
  if (choices.children.length !== followers) {
    choices.replaceChildren(...Array.from({ length: Math.max(0, followers) }, (_, n) => choice(n + 1)));
  }
  const pending = applied !== null && applied.writeQuorum !== wanted.writeQuorum;
  for (const label of choices.children) {
    const input = label.firstChild;
    const value = Number(input.value);
    // Checked is what is in force; a wish that is not yet granted is only marked.
    input.checked = value === (applied ?? wanted).writeQuorum;
    label.classList.toggle("wished", pending && value === wanted.writeQuorum);
  }
  if (!delayTouched) {
    at("delay-min").value = wanted.delayMinMs;
    at("delay-max").value = wanted.delayMaxMs;
  }
  if (load.clients > 0 && !clientsTouched) at("load-clients").value = load.clients;
  const writing = load.clients > 0;
  put(at("load-button"), writing ? (clientsTouched ? "Change" : "Stop writing") : "Start writing");
  at("load-button").classList.toggle("running", writing && !clientsTouched);
  const failed = load.failed ? `, ${load.failed} failed (last: ${load.error})` : "";
  put(
    at("load-note"),
    writing ? `${load.acked} writes acknowledged${failed}.` : "Each client has one write under way. It ends when the last page is closed.",
  );
  const unsettled = applied && JSON.stringify(applied) !== JSON.stringify(wanted) ? `Not in force yet: ${message}.` : "";
  at("remark").hidden = !remark && !unsettled;
  put(at("remark"), [unsettled, remark].filter(Boolean).join(" "));
}

function choice(value) {
  const label = document.createElement("label");
  const input = document.createElement("input");
  const words = document.createElement("span");
  Object.assign(input, { type: "radio", name: "quorum", value, disabled: !abilities.settings });
  input.setAttribute("aria-label", `Write quorum ${value}`);
  input.addEventListener("change", () => {
    wish("PUT", "settings", { writeQuorum: value }, `Write quorum ${value} is asked for.`);
  });
  words.textContent = value;
  label.append(input, words);
  return label;
}

for (const id of ["delay-min", "delay-max"]) at(id).addEventListener("input", () => (delayTouched = true));
at("load-clients").addEventListener("input", () => (clientsTouched = true));

at("delay").addEventListener("submit", async (event) => {
  event.preventDefault();
  const [min, max] = [at("delay-min").value, at("delay-max").value];
  const delay = { min: `${Number(min)}ms`, max: `${Number(max)}ms` };
  if (await wish("PUT", "settings", { delay }, `A round trip of ${min} to ${max} ms is asked for.`)) delayTouched = false;
});

at("load").addEventListener("submit", async (event) => {
  event.preventDefault();
  const stop = last?.load.clients > 0 && !clientsTouched;
  const clients = stop ? 0 : Number(at("load-clients").value);
  if (await wish("PUT", "load", { clients }, stop ? "The load ends." : `${clients} clients write.`)) clientsTouched = false;
});

// --- which store ---

async function stores() {
  const answer = await fetch("/api/stores");
  const found = await answer.json();
  abilities = found.abilities;
  at("hint").textContent = found.hint;
  at("load").hidden = !abilities.load;
  for (const field of at("delay").querySelectorAll("input, button")) field.disabled = !abilities.settings;
  const names = found.stores.map(({ namespace, name }) => `${namespace}/${name}`);
  const choice = at("store");
  if ([...choice.options].map((option) => option.value).join() !== names.join()) {
    choice.replaceChildren(...names.map((name) => new Option(name, name)));
  }
  at("store-choice").hidden = names.length < 2;
  const wanted = decodeURIComponent(location.hash.slice(1));
  const chosen = found.stores[Math.max(0, names.indexOf(wanted))];
  if (!chosen) return pill("waiting", "There is no KvCluster yet");
  choice.value = `${chosen.namespace}/${chosen.name}`;
  at("store-name").textContent = names.length < 2 ? chosen.name : "";
  if (!store || store.name !== chosen.name || store.namespace !== chosen.namespace) connect(chosen);
  return undefined;
}

at("store").addEventListener("change", () => {
  location.hash = at("store").value;
});
window.addEventListener("hashchange", () => stores());

function lookForStores() {
  stores().catch(() => pill("lost", "No connection to the operator; trying again"));
}

lookForStores();
setInterval(lookForStores, 10_000);
