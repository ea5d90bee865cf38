import { at, attempt, call, complain } from "/assets/shell.js";

const NAME = "forethought-labeller"; // in localStorage: asked once a browser
const KINDS = { 1: ["right", "right"], 0: ["neutral", "neutral"], "-1": ["wrong-one", "wrong"] }; // class and word
const LONG = 16; // characters of a problem's name in the queue: its end tells more than its beginning
const KEYS = { 1: 1, 2: 0, 3: -1 };

let stores = [];
let own = ""; // the labeller
let named = false; // by the key: then nobody is asked
let thoughts = []; // the queue
let shownOne = null; // the thought that is on the page
let current = -1; // its move that the keys act on
let saving = Promise.resolve(); // labels go one after the other, in the order of the keys

const option = (value, text = value) => {
  const made = make("option", "", shown(text));
  made.value = value;
  return made;
};
const query = (words) => new URLSearchParams({ store: at("store").value, labeller: own, ...words });
const asked = () => shownOne.moves.filter((move) => move.asked);

const askName = () => new Promise((told) => {
  const dialog = at("naming");
  at("name").value = own;
  dialog.addEventListener("close", () => {
    const name = at("name").value.trim();
    if (name) {
      own = name;
      localStorage.setItem(NAME, own);
    }
    told();
  }, { once: true });
  dialog.showModal();
});

const tellWho = () => {
  at("who").textContent = own ? `labelling as ${shown(own)}` : "";
  at("rename").hidden = named;
};

const tellQueue = () => {
  at("queue").replaceChildren(...thoughts.map((one) => {
    const item = make("li");
    const button = make("button");
    button.type = "button";
    const words = [one.done ? "done" : one.labelled ? `${one.labelled} of ${one.moves}` : `${one.moves} steps`];
    if (one.others) words.push(`${one.others} other${one.others > 1 ? "s" : ""}`);
    if (one.uncertainty !== null) words.push(`doubt ${one.uncertainty.toFixed(2)}`);
    const name = make("span", "name", shown(one.problem.length > LONG ? `…${one.problem.slice(1 - LONG)}` : one.problem));
    name.title = shown(one.problem);
    button.append(name, make("span", one.done ? "how done" : "how", words.join(" · ")));
    if (one.id === shownOne?.id) button.setAttribute("aria-current", "true");
    button.addEventListener("click", () => attempt(() => open(one.id)));
    item.append(button);
    return item;
  }));
};

const lookAtQueue = async () => {
  const told = await call(`/pages/label/queue?${query({ run: at("run").value, order: at("order").value })}`);
  thoughts = told.thoughts;
  at("count").textContent = `${thousands(told.done)} of ${thousands(told.of)} done`;
  tellQueue();
};

const cell = (tag, words) => make(tag, "", words);
const rowOf = (tag, words) => {
  const row = make("tr");
  row.append(...words.map((word) => cell(tag, word)));
  return row;
};
const lookAtAgreement = async () => {
  const told = await call(`/pages/label/agreement?${query({})}`);
  const table = make("table");
  table.append(rowOf("th", ["labeller", "labels", "thoughts"]));
  table.append(...told.labellers.map((one) => rowOf("td", [shown(one.name), thousands(one.labels), thousands(one.thoughts)])));
  const parts = told.labellers.length ? [table] : [make("p", "soft", "Nobody has labelled anything in this store yet.")];
  if (told.pairs.length) {
    const pairs = make("table");
    pairs.append(rowOf("th", ["both labelled", "steps", "same", "κ"]));
    pairs.append(...told.pairs.map((pair) => rowOf("td", [`${shown(pair.one)}, ${shown(pair.other)}`, thousands(pair.moves), `${Math.round((100 * pair.same) / pair.moves)} %`, figure(pair.kappa)])));
    parts.push(pairs, make("p", "soft", `Krippendorff’s α ${figure(told.alpha)} over ${thousands(told.moves)} steps that two or more labelled.`));
  } else if (told.labellers.length) {
    parts.push(make("p", "soft", "Agreement shows once two have labelled the same steps."));
  }
  at("agreement").replaceChildren(...parts);
};

const drawMove = (move, place) => {
  const item = make("li");
  item.id = `move-${place}`;
  item.setAttribute("role", "option");
  item.setAttribute("aria-selected", String(place === current));
  const number = move.asked ? String(asked().indexOf(move) + 1) : "";
  item.append(make("span", "number", number), make("span", "text", shown(move.text.replace(/\n$/, ""))));
  const mark = make("span", "label", "");
  item.append(mark);
  if (!move.asked) {
    const written = !/^<\/?think>$/.test(move.text.trim());
    item.className = written ? "context written" : "context";
    if (written) mark.textContent = "written";
  }
  if (move.saving !== undefined) {
    item.classList.add("saving");
    mark.textContent = "saving …";
  } else if (move.label !== null) {
    const [name, word] = KINDS[move.label];
    item.classList.add(name);
    mark.textContent = word;
  }
  if (move.asked) item.addEventListener("click", () => stand(place));
  return item;
};

const drawMoves = () => {
  const kept = shownOne.moves.map(drawMove).filter((item, place) => shownOne.moves[place].text.trim());
  at("moves").replaceChildren(...kept);
  if (current >= 0) at("moves").setAttribute("aria-activedescendant", `move-${current}`);
  else at("moves").removeAttribute("aria-activedescendant");
};

const stand = (place) => {
  current = place;
  drawMoves();
  at(`move-${place}`)?.scrollIntoView({ block: "nearest" });
};

const firstOpen = (from = 0) => {
  const open = (move) => move.asked && move.label === null && move.saving === undefined;
  const later = shownOne.moves.findIndex((move, place) => place >= from && open(move));
  return later >= 0 ? later : shownOne.moves.findIndex(open);
};

const say = (words) => (at("state").textContent = words);
const tellDone = () => {
  const left = asked().filter((move) => move.label === null).length;
  if (shownOne.done) say(left ? "Labelled as far as its first wrong step. Enter: the next thought." : "Labelled to its end. Enter: the next thought.");
  else say(`${left} of ${asked().length} steps left.`);
};

const tellOthers = () => {
  const words = Object.entries(shownOne.scores).map(([judge, score]) => `${judge}: ${score === null ? "could not judge" : figure(score)}`);
  for (const [name, labels] of Object.entries(shownOne.others)) {
    const said = asked().map((move, at) => [at + 1, labels[move.end], move.label]).filter(([, label, ours]) => label !== undefined && ours !== null);
    const differ = said.filter(([, label, ours]) => label !== ours);
    const list = differ.map(([number, label]) => `step ${number} ${KINDS[label][1]}`).join(", ");
    words.push(`${name}: ${differ.length ? `differs: ${list}` : `says the same of the ${said.length} steps that both labelled`}`);
  }
  at("after").hidden = !words.length;
  at("others").replaceChildren(...words.map((line) => make("li", "", shown(line))));
};

const show = (told) => {
  shownOne = told;
  at("editor").hidden = true;
  at("title").textContent = shown(told.problem);
  at("edited").hidden = told.edited === null;
  at("edited").textContent = shown(told.edited ?? "");
  at("asked").replaceChildren(...told.messages.flatMap((message) => [make("h3", "", shown(message.role)), make("div", "prose", shown(message.content))]));
  current = firstOpen();
  if (current < 0) current = told.moves.findIndex((move) => move.asked);
  drawMoves();
  tellDone();
  tellOthers();
  tellQueue();
  at("moves").focus({ preventScroll: true });
};

const open = async (id) => {
  show(await call(`/pages/label/thought?${query({ id })}`));
};

const next = async () => {
  await saving;
  await lookAtQueue();
  const one = thoughts.find((thought) => !thought.done && thought.id !== shownOne?.id) ?? thoughts.find((thought) => !thought.done);
  if (one) return open(one.id);
  if (!shownOne && thoughts.length) await open(thoughts[0].id);
  say(thoughts.length ? "You have labelled all thoughts of this run." : "This run has no thought to label.");
};

// What the page says of a label is what the server has said of it: it is coloured when it is on disk.
const put = (label) => {
  const [thought, move] = [shownOne, shownOne?.moves[current]];
  if (!move?.asked) return;
  move.saving = label;
  stand(Math.max(0, firstOpen(current + 1) >= 0 ? firstOpen(current + 1) : current));
  saving = saving.then(() => attempt(async () => {
    try {
      const told = await call("/pages/label/label", { body: { store: at("store").value, id: thought.id, labeller: own, place: move.end, label } });
      move.label = label;
      thought.done = told.done;
      if (told.done) attempt(() => finish(thought)); // nobody's next label waits for this
    } finally {
      delete move.saving;
      if (thought === shownOne) {
        drawMoves();
        tellDone();
      }
    }
  }));
};

// The thought is labelled: what others said of it may be seen now.
const finish = async (thought) => {
  await Promise.all([lookAtQueue(), lookAtAgreement()]);
  const told = await call(`/pages/label/thought?${query({ id: thought.id })}`);
  if (thought !== shownOne) return;
  [thought.others, thought.scores] = [told.others, told.scores];
  tellOthers();
};

const undo = () => {
  saving = saving.then(() => attempt(async () => {
    const told = await call("/pages/label/undo", { body: { store: at("store").value, labeller: own } });
    if (told.place === null) return say("You have no label to take back.");
    const id = told.id ?? shownOne?.id;
    if (id) await open(id);
    const place = shownOne?.moves.findIndex((move) => move.end === told.place) ?? -1;
    if (place >= 0) stand(place);
    say("Taken back.");
    await Promise.all([lookAtQueue(), lookAtAgreement()]);
  }));
};

const edit = () => {
  const move = shownOne?.moves[current];
  if (!move?.asked) return;
  if (!at("model").options.length) return complain("This server has no model to go on with.");
  at("editor").hidden = false;
  at("words").value = move.text.replace(/\n$/, "");
  at("words").focus();
};

const goOn = () => attempt(async () => {
  const move = shownOne.moves[current];
  const body = { store: at("store").value, id: shownOne.id, labeller: own, place: move.end, text: at("words").value, model: at("model").value };
  const form = [...at("editor").elements];
  say("The model goes on …");
  form.forEach((one) => (one.disabled = true));
  try {
    await saving;
    const told = await call("/pages/label/go_on", { body });
    await open(told.id);
    say("Kept as a corrected thought, which names the one it was made of. Its new steps can be labelled.");
    await lookAtRuns();
  } catch (error) {
    say("");
    throw error;
  } finally {
    form.forEach((one) => (one.disabled = false));
  }
});

const move = (by) => {
  const open = shownOne.moves.map((one, place) => (one.asked ? place : -1)).filter((place) => place >= 0);
  const now = open.indexOf(current);
  const there = open[Math.min(open.length - 1, Math.max(0, now + by))];
  if (there !== undefined) stand(there);
};

const act = (key) => {
  if (key in KEYS) return put(KEYS[key]);
  const does = {
    ArrowDown: () => move(1), j: () => move(1), ArrowUp: () => move(-1), k: () => move(-1), e: edit, u: undo,
    Enter: () => attempt(next), n: () => attempt(next), "?": () => (at("help").open = !at("help").open),
  }[key];
  does?.();
  return does;
};

document.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey || document.querySelector("dialog[open]")) return;
  if (event.target.closest("input, select, textarea, summary") || !shownOne) return;
  if (event.key === "Enter" && event.target.closest("button")) return;
  const key = event.key.length === 1 ? event.key.toLowerCase() : event.key;
  if (key in KEYS || "jkeun?".includes(key) || ["ArrowDown", "ArrowUp", "Enter"].includes(key)) {
    event.preventDefault();
    if (!event.repeat || key.startsWith("Arrow") || "jk".includes(key)) act(key);
  }
});
for (const button of document.querySelectorAll("#bar button")) {
  button.addEventListener("click", () => {
    act(button.dataset.key);
    if (button.dataset.key !== "e") at("moves").focus({ preventScroll: true });
  });
}
at("editor").addEventListener("submit", (event) => {
  event.preventDefault();
  goOn();
});
at("words").addEventListener("keydown", (event) => {
  if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) at("editor").requestSubmit();
  if (event.key === "Escape") at("leave").click();
});
at("leave").addEventListener("click", () => {
  at("editor").hidden = true;
  at("moves").focus({ preventScroll: true });
});

const useStore = () => {
  const store = stores.find((one) => one.name === at("store").value);
  const kept = at("run").value;
  at("run").replaceChildren(...store.runs.map((run) => option(run.name, `${run.name} (${thousands(run.traces)})`)));
  if (store.runs.some((run) => run.name === kept)) at("run").value = kept;
};
const lookAtRuns = async () => {
  stores = (await call("/pages/label")).stores;
  useStore();
};
const begin = () => attempt(async () => {
  shownOne = null;
  await Promise.all([next(), lookAtAgreement()]);
});
at("store").addEventListener("change", () => {
  useStore();
  begin();
});
at("run").addEventListener("change", begin);
at("order").addEventListener("change", begin);
at("rename").addEventListener("click", () => attempt(async () => {
  await askName();
  tellWho();
  await begin();
}));

attempt(async () => {
  const told = await call("/pages/label");
  stores = told.stores.filter((store) => store.runs.length);
  at("nothing").hidden = Boolean(stores.length);
  at("nothing").textContent = "There is no store of thoughts here: start the server with --runs FOLDER, where a run or a store is.";
  at("tools").hidden = !stores.length;
  if (!stores.length) return;
  named = told.labeller !== null;
  own = told.labeller ?? localStorage.getItem(NAME) ?? "";
  while (!own) await askName();
  tellWho();
  at("store").replaceChildren(...stores.map((store) => option(store.name)));
  at("model").replaceChildren(...told.models.map((name) => option(name)));
  useStore();
  at("all").hidden = false;
  await begin();
});
