// The leader in the middle, its followers around it, and writes on their way between them in slow motion.

const STATES = {
  leads: ["", "leads"],
  settling: ["…", "takes over"],
  replaced: ["?", "was replaced"],
  follows: ["", "follows"],
  "catching-up": ["↻", "is catching up"],
  disconnected: ["×", "is not connected"],
  waiting: ["…", "has no leader"],
  silent: ["?", "does not answer"],
  halted: ["‖", "is halted"],
  stopping: ["‖", "is stopping"],
  down: ["×", "does not run"],
};

// A followed write takes so much longer here than it did.
const SLOWER = 10;
const LONGEST_MS = 2400;
const SHORTEST_MS = 400;
// Until the next one is followed.
const PAUSE_MS = 1200;
const still = window.matchMedia("(prefers-reduced-motion: reduce)");

// The names of local nodes differ in their ports.
function short(name) {
  return name.includes(":") ? name.slice(name.lastIndexOf(":") + 1) : name;
}

// In which order the followers confirmed one of the latest writes, as name -> place.
function places(frame) {
  const confirmed = frame.nodes.filter((node) => node.ackMs !== null && node.node !== frame.leader);
  confirmed.sort((a, b) => a.ackMs - b.ackMs);
  return new Map(confirmed.map((node, place) => [node.node, place + 1]));
}

class Topology {
  constructor(container) {
    this.container = container;
    this.root = svg("svg", { role: "img" });
    this.links = svg("g", {}, this.root);
    this.dots = svg("g", {}, this.root);
    this.flash = svg("circle", { class: "flash", r: 0, opacity: 0 }, this.root);
    this.shapes = svg("g", {}, this.root);
    container.append(this.root);
    this.nodes = new Map();
    this.write = null;
    this.centre = null;
    this.animating = false;
    new ResizeObserver(() => this.arrange(true)).observe(container);
  }

  show(frame) {
    this.frame = frame;
    const names = frame.nodes.map((node) => node.node);
    for (const [name, node] of this.nodes) {
      if (names.includes(name)) continue;
      [node.group, node.link].forEach((element) => element.remove());
      this.nodes.delete(name);
    }
    for (const name of names) if (!this.nodes.has(name)) this.nodes.set(name, this.make(name));
    // Until a leader is known, whoever was in the middle stays there.
    const centre = frame.leader ?? (names.includes(this.centre) ? this.centre : names[0]);
    if (centre !== this.centre || names.join() !== this.order) {
      this.centre = centre;
      this.order = names.join();
      this.write = null;
      this.dots.replaceChildren();
      this.arrange(false);
    }
    const resting = !this.write || (this.write.ended && performance.now() - this.write.ended > PAUSE_MS);
    if (resting && !document.hidden) {
      this.write = null;
      if (frame.point.rate > 0 && frame.applied) this.send();
    }
    this.label();
  }

  make(name) {
    const link = svg("line", { class: "link" }, this.links);
    const group = svg("g", { class: "node" }, this.shapes);
    const body = svg("circle", { class: "body", r: 22 }, group);
    const glyph = svg("text", { class: "glyph", y: 5 }, group);
    const title = svg("text", { class: "name", y: 40 }, group);
    const info = svg("text", { class: "info", y: 55 }, group);
    title.textContent = short(name);
    return { link, group, body, glyph, title, info, at: null, to: { x: 0, y: 0 } };
  }

  label() {
    const { frame } = this;
    const spoken = [];
    for (const { node: name, state, lag } of frame.nodes) {
      const node = this.nodes.get(name);
      const leg = state === "follows" ? this.write?.legs.find((leg) => leg.name === name && leg.over) : undefined;
      const counts = leg !== undefined && leg.rank <= this.write.quorum;
      const [glyph, words] = STATES[state];
      node.group.setAttribute("class", `node ${state}${counts ? " in-quorum" : ""}`);
      node.glyph.textContent = state === "leads" ? "leader" : (leg?.rank ?? glyph);
      const calm = state === "leads" || state === "follows";
      node.info.textContent = leg ? ms(leg.ackMs) : calm ? "" : state === "catching-up" && lag ? `${lag} behind` : words;
      const cut = !["follows", "catching-up", "settling"].includes(state);
      node.link.setAttribute("class", `link${cut ? " cut" : counts ? " in-quorum" : ""}`);
      spoken.push(`${name} ${words}`);
    }
    const picture = `${spoken.join(", ")}. The table of nodes says the same.`;
    if (this.root.getAttribute("aria-label") !== picture) this.root.setAttribute("aria-label", picture);
  }

  // Nodes walk to another place when another one leads, and are there at once when the page changes its width.
  arrange(atOnce) {
    if (!this.frame) return;
    const width = Math.max(240, this.container.clientWidth);
    const height = width < 480 ? 320 : 400;
    this.root.setAttribute("viewBox", `0 0 ${width} ${height}`);
    this.root.setAttribute("height", height);
    const middle = { x: width / 2, y: height / 2 };
    const reach = { x: Math.min(width / 2 - 46, 270), y: height / 2 - 62 };
    const others = [...this.nodes.keys()].filter((name) => name !== this.centre);
    for (const [name, node] of this.nodes) {
      const turn = -Math.PI / 2 + (2 * Math.PI * others.indexOf(name)) / others.length;
      const leads = name === this.centre;
      node.to = leads ? middle : { x: middle.x + reach.x * Math.cos(turn), y: middle.y + reach.y * Math.sin(turn) };
      node.body.setAttribute("r", leads ? 34 : 22);
      // What is above the leader is named above, where no line goes.
      const above = !leads && Math.sin(turn) < -0.5;
      node.title.setAttribute("y", above ? -45 : leads ? 52 : 40);
      node.info.setAttribute("y", above ? -30 : leads ? 67 : 55);
      if (!node.at || atOnce || still.matches) node.at = { ...node.to };
    }
    this.draw();
    this.animate();
  }

  draw() {
    const centre = this.nodes.get(this.centre);
    for (const [name, node] of this.nodes) {
      node.group.setAttribute("transform", `translate(${node.at.x.toFixed(1)} ${node.at.y.toFixed(1)})`);
      const ends = { x1: centre.at.x, y1: centre.at.y, x2: node.at.x, y2: node.at.y };
      for (const [key, value] of Object.entries(ends)) node.link.setAttribute(key, value.toFixed(1));
      node.link.setAttribute("visibility", name === this.centre ? "hidden" : "visible");
    }
  }

  // One write to every follower that is connected; each comes back as slowly as that follower confirmed it.
  send() {
    const place = places(this.frame);
    const legs = this.frame.nodes
      .filter((node) => node.state === "follows" && place.has(node.node))
      .map((node) => ({
        name: node.node,
        ackMs: node.ackMs,
        rank: place.get(node.node),
        lasts: Math.min(LONGEST_MS, Math.max(SHORTEST_MS, node.ackMs * SLOWER)),
        dot: still.matches ? null : svg("circle", { class: "dot", r: 5 }, this.dots),
        over: still.matches,
      }));
    if (legs.length === 0) return;
    const now = performance.now();
    this.write = { began: now, ended: still.matches ? now + LONGEST_MS : null, quorum: this.frame.applied.writeQuorum, legs };
    this.animate();
  }

  animate() {
    if (this.animating) return;
    this.animating = true;
    let before = performance.now();
    const step = (now) => {
      const moved = this.move(Math.min(64, now - before));
      before = now;
      const flown = this.fly(now);
      this.animating = moved || flown;
      if (this.animating) requestAnimationFrame(step);
    };
    requestAnimationFrame(step);
  }

  move(elapsed) {
    let moving = false;
    for (const node of this.nodes.values()) {
      const [x, y] = [node.to.x - node.at.x, node.to.y - node.at.y];
      if (Math.hypot(x, y) < 0.5) {
        node.at = { ...node.to };
        continue;
      }
      const part = 1 - Math.exp(-elapsed / 140);
      node.at = { x: node.at.x + x * part, y: node.at.y + y * part };
      moving = true;
    }
    this.draw();
    return moving;
  }

  fly(now) {
    const centre = this.nodes.get(this.centre);
    const { write } = this;
    if (write && !write.ended) {
      for (const leg of write.legs.filter((leg) => !leg.over)) {
        const node = this.nodes.get(leg.name);
        const part = (now - write.began) / leg.lasts;
        if (part >= 1 || !node) {
          if (leg.rank === write.quorum) this.answered = now;
          leg.over = true;
          leg.dot.remove();
          this.label();
          continue;
        }
        // Out in the first half, back as a confirmation in the second.
        const out = part < 0.5 ? part * 2 : 2 - part * 2;
        if (part >= 0.5) leg.dot.setAttribute("class", leg.rank <= write.quorum ? "dot ack" : "dot late");
        leg.dot.setAttribute("cx", (centre.at.x + (node.at.x - centre.at.x) * out).toFixed(1));
        leg.dot.setAttribute("cy", (centre.at.y + (node.at.y - centre.at.y) * out).toFixed(1));
      }
      if (write.legs.every((leg) => leg.over)) write.ended = now;
    }
    const since = (now - (this.answered ?? -1e9)) / 600;
    const shown = since < 1 && centre;
    this.flash.setAttribute("opacity", shown ? (1 - since).toFixed(2) : 0);
    if (shown) {
      this.flash.setAttribute("cx", centre.at.x.toFixed(1));
      this.flash.setAttribute("cy", centre.at.y.toFixed(1));
      this.flash.setAttribute("r", (36 + since * 14).toFixed(1));
    }
    return Boolean(write && !write.ended) || Boolean(shown);
  }
}
