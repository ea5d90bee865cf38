"use strict";
// Shows one tree in the markup of tree_view.html. A classic script, so that a page in one file can hold it; a page of a
// server loads it before its own. `treeView.show(data)` takes the columns over the nodes that tree_page.py describes;
// whoever adds to them calls `treeView.update()`. A text that is null is hidden: only its place is shown.
const CLIP = 300; // characters of a step in its row

// Controls steer what reads a page, and turned directions make a text read as another: both are shown, not obeyed.
const UNSEEN = /[\u0000-\u0008\u000b-\u001f\u007f-\u009f\u00ad\u061c\u180e\u200b\u200e\u200f\u2028-\u202e\u2060-\u206f\ufeff\ufff9-\ufffb\u{e0000}-\u{e007f}]/gu;
const shown = (text) => text.replace(UNSEEN, (one) => {
  const code = one.codePointAt(0);
  return code < 32 ? String.fromCodePoint(0x2400 + code) : `⟨U+${code.toString(16).toUpperCase().padStart(4, "0")}⟩`;
});
const line = (text) => shown(text.slice(0, CLIP)).replace(/\n/g, " ↵ ").replace(/\t/g, " ").trim() + (text.length > CLIP ? "…" : "");
const figure = (value) => (value === null ? "–" : String(Number(Number(value).toPrecision(3))));
const thousands = (count) => count.toLocaleString("en-GB");
const make = (tag, name, text) => {
  const made = document.createElement(tag);
  if (name) made.className = name;
  if (text !== undefined) made.textContent = text;
  return made;
};
const pairs = (list, entries) => list.replaceChildren(...entries.map(([name, text]) => {
  const pair = make("div");
  pair.append(make("dt", "", shown(name)), make("dd", "", shown(text)));
  return pair;
}));

const treeView = (() => {
const ROW = 30; // pixels, as the style has it
const DEEP = 16; // levels that are indented; deeper ones say their depth
const MANY = 100; // siblings listed
const SMALL = 200; // nodes of a tree that is shown open
const at = (id) => document.getElementById(id);
if (!at("tree")) return null; // a page that has no tree uses the words above alone

let data = null;
let size = 0;
let children = [];
let depth = [];
let place = []; // among its siblings
let best = new Set();
const pathTo = (node) => {
  const path = [];
  for (; node > 0; node = data.parent[node]) path.push(node);
  return path.reverse();
};
const stepLine = (node) => {
  if (!node) return "the question";
  return data.text[node] === null ? "(hidden)" : line(data.text[node]) || "(nothing)";
};

let names = []; // of scores
let scores = []; // of the chosen judge: a number, or null
let low = 0;
let high = 1;
const closed = () => new Uint8Array(size);
let own = []; // open nodes while nothing is filtered
let open = own;
let kept = null; // 1: on the way to a match, 2: a match; null while nothing is filtered
let rows = []; // nodes that are drawn, from top to bottom
let row = []; // where a node stands among them
let chosen = 0;
let visited = false; // did the search count visits?

const useScore = (name) => {
  scores = name === undefined ? Array(size).fill(null) : data.scores[name].map((score) => (score === null ? null : Number(score)));
  low = 0;
  high = 1;
  for (const score of scores) {
    if (score !== null && Number.isFinite(score)) {
      low = Math.min(low, score);
      high = Math.max(high, score);
    }
  }
};

const layOut = () => {
  rows = [];
  row = new Int32Array(size).fill(-1);
  const waiting = [0];
  while (waiting.length) {
    const node = waiting.pop();
    row[node] = rows.push(node) - 1;
    if (!open[node]) continue;
    for (let i = children[node].length - 1; i >= 0; i--) {
      const child = children[node][i];
      if (!kept || kept[child]) waiting.push(child);
    }
  }
  at("rows").style.height = `${rows.length * ROW}px`;
  draw(true);
};

const drawRow = (node) => {
  const made = make("div", "row");
  made.id = `node-${node}`;
  made.style.top = `${row[node] * ROW}px`;
  made.style.setProperty("--depth", Math.min(depth[node], DEEP));
  made.setAttribute("role", "treeitem");
  made.setAttribute("aria-level", depth[node] + 1);
  made.setAttribute("aria-posinset", place[node] + 1);
  made.setAttribute("aria-setsize", node ? children[data.parent[node]].length : 1);
  made.setAttribute("aria-selected", node === chosen);
  made.classList.toggle("chosen", node === chosen);
  made.classList.toggle("best", best.has(node));
  made.classList.toggle("passed", kept !== null && kept[node] === 1);
  const twist = make("span", "twist", children[node].length ? (open[node] ? "▾" : "▸") : "");
  if (children[node].length) made.setAttribute("aria-expanded", Boolean(open[node]));
  made.append(twist);
  if (depth[node] > DEEP) made.append(make("span", "level", String(depth[node])));
  const written = node > 0 && !data.sampled[node];
  made.append(make("span", written ? "what written" : "what", (written ? "✎ " : "") + stepLine(node)));
  const score = make("span", "score", figure(scores[node]));
  if (scores[node] !== null && Number.isFinite(scores[node])) {
    const bar = make("span", "bar");
    bar.style.width = `${(100 * (scores[node] - low)) / (high - low)}%`;
    score.append(bar);
  }
  const stop = node ? data.stop[node] : "";
  made.append(score, make("span", "visits", thousands(data.visits[node])), make("span", "mean", figure(data.mean[node])),
    make("span", "tokens", data.tokens[node] === null ? "–" : thousands(data.tokens[node])),
    make("span", ["length", "budget", "error"].includes(stop) ? "stop bad" : "stop", stop));
  return made;
};

const room = () => at("tree").clientHeight - ROW; // the heads of the columns stay in sight

const drawn = new Map(); // node to its row in the page
const draw = (fresh) => {
  const tree = at("tree");
  const first = Math.max(0, Math.floor(tree.scrollTop / ROW) - 5);
  const last = Math.min(rows.length, Math.ceil((tree.scrollTop + room()) / ROW) + 5);
  const wanted = new Set(rows.slice(first, last));
  if (row[chosen] >= 0) wanted.add(chosen); // so that a screen reader never loses what the reader stands on
  for (const [node, made] of drawn) {
    if (!fresh && wanted.has(node)) continue;
    made.remove();
    drawn.delete(node);
  }
  for (const node of wanted) {
    if (drawn.has(node)) continue;
    drawn.set(node, drawRow(node));
    at("rows").append(drawn.get(node));
  }
  if (row[chosen] >= 0) tree.setAttribute("aria-activedescendant", `node-${chosen}`);
  else tree.removeAttribute("aria-activedescendant");
};

let toldFacts = "";
const facts = () => {
  const family = chosen ? children[data.parent[chosen]] : [];
  const judged = names.map((name) => data.scores[name][chosen]);
  const others = family.slice(0, MANY).map((one) => scores[one]);
  return JSON.stringify([chosen, judged, data.visits[chosen], children[chosen].length, family.length, others]);
};
const tell = () => {
  const node = chosen;
  toldFacts = facts();
  at("name").textContent = node ? `Node ${thousands(node)}, ${data.action[node]}` : "The root";
  const fields = names.map((name) => [name, figure(data.scores[name][node])]);
  if (visited) fields.push(["visits", thousands(data.visits[node])], ["mean", figure(data.mean[node])]);
  fields.push(["depth", String(depth[node])]);
  fields.push(["children", thousands(children[node].length)]);
  if (node) {
    fields.push(["tokens", data.tokens[node] === null ? "–" : thousands(data.tokens[node])], ["stop", data.stop[node]]);
    fields.push(["sampled", data.sampled[node] ? "yes" : "no, written"]);
    if (data.own[node] !== null) fields.push(["the policy’s own value", figure(data.own[node])]);
  }
  pairs(at("fields"), fields);
  at("said").replaceChildren(...(data.said[node] || []).map((words) => make("li", "", shown(words))));
  at("text").hidden = !node || data.text[node] === null;
  at("text").textContent = shown(data.text[node] ?? "");
  at("upto").hidden = depth[node] < 2 || data.text[node] === null;
  tellThought();
  const family = node ? children[data.parent[node]] : [];
  const rank = (one) => (scores[one] === null || Number.isNaN(scores[one]) ? -Infinity : scores[one]);
  const order = [...family].sort((one, other) => (rank(one) < rank(other) ? 1 : rank(one) > rank(other) ? -1 : one - other));
  const listed = order.slice(0, MANY);
  if (node && !listed.includes(node)) listed.push(node);
  at("among").textContent = family.length < 2 ? "" : `Among ${thousands(family.length)} siblings${names.length ? `, by ${shown(at("score").value)}` : ""}`;
  at("siblings").replaceChildren(...(family.length < 2 ? [] : listed).map((one) => {
    const item = make("li");
    const button = make("button", one === node ? "here" : "");
    button.type = "button";
    button.append(make("span", "", figure(scores[one])), make("span", "", stepLine(one)));
    button.addEventListener("click", () => choose(one, true));
    item.append(button);
    return item;
  }));
  if (listed.length < family.length) at("siblings").append(make("li", "", `and ${thousands(family.length - listed.length)} more`));
};

const tellThought = () => {
  at("thought").textContent = at("upto").open ? shown(pathTo(chosen).map((step) => data.text[step] ?? "").join("")) : "";
};

const choose = (node, reveal) => {
  if (reveal) {
    if (kept && !kept[node]) clearFilter();
    let hidden = false;
    for (let above = data.parent[node]; above >= 0; above = data.parent[above]) {
      hidden = hidden || !open[above];
      open[above] = 1;
    }
    chosen = node;
    if (hidden || row[node] < 0) layOut();
  }
  chosen = node;
  const tree = at("tree");
  const top = row[node] * ROW;
  if (reveal && (top < tree.scrollTop || top + ROW > tree.scrollTop + room())) tree.scrollTop = top - room() / 2;
  else if (top < tree.scrollTop) tree.scrollTop = top;
  else if (top + ROW > tree.scrollTop + room()) tree.scrollTop = top + ROW - room();
  draw(true);
  tell();
};

const setOpen = (node, wanted) => {
  if (!children[node].length || Boolean(open[node]) === wanted) return;
  open[node] = wanted ? 1 : 0;
  layOut();
};

let lowered = null; // texts as they are searched, made at the first search
const sift = () => {
  const needle = at("needle").value.toLowerCase();
  const least = at("least").value === "" ? null : Number(at("least").value);
  if (!needle && least === null) {
    kept = null;
    open = own;
    at("count").textContent = "";
  } else {
    lowered = lowered || data.text.map((text) => (text ?? "").toLowerCase());
    kept = closed();
    open = closed().fill(1);
    let found = 0;
    for (let node = size - 1; node > 0; node--) {
      if ((!needle || lowered[node].includes(needle)) && (least === null || (scores[node] !== null && scores[node] >= least))) {
        kept[node] = 2;
        found++;
      }
      if (kept[node] && !kept[data.parent[node]]) kept[data.parent[node]] = 1;
    }
    kept[0] = 1;
    at("count").textContent = `${thousands(found)} of ${thousands(size - 1)} steps`;
  }
  layOut();
};
const filter = () => {
  at("tree").scrollTop = 0;
  sift();
};
const clearFilter = () => {
  at("needle").value = "";
  at("least").value = "";
  filter();
};

const page = () => Math.max(1, Math.floor(room() / ROW) - 1);
const step = (by) => choose(rows[Math.min(rows.length - 1, Math.max(0, Math.max(0, row[chosen]) + by))]);
const inside = (node) => children[node].find((child) => row[child] >= 0);
const keys = {
  ArrowDown: () => step(1),
  ArrowUp: () => step(-1),
  PageDown: () => step(page()),
  PageUp: () => step(-page()),
  Home: () => step(-size),
  End: () => step(size),
  ArrowRight: () => (open[chosen] ? inside(chosen) !== undefined && choose(inside(chosen)) : setOpen(chosen, true)),
  ArrowLeft: () => (open[chosen] && children[chosen].length ? setOpen(chosen, false) : chosen && choose(data.parent[chosen])),
  Enter: () => setOpen(chosen, !open[chosen]),
  " ": () => setOpen(chosen, !open[chosen]),
};
at("tree").addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey || !size || !Object.hasOwn(keys, event.key)) return;
  event.preventDefault();
  if (row[chosen] < 0) choose(0); // a filter has taken it away
  keys[event.key]();
});
at("tree").addEventListener("click", (event) => {
  const found = event.target.closest(".row");
  if (!found) return;
  const node = Number(found.id.slice("node-".length));
  if (event.target.classList.contains("twist")) setOpen(node, !open[node]);
  choose(node);
});
let asked = false;
const redraw = () => {
  if (asked) return;
  asked = true;
  requestAnimationFrame(() => {
    asked = false;
    draw(false);
  });
};
at("tree").addEventListener("scroll", redraw, { passive: true });
addEventListener("resize", redraw);
at("upto").addEventListener("toggle", tellThought);
at("needle").addEventListener("input", filter);
at("least").addEventListener("input", filter);
at("score").addEventListener("change", () => {
  useScore(at("score").value);
  filter();
  tell();
});
at("mark").addEventListener("click", () => choose(data.best, true));
at("all").addEventListener("click", () => {
  open.fill(1);
  layOut();
});
at("none").addEventListener("click", () => {
  open.fill(0);
  layOut();
  choose(0);
});

const useData = () => {
  for (let node = size; node < data.parent.length; node++) {
    const above = data.parent[node];
    children.push([]);
    depth.push(node ? depth[above] + 1 : 0);
    place.push(node ? children[above].push(node) - 1 : 0);
    own.push(data.parent.length <= SMALL || !node ? 1 : 0);
  }
  size = data.parent.length;
  lowered = null;
  best = new Set(data.best === null ? [] : pathTo(data.best));
  const found = Object.keys(data.scores);
  if (found.join() !== names.join()) {
    const before = at("score").value;
    names = found;
    at("score").replaceChildren(...names.map((name) => make("option", "", shown(name))));
    names.forEach((name, index) => (at("score").options[index].value = name));
    if (names.includes(before)) at("score").value = before;
  }
  at("score").parentElement.hidden = at("least").parentElement.hidden = !names.length;
  useScore(names.length ? at("score").value : undefined);
  visited = data.visits.some(Boolean);
  document.body.classList.toggle("unvisited", !visited);
  at("mark").hidden = data.best === null;
  at("mark").textContent = `★ ${data.mark}`;
};

return {
  // Another tree, from its beginning.
  show: (wanted) => {
    data = wanted;
    size = 0;
    [children, depth, place, own, names] = [[], [], [], [], []];
    open = own;
    at("needle").value = at("least").value = "";
    at("score").replaceChildren();
    useData();
    filter();
    choose(data.best === null ? 0 : data.best, true);
  },
  // The same tree, of which there is more: nodes, scores, the one it answers with.
  update: () => {
    useData();
    sift();
    if (facts() !== toldFacts) tell(); // what a reader has marked in the panel stays marked
  },
  choose: (node) => choose(node, true),
};
})();
