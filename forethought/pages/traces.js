import { at, attempt, call } from "/assets/shell.js";

const MOST = 2000; // steps of a trace that are drawn
const CONDITIONS = ["run", "problem", "policy", "stop", "min_reward", "max_reward"];
const picked = new Set(); // ids to compare, two at most
let after = null; // where the page that is shown begins
let more = null; // where the next one does

// What is shown stands behind the # of the address, so that back, forward and a link lead there.
const state = () => new URLSearchParams(location.hash.slice(1));
const go = (wanted) => {
  const found = new URLSearchParams({ store: at("store").value, ...wanted });
  location.hash = found.toString();
};

const query = (path, asked) => call(`/pages/${path}?${new URLSearchParams(asked)}`);
const option = (value, text) => {
  const made = make("option", "", shown(text));
  made.value = value;
  return made;
};

const list = async () => {
  const asked = { store: at("store").value };
  for (const name of CONDITIONS) if (at(name).value !== "") asked[name] = at(name).value;
  if (after) asked.after = after;
  const told = await query("traces", asked);
  more = told.after;
  at("entries").replaceChildren(...told.traces.map((entry) => {
    const row = make("tr");
    row.dataset.id = entry.id;
    const box = make("input");
    box.type = "checkbox";
    box.checked = picked.has(entry.id);
    box.setAttribute("aria-label", `Compare ${entry.id.slice(0, 8)}`);
    box.addEventListener("change", () => {
      if (box.checked) picked.add(entry.id);
      else picked.delete(entry.id);
      tellPicked();
    });
    const name = make("button", "link", entry.id.slice(0, 8));
    name.type = "button";
    name.addEventListener("click", () => go({ trace: entry.id }));
    const cells = [box, name, entry.run, entry.problem_id, entry.policy, figure(entry.reward), thousands(entry.tokens), entry.stop];
    row.append(...cells.map((cell, index) => {
      const made = make("td", index === 5 || index === 6 ? "num" : "");
      made.append(typeof cell === "string" ? shown(cell) : cell);
      return made;
    }));
    return row;
  }));
  if (!told.traces.length) at("entries").append(make("tr"));
  if (!told.traces.length) at("entries").firstChild.append(Object.assign(make("td", "soft", "No trace is so."), { colSpan: 8 }));
  at("list").hidden = false;
  at("list").scrollTop = 0;
  mark();
  at("first").hidden = !after;
  at("next").hidden = !more;
  tellPicked();
};

// The rows whose traces stand below.
const mark = () => {
  const below = [...state().values()];
  for (const row of at("entries").rows) row.classList.toggle("chosen", below.includes(row.dataset.id));
};

const tellPicked = () => {
  at("compare").hidden = picked.size !== 2;
  at("picked").textContent = picked.size === 0 ? "" : picked.size === 1 ? "Pick one more to compare." : picked.size > 2 ? `${picked.size} picked; two can be compared.` : "";
};

const useStore = async () => {
  const told = await query("store", { store: at("store").value });
  at("run").replaceChildren(option("", "any"), ...told.runs.map((run) => option(run.name, run.name)));
  const traces = told.runs.reduce((sum, run) => sum + run.traces, 0);
  const tokens = told.runs.reduce((sum, run) => sum + run.tokens, 0);
  const damaged = told.damaged.length ? `; damaged: ${told.damaged.join("; ")}` : "";
  at("held").textContent = shown(`${thousands(traces)} traces, ${thousands(tokens)} tokens, ${(told.bytes / 1e6).toFixed(1)} MB${damaged}`);
  after = null;
  picked.clear();
};

// How far two traces go together: whole steps, and characters of the next one up to the line in which they part.
const together = (one, other) => {
  let steps = 0;
  while (steps < one.length && steps < other.length && one[steps].text === other[steps].text) steps++;
  const [left, right] = [one[steps]?.text ?? "", other[steps]?.text ?? ""];
  let letters = 0;
  while (letters < left.length && left[letters] === right[letters]) letters++;
  return { steps, letters: left.lastIndexOf("\n", letters - 1) + 1 };
};

const plural = (count, word) => `${thousands(count)} ${word}${count === 1 ? "" : "s"}`;

// One trace as a column; of two, what they have in common is dimmed.
const column = (id, trace, same, alone) => {
  const made = make("article", "card");
  made.append(make("h2", "", shown(trace.problem)));
  const facts = make("dl");
  pairs(facts, [
    ["trace", id.slice(0, 8)], ["policy", trace.policy], ["reward", figure(trace.reward)],
    ["tokens", thousands(trace.tokens)], ["steps", thousands(trace.steps.length)], ["stop", trace.stop],
  ]);
  made.append(facts);
  if (trace.tree) {
    const search = make("button", "", "Its search as a tree");
    search.type = "button";
    search.addEventListener("click", () => go({ tree: id }));
    made.append(search);
  }
  const said = make("ul", "verdicts");
  said.append(...trace.verdicts.map((words) => make("li", "", shown(words))));
  const asked = make("details");
  asked.open = alone;
  asked.append(make("summary", "", "What was asked"));
  for (const [role, content] of trace.messages) asked.append(make("h3", "", shown(role)), make("pre", "", shown(content)));
  made.append(said, asked);
  const steps = make("ol", "steps");
  steps.append(...trace.steps.slice(0, MOST).map((step, index) => {
    const item = make("li", index < same.steps ? "same" : step.sampled ? "" : "written");
    const words = [`${index + 1}`, step.action];
    if (!step.sampled) words.push("written, not drawn");
    if (step.tokens !== null) words.push(`${thousands(step.tokens)} tokens`);
    if (step.value !== null) words.push(`value ${figure(step.value)}`);
    for (const [judge, score] of step.judged) if (score !== null) words.push(`${judge} ${figure(score)}`);
    if (step.stop !== "end" && step.stop !== "stop") words.push(step.stop);
    const text = make("pre");
    const letters = index === same.steps ? same.letters : 0;
    if (letters) text.append(make("span", "same", shown(step.text.slice(0, letters))));
    text.append(shown(step.text.slice(letters)));
    item.append(make("p", "", shown(words.join(" · "))), text);
    return item;
  }));
  made.append(steps);
  if (trace.steps.length > MOST) made.append(make("p", "soft", `and ${thousands(trace.steps.length - MOST)} more steps`));
  return made;
};

const render = async () => {
  const wanted = state();
  const store = at("store").value;
  const ids = ["trace", "with"].map((name) => wanted.get(name)).filter(Boolean);
  const search = wanted.get("tree");
  at("growth").hidden = !search;
  mark();
  at("shown").replaceChildren();
  if (search) {
    const told = await query("tree", { store, id: search, ...(at("run").value && { run: at("run").value }) });
    at("grown").textContent = shown(told.title);
    pairs(at("facts"), told.facts);
    at("note").hidden = !told.note;
    at("note").textContent = shown(told.note);
    treeView.show(told);
    at("growth").scrollIntoView({ block: "start" });
  } else if (ids.length) {
    const traces = await Promise.all(ids.map((id) => query("trace", { store, id })));
    let same = { steps: 0, letters: 0 };
    if (traces.length === 2) {
      same = together(...traces.map((trace) => trace.steps));
      const common = [];
      if (same.steps) common.push(plural(same.steps, "step"));
      if (same.letters) common.push(plural(traces[0].steps[same.steps].text.slice(0, same.letters).split("\n").length - 1, "line"));
      at("shown").append(make("p", "soft", common.length ? `They begin alike, for ${common.join(" and ")}.` : "They differ from the first line on."));
    }
    const side = make("div", traces.length === 2 ? "pair" : "");
    side.append(...traces.map((trace, index) => column(ids[index], trace, same, traces.length === 1)));
    at("shown").append(side);
    at("shown").scrollIntoView({ block: "start" });
  }
};

at("filters").addEventListener("submit", (event) => event.preventDefault());
at("filters").addEventListener("change", (event) => attempt(async () => {
  after = null;
  if (event.target === at("store")) {
    await useStore();
    go({});
  }
  await list();
}));
at("first").addEventListener("click", () => attempt(() => {
  after = null;
  return list();
}));
at("next").addEventListener("click", () => attempt(() => {
  after = more;
  return list();
}));
at("compare").addEventListener("click", () => {
  const [trace, other] = picked;
  go({ trace, with: other });
});
addEventListener("hashchange", () => attempt(render));
attempt(async () => {
  const { stores } = await call("/pages/stores");
  at("store").replaceChildren(...stores.map((name) => option(name, name)));
  if (!stores.length) {
    at("held").textContent = "There is no store below the folder of runs yet.";
    return;
  }
  const wanted = state().get("store");
  if (stores.includes(wanted)) at("store").value = wanted;
  await useStore();
  await list();
  await render();
});
