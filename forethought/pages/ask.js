import { at, attempt, call, complain, follow } from "/assets/shell.js";

const SLOWEST = 80; // milliseconds between two drawings of a tree that grows
let models = [];
let under = null; // the AbortController of the question that is under way

const chosen = () => models.find((model) => model.name === at("model").value);
const option = (value, text) => {
  const made = make("option", "", shown(text));
  made.value = value;
  return made;
};

const useModel = () => {
  const model = chosen();
  const plain = model.search ? [] : [option("", "one thought")];
  at("search").replaceChildren(...plain, ...model.searches.map((name) => option(name, name)));
  at("search").value = model.search;
  at("effort").replaceChildren(...Object.entries(model.efforts).map(([name, tokens]) =>
    option(name, tokens === null ? name : `${name}, ${thousands(tokens)} tokens`)));
  at("effort").value = model.effort;
  at("summed").checked = model.summary;
  at("summed").parentElement.hidden = !model.summary; // where nobody makes any, all sentences are neutral
};

// The columns that treeView draws, of a tree that has only its root.
const seed = () => ({
  parent: [-1], text: [""], tokens: [null], visits: [0], mean: [null], stop: ["end"], action: ["step"], sampled: [0],
  own: [null], scores: {}, said: {}, best: null, mark: "",
});
const grow = (tree, told) => {
  tree.parent.push(told.parent);
  tree.text.push(told.text ?? null);
  tree.tokens.push(told.cost);
  tree.visits.push(0);
  tree.mean.push(null);
  tree.stop.push(told.stop);
  tree.action.push(told.answer ? "answer" : "step");
  tree.sampled.push(1);
  tree.own.push(null);
  for (const column of Object.values(tree.scores)) column.push(null);
};
const score = (tree, told) => {
  tree.scores.score ??= Array(tree.parent.length).fill(null);
  tree.scores.score[told.node] = told.score;
  if (told.cost) tree.said[told.node] = [`the judge computed ${thousands(told.cost)} tokens`];
};

const seconds = (since) => `${((performance.now() - since) / 1000).toFixed(1)} s`;

const ask = async () => {
  under?.abort();
  const mine = (under = new AbortController());
  const began = performance.now();
  const model = chosen();
  const name = at("search").value && at("search").value !== model.search ? `${model.name}:${at("search").value}` : model.name;
  const body = { model: name, input: at("question").value, stream: true, reasoning: { effort: at("effort").value } };
  if (at("summed").checked) body.reasoning.summary = "auto";

  const tree = seed();
  let [spent, answer, due, last] = [0, "", 0, 0];
  const draw = () => {
    if (under !== mine) return; // it has ended, or another question has begun
    due = 0;
    last = performance.now();
    treeView.update();
    at("answer").textContent = shown(answer);
    const steps = tree.parent.length - 1;
    at("state").textContent = `${answer ? "answering" : "thinking"}: ${thousands(steps)} steps, ${thousands(spent)} tokens, ${seconds(began)}`;
  };
  const soon = () => (due ||= setTimeout(() => requestAnimationFrame(draw), Math.max(0, last + SLOWEST - performance.now())));

  at("outcome").hidden = at("growth").hidden = at("stop").hidden = false;
  at("hidden").hidden = model.show_thoughts;
  at("summing").hidden = true;
  at("summary").replaceChildren();
  at("bill").replaceChildren();
  at("answer").textContent = "";
  at("answer").dataset.empty = "thinking …";
  at("state").textContent = "waiting for its turn";
  treeView.show(tree);

  let ended = "the stream broke off";
  const hear = (told) => {
    switch (told.type) {
      case "forethought.search.grown":
        grow(tree, told);
        spent = told.tokens;
        break;
      case "forethought.search.scored":
        score(tree, told);
        break;
      case "forethought.search.chosen":
        [tree.best, tree.mark] = [told.node, "the search’s answer"];
        break;
      case "response.output_text.delta":
        answer += told.delta;
        break;
      case "response.reasoning_summary_text.done":
        at("summing").hidden = false;
        at("summary").append(make("li", "", shown(told.text)));
        break;
      case "response.completed":
      case "response.incomplete":
        ended = told.type === "response.completed" ? "done" : "cut at its limit";
        bill(told.response.usage, tree);
        break;
      case "response.failed":
        ended = "failed";
        complain(told.response.error.message);
        break;
    }
    soon();
  };
  try {
    await follow("/v1/responses", { body, signal: mine.signal }, hear);
  } catch (error) {
    ended = error.name === "AbortError" ? "stopped" : "failed";
    throw error;
  } finally {
    clearTimeout(due);
    if (under === mine) {
      draw();
      under = null;
      at("stop").hidden = true;
      at("answer").dataset.empty = "no answer";
      at("state").textContent = `${ended} after ${seconds(began)}`;
      if (tree.best !== null) treeView.choose(tree.best);
    }
  }
};

const bill = (usage, tree) => {
  const spent = usage.output_tokens_details;
  const entries = [
    ["question", `${thousands(usage.input_tokens)} tokens, ${thousands(usage.input_tokens_details.cached_tokens)} of them cached`],
    ["drawn", `${thousands(usage.output_tokens)} tokens`],
    ["for thoughts", `${thousands(spent.reasoning_tokens)} tokens`],
    ["for the answer", `${thousands(usage.output_tokens - spent.reasoning_tokens)} tokens`],
    ["steps", thousands(tree.parent.length - 1)],
  ];
  if (spent.judge_tokens) entries.push(["judge", `${thousands(spent.judge_tokens)} tokens`]);
  if (spent.summary_tokens) entries.push(["summary", `${thousands(spent.summary_tokens)} tokens`]);
  pairs(at("bill"), entries);
};

at("model").addEventListener("change", useModel);
at("stop").addEventListener("click", () => under?.abort());
at("ask").addEventListener("submit", (event) => {
  event.preventDefault();
  attempt(ask);
});
at("question").addEventListener("keydown", (event) => {
  if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) at("ask").requestSubmit();
});
attempt(async () => {
  const told = await call("/pages/ask");
  models = told.models;
  at("model").replaceChildren(...models.map((model) => option(model.name, model.name)));
  useModel();
  at("examples").replaceChildren(...told.examples.map((question) => {
    const button = make("button", "", shown(question));
    button.type = "button";
    button.addEventListener("click", () => {
      at("question").value = question;
      at("question").focus();
    });
    return button;
  }));
  at("go").disabled = false;
});
