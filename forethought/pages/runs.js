import { at, attempt, call, complain } from "/assets/shell.js";

const EACH = 2000; // milliseconds between two looks at the chosen runs
const LIST = 5; // so many looks between two looks at all of them
const MOST = 16; // runs drawn together, as the server has it
const COLOURS = 8;
const HIGH = 190; // pixels
const INITIAL = 24; // metrics drawn before anybody asks for more

let runs = [];
let colours = new Map(); // a chosen run keeps its colour for as long as it is chosen
let told = null; // the last answer that had curves
let seen = "";
let plots = new Map(); // metric to its card, its picture, and what it was made for
let asked = 0; // answers to anything but the last question are dropped
let all = false; // draw more than INITIAL metrics?

const css = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
const colour = (run) => css(`--c${colours.get(run) % COLOURS}`);
const chosen = () => [...colours.keys()];
const ago = (seconds) => {
  const [size, unit] = [[86400, "d"], [3600, "h"], [60, "min"]].find(([one]) => seconds >= one) ?? [1, "s"];
  return `${Math.max(0, Math.floor(seconds / size))} ${unit}`;
};

const choose = (run) => {
  if (colours.size >= MOST) {
    complain(`${MOST} runs are drawn at one time; leave one out first.`);
    return false;
  }
  const used = new Set(colours.values());
  let free = 0;
  while (used.has(free)) free++;
  colours.set(run, free);
  return true;
};

const remember = () => {
  const words = new URLSearchParams(chosen().map((run) => ["run", run]));
  words.set("x", at("x").value);
  history.replaceState(null, "", `#${words}`);
};

const where = (run, now) => {
  const steps = run.step === null ? "no line yet" : run.of === null ? `${thousands(run.step)} lines` : `${thousands(run.step)} of ${thousands(run.of)}`;
  const words = [run.recipe, run.state, steps];
  if (run.state === "running" && run.of !== null && run.seconds_a_step) words.push(`${ago((run.of - run.step) * run.seconds_a_step)} left`);
  else words.push(`${ago(now - run.written)} ago`);
  return words;
};

const list = (now) => {
  const needle = at("sought").value.toLowerCase();
  const kept = runs.filter((run) => run.name.toLowerCase().includes(needle));
  at("list").replaceChildren(...kept.map((run) => {
    const item = make("li");
    const label = make("label");
    const box = make("input");
    box.type = "checkbox";
    box.checked = colours.has(run.name);
    box.addEventListener("change", () => {
      const changed = box.checked ? choose(run.name) : colours.delete(run.name);
      list(now);
      if (changed) look(true);
    });
    const mark = make("span", "mark");
    if (box.checked) mark.style.background = colour(run.name);
    const line = make("span", "where");
    where(run, now).filter(Boolean).forEach((word, at) => {
      line.append(at ? " · " : "", make("span", word === run.state ? run.state : "", shown(word)));
    });
    label.append(box, mark, make("span", "name", shown(run.name)), line);
    if (run.of && run.step !== null && run.state !== "ended") {
      const bar = make("progress");
      [bar.max, bar.value] = [run.of, run.step];
      bar.setAttribute("aria-label", "steps done");
      label.append(bar);
    }
    item.append(label);
    return item;
  }));
};

const lookAtAll = async () => {
  const answer = await call("/pages/runs");
  runs = answer.runs;
  at("all").hidden = !runs.length;
  at("nothing").hidden = Boolean(runs.length);
  at("nothing").textContent = answer.folder === null
    ? "This server was given no folder of runs: start it with --runs FOLDER."
    : `There is no run in ${shown(answer.folder)} yet; one appears here with its first line.`;
  for (const run of chosen()) if (!runs.some((one) => one.name === run)) colours.delete(run);
  list(answer.now);
};

// Curves of one metric, side by side over the union of their places.
const joined = (curves, names) => uPlot.join(names.map((run) => curves[run] ?? [[], []]));
const span = (seconds) => (seconds < 60 ? `${figure(seconds)} s` : seconds < 3600 ? `${figure(seconds / 60)} min` : `${figure(seconds / 3600)} h`);
const short = (value) => (value >= 1e9 ? `${figure(value / 1e9)}B` : value >= 1e6 ? `${figure(value / 1e6)}M` : value >= 1e4 ? `${figure(value / 1e3)}k` : figure(value));
const tick = (value) => (value !== 0 && Math.abs(value) < 1e-3 ? value.toExponential().replace("e-", "e−") : short(value));
const xWords = (value) => (at("x").value === "seconds" ? span(value) : short(value));

const made = (metric, names, width) => {
  const line = () => css("--rule");
  const axis = { stroke: () => css("--soft"), grid: { stroke: line, width: 1 }, ticks: { stroke: line, width: 1 }, font: "11px system-ui, sans-serif" };
  return {
    width,
    height: HIGH,
    legend: { markers: { width: 0, fill: (_, series) => colour(names[series - 1]) } },
    cursor: { sync: { key: "runs" }, drag: { x: true, y: false } },
    scales: { x: { time: false }, y: { distr: at("log").checked ? 3 : 1 } },
    axes: [
      { ...axis, values: (_, ticks) => ticks.map(xWords), size: 34, space: 60 },
      { ...axis, values: (_, ticks) => ticks.map((one) => (one === null ? "" : tick(one))), size: (_, words) => 16 + 6.5 * Math.max(3, ...(words ?? []).map((word) => word.length)) },
    ],
    series: [
      { label: at("x").value, value: (_, value) => (value === null ? "–" : xWords(value)) },
      ...names.map((run) => ({
        label: shown(run),
        stroke: () => colour(run),
        width: 1.6,
        spanGaps: true,
        points: { show: (plot, series) => plot.data[series].filter((y) => y !== null).length < 2 },
        value: (_, value) => (value === null ? "–" : String(Number(value.toPrecision(5)))),
      })),
    ],
  };
};

// A logarithm has no place for what is not above 0.
const above = (data) => (at("log").checked ? [data[0], ...data.slice(1).map((ys) => ys.map((y) => (y > 0 ? y : null)))] : data);

const draw = () => {
  const needle = at("needle").value.toLowerCase();
  const metrics = Object.keys(told?.curves ?? {}).filter((metric) => metric.toLowerCase().includes(needle) && Object.keys(told.curves[metric]).length);
  const drawn = all || needle ? metrics : metrics.slice(0, INITIAL);
  for (const [metric, { card, plot }] of plots) {
    if (drawn.includes(metric)) continue;
    plot.destroy();
    card.remove();
    plots.delete(metric);
  }
  at("more")?.remove();
  drawn.forEach((metric, place) => {
    const names = chosen().filter((run) => told.curves[metric][run]);
    const data = above(joined(told.curves[metric], names));
    const form = JSON.stringify([names, names.map((run) => colours.get(run)), at("x").value, at("log").checked]);
    let one = plots.get(metric);
    if (!one) {
      const card = make("section", "card plot");
      card.append(make("h2", "", shown(metric)));
      one = { card, plot: null, form: "" };
      plots.set(metric, one);
    }
    if (at("plots").children[place] !== one.card) at("plots").insertBefore(one.card, at("plots").children[place] ?? null);
    if (one.form !== form) {
      one.plot?.destroy();
      one.plot = new uPlot(made(metric, names, one.card.clientWidth - 20), data, one.card);
      one.form = form;
      one.card.setAttribute("aria-label", `${shown(metric)} of ${names.map(shown).join(", ")}`);
    } else {
      one.plot.setData(data);
    }
  });
  if (drawn.length < metrics.length) {
    const button = make("button", "", `Draw the other ${thousands(metrics.length - drawn.length)} metrics`);
    button.id = "more";
    button.addEventListener("click", () => {
      all = true;
      draw();
    });
    at("plots").append(button);
  }
};

const say = () => {
  const names = chosen();
  if (!names.length) return (at("state").textContent = "Choose a run.");
  const lines = names.reduce((sum, run) => sum + (told?.lines?.[run] ?? 0), 0);
  const broken = Object.values(told?.broken ?? {}).reduce((sum, count) => sum + count, 0);
  const x = at("x").value;
  const words = [`${thousands(lines)} lines of ${names.length === 1 ? "one run" : `${names.length} runs`}`];
  if (told && lines && !Object.values(told.curves).some((by) => Object.keys(by).length)) words.push(`none of them says its ${x}`);
  if (broken) words.push(`${thousands(broken)} lines cannot be read and are left out`);
  if (Number(at("smooth").value)) words.push("a moving average is drawn");
  at("state").textContent = `${words.join("; ")}. Drag over a picture to look closer; a double click shows all again.`;
};

// One look: `fresh` where something else is asked than the last time.
const look = (fresh) => attempt(async () => {
  const mine = ++asked;
  if (fresh) {
    seen = "";
    remember();
    configs();
  }
  if (!chosen().length) {
    told = null;
    draw();
    return say();
  }
  const words = new URLSearchParams(chosen().map((run) => ["run", run]));
  words.set("x", at("x").value);
  words.set("smooth", at("smooth").value);
  if (seen) words.set("seen", seen);
  const answer = await call(`/pages/runs/curves?${words}`);
  if (mine !== asked) return;
  if (answer.curves) {
    told = answer;
    draw();
    say();
  }
  seen = answer.seen;
});

const known = new Map(); // configs by run: what a run was begun with does not change
const flat = (value, name = "", found = new Map()) => {
  if (value !== null && typeof value === "object" && !Array.isArray(value)) {
    for (const [key, inner] of Object.entries(value)) flat(inner, name ? `${name}.${key}` : key, found);
  } else {
    found.set(name, typeof value === "string" ? value : JSON.stringify(value));
  }
  return found;
};
const configs = async () => {
  const names = chosen();
  at("settings").hidden = !names.length;
  if (!at("settings").open || !names.length) return;
  await attempt(async () => {
    for (const run of names) {
      if (!known.has(run)) known.set(run, flat(await call(`/pages/runs/config?${new URLSearchParams({ run })}`)));
    }
    const keys = [...new Set(names.flatMap((run) => [...known.get(run).keys()]))];
    const head = make("tr");
    head.append(make("th", "", ""), ...names.map((run) => make("th", "", shown(run))));
    const rows = keys.flatMap((key) => {
      const values = names.map((run) => known.get(run).get(key) ?? "–");
      const differs = new Set(values).size > 1;
      if (at("differ").checked && !differs) return [];
      const row = make("tr", differs ? "differs" : "");
      row.append(make("th", "", shown(key.replace(/^config\./, ""))), ...values.map((value) => make("td", "", shown(value))));
      return [row];
    });
    const [top, body] = [make("thead"), make("tbody")];
    top.append(head);
    body.append(...rows);
    at("config").replaceChildren(top, body);
  });
};

const anew = () => {
  for (const one of plots.values()) one.form = "";
  draw();
};
at("x").addEventListener("change", () => look(true));
at("smooth").addEventListener("input", () => {
  at("smoothed").textContent = Number(at("smooth").value) ? at("smooth").value : "off";
});
at("smooth").addEventListener("change", () => look(true));
at("log").addEventListener("change", draw);
at("needle").addEventListener("input", draw);
at("sought").addEventListener("input", () => list(Date.now() / 1000));
at("settings").addEventListener("toggle", configs);
at("differ").addEventListener("change", configs);
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => {
  list(Date.now() / 1000);
  anew();
});
new ResizeObserver(() => {
  for (const { card, plot } of plots.values()) plot.setSize({ width: card.clientWidth - 20, height: HIGH });
}).observe(at("plots"));
window.addEventListener("hashchange", () => location.reload()); // an address that somebody was given

let looks = 0;
const again = async () => {
  if (at("live").checked && document.visibilityState === "visible") {
    if (++looks % LIST === 0 || !runs.length) await attempt(lookAtAll);
    if (chosen().length) await look(false);
  }
  setTimeout(again, EACH);
};

attempt(async () => {
  const words = new URLSearchParams(location.hash.slice(1));
  if (["step", "tokens", "seconds"].includes(words.get("x"))) at("x").value = words.get("x");
  words.getAll("run").forEach(choose);
  await lookAtAll();
  if (!chosen().length && runs.length) choose(runs[0].name);
  list(Date.now() / 1000);
  await look(true);
  setTimeout(again, EACH);
});
