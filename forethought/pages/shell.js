// What every page's script uses: its data, its key, and what it tells of a fault.

const KEY = "forethought-key"; // in sessionStorage: of this tab, gone with it
export const at = (id) => document.getElementById(id);

export const complain = (message) => {
  at("wrong").hidden = !message;
  at("wrong").textContent = message;
};

// One dialog at a time, whoever asks; everybody who waits gets what was typed.
let asking = null;
const askForKey = () => {
  asking ??= new Promise((told) => {
    const door = at("door");
    door.returnValue = "";
    door.addEventListener("close", () => {
      if (at("key").value) sessionStorage.setItem(KEY, at("key").value.trim());
      at("key").value = "";
      asking = null;
      told();
    }, { once: true });
    door.showModal();
  });
  return asking;
};

const send = async (path, { body, method, signal } = {}) => {
  const key = sessionStorage.getItem(KEY);
  const headers = key ? { authorization: `Bearer ${key}` } : {};
  if (body !== undefined) headers["content-type"] = "application/json";
  const wanted = method ?? (body === undefined ? "GET" : "POST");
  const answer = await fetch(path, { method: wanted, headers, signal, body: body === undefined ? null : JSON.stringify(body) });
  if (answer.status === 401) {
    if (sessionStorage.getItem(KEY) === key) {
      sessionStorage.removeItem(KEY);
      await askForKey();
    }
    if (!sessionStorage.getItem(KEY)) throw new Error("This server asks for a key; without one it tells nothing.");
    return send(path, { body, method, signal });
  }
  at("forget").hidden = !key;
  if (!answer.ok) {
    const told = await answer.json().catch(() => null);
    throw new Error(told?.error?.message ?? `The server answered with ${answer.status}.`);
  }
  return answer;
};

// JSON from a path of this server; an Error with the server's own words where it refuses.
export const call = async (path, options) => (await send(path, options)).json();

// The events of a stream, each given to `hear` as it comes.
export const follow = async (path, options, hear) => {
  const answer = await send(path, options);
  const reader = answer.body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  for (;;) {
    const { done, value } = await reader.read();
    if (done) return;
    const pieces = (rest + value).split("\n\n");
    rest = pieces.pop();
    for (const piece of pieces) {
      const data = piece.split("\n").filter((line) => line.startsWith("data: ")).map((line) => line.slice(6)).join("\n");
      if (data && data !== "[DONE]") hear(JSON.parse(data));
    }
  }
};

// Runs what a page does and says, in one place, what went wrong with it.
export const attempt = async (work) => {
  complain("");
  try {
    await work();
  } catch (error) {
    if (error.name !== "AbortError") complain(error.message);
  }
};

at("forget").hidden = !sessionStorage.getItem(KEY);
at("forget").addEventListener("click", () => {
  sessionStorage.removeItem(KEY);
  location.reload();
});
