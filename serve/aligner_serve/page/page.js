/* Ask, watch the correction come, see what it changed, say what you think of it. */

import * as api from "./api.js";
import * as view from "./view.js";

const part = view.part;
const KEY = "aligner-key"; // of the session: gone with the tab, and never sent anywhere but here

let running = null; // AbortController of the request under way
let shown = null; // the last whole reply, which feedback is about
let turns = []; // of the conversation, where it is kept
let stacks = new Map(); // upstream -> what its answers can be corrected by; "" is nothing

// --- what can be asked ----------------------------------------------------------------------------

async function findModels() {
  try {
    stacks = group(await api.models(key()));
    fill(part("upstream"), [...stacks.keys()]);
    fillAligners();
    part("service").textContent = "ready";
    part("send").disabled = false;
  } catch (error) {
    const needsKey = error.status === 401 || error.status === 403;
    part("service").textContent = needsKey ? "it asks for a key" : `not ready: ${error.message}`;
    part("send").disabled = true;
  }
}

function group(names) {
  const grouped = new Map();
  for (const name of names) {
    const [upstream, ...aligners] = name.split("+");
    grouped.set(upstream, [...(grouped.get(upstream) ?? []), aligners.join("+")]);
  }
  for (const choices of grouped.values()) choices.sort((a, b) => (a === "") - (b === ""));
  return grouped;
}

function fill(select, values) {
  const before = select.selectedIndex < 0 ? null : select.value;
  select.replaceChildren(...values.map((value) => new Option(value || "none", value)));
  if (values.includes(before)) select.value = before;
}

function fillAligners() {
  fill(part("aligner"), stacks.get(part("upstream").value) ?? []);
}

function key() {
  return sessionStorage.getItem(KEY) ?? "";
}

// --- asking ---------------------------------------------------------------------------------------

async function send() {
  if (running || part("send").disabled || !part("ask").reportValidity()) return;
  const question = part("question").value;
  const aligner = part("aligner").value;
  const model = part("upstream").value + (aligner && `+${aligner}`);
  const history = part("keep").checked ? turns : [];
  const raw = aligner === "";
  running = new AbortController();
  const stopClock = startClock();
  busy(true);
  view.showTurns(history);
  view.begin({ raw });
  shown = null;
  let text = "";
  const onText = (piece) => {
    text += piece;
    view.add(piece, { raw });
  };
  try {
    const body = request(model, question, history, raw);
    const end = await api.ask(body, { key: key(), signal: running.signal, onText });
    view.finish({ ...end, text, raw });
    settle({ ...end, text, raw, model, question, history });
  } catch (error) {
    const stopped = error.name === "AbortError";
    view.fail(stopped ? "stopped" : "error", stopped ? "You stopped it." : `${error.message}.`);
  } finally {
    stopClock();
    running = null;
    busy(false);
  }
}

function request(model, question, history, raw) {
  const system = part("system").value.trim();
  const temperature = part("temperature").value;
  const most = part("max-tokens").value;
  return {
    model,
    stream: true,
    stream_options: { include_usage: true },
    messages: [
      ...(system ? [{ role: "system", content: system }] : []),
      ...history,
      { role: "user", content: question },
    ],
    ...(temperature && { temperature: Number(temperature) }),
    ...(most && { max_tokens: Number(most) }),
    ...(!raw && { aligner: { include_original: true } }),
  };
}

/** After a whole reply: what feedback is about, and the conversation so far. */
function settle(reply) {
  const turn = (role, content) => ({ role, content });
  turns = [...reply.history, turn("user", reply.question), turn("assistant", reply.text)];
  if (!reply.text) turns = reply.history;
  const answer = reply.report?.original;
  if (reply.raw || !answer || !reply.text || reply.refusal) return;
  shown = { ...reply, answer };
  part("edited").value = reply.text;
  openEditor(false);
  part("feedback").hidden = false;
  rate(true);
}

function busy(now) {
  part("send").disabled = now;
  part("stop").disabled = !now;
}

function startClock() {
  const start = performance.now();
  const tick = () => {
    part("clock").textContent = `${((performance.now() - start) / 1000).toFixed(1)} s`;
  };
  tick();
  const timer = setInterval(tick, 100);
  return () => {
    clearInterval(timer);
    tick();
  };
}

// --- feedback -------------------------------------------------------------------------------------

async function judge(verdict, edit) {
  const body = {
    request_id: shown.id,
    model: shown.model,
    question: shown.question,
    answer: shown.answer,
    correction: shown.text,
    history: shown.history,
    verdict,
    ...(edit !== undefined && { edit }),
  };
  rate(false);
  try {
    await api.feedback(body, key());
    part("thanks").textContent = "Kept; thank you.";
  } catch (error) {
    rate(true);
    part("thanks").textContent = `${error.message}.`;
  }
}

function rate(possible) {
  for (const button of part("feedback").querySelectorAll("button")) button.disabled = !possible;
}

function openEditor(open) {
  part("own").hidden = !open;
  part("edit").setAttribute("aria-expanded", String(open));
  if (open) part("edited").focus();
}

// --- wiring ---------------------------------------------------------------------------------------

part("key").value = key();
part("key").addEventListener("change", () => {
  sessionStorage.setItem(KEY, part("key").value.trim());
  void findModels();
});
part("upstream").addEventListener("change", fillAligners);
part("ask").addEventListener("submit", (event) => {
  event.preventDefault();
  void send();
});
part("stop").addEventListener("click", () => running?.abort());
part("accept").addEventListener("click", () => void judge("accept"));
part("reject").addEventListener("click", () => void judge("reject"));
part("edit").addEventListener("click", () => openEditor(part("own").hidden));
part("feedback").addEventListener("submit", (event) => {
  event.preventDefault();
  if (part("own").hidden || !shown) return;
  void judge("edit", part("edited").value);
});
document.addEventListener("keydown", (event) => {
  if (event.key === "Escape") running?.abort();
  if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) {
    event.preventDefault();
    if (part("feedback").contains(event.target)) part("feedback").requestSubmit();
    else void send();
  }
});
void findModels();
