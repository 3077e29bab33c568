/* The gateway's API, as the page needs it. Addresses are relative: a proxy may add a path. */

/** The API said no, or half of a stream came. */
export class Refused extends Error {
  constructor(message, status) {
    super(message);
    this.status = status;
  }
}

/** Served names. */
export async function models(key) {
  const response = await fetch("v1/models", { headers: headers(key) });
  if (!response.ok) throw await refusal(response);
  return (await response.json()).data.map((card) => card.id);
}

/**
 * Ask, and call `onText` with each piece of the reply.
 *
 * Returns `{id, report, usage, refusal}`: the request's id, what was done to the answer, the tokens
 * of both stages, and what stands in place of a text that is withheld.
 */
export async function ask(body, { key, signal, onText }) {
  const response = await post("v1/chat/completions", body, { key, signal });
  const end = { id: response.headers.get("x-request-id"), report: null, usage: null, refusal: "" };
  for await (const event of events(response.body)) {
    if (event.error) throw new Refused(event.error.message, response.status);
    const delta = event.choices?.[0]?.delta ?? {};
    if (delta.content) onText(delta.content);
    if (delta.refusal) end.refusal += delta.refusal;
    end.report = event.aligner ?? end.report;
    end.usage = event.usage ?? end.usage;
  }
  return end;
}

/** Tell what somebody thinks of a correction. */
export async function feedback(body, key) {
  await post("v1/feedback", body, { key });
}

function headers(key) {
  return key ? { Authorization: `Bearer ${key}` } : {};
}

async function post(path, body, { key, signal }) {
  const response = await fetch(path, {
    method: "POST",
    headers: { "Content-Type": "application/json", ...headers(key) },
    body: JSON.stringify(body),
    signal,
  });
  if (!response.ok) throw await refusal(response);
  return response;
}

async function refusal(response) {
  const told = await response.json().catch(() => null);
  const message = told?.error?.message ?? `HTTP ${response.status}`;
  return new Refused(message, response.status);
}

/** The objects of an event stream; comments, which only keep the connection alive, are left out. */
async function* events(stream) {
  const reader = stream.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  for (;;) {
    const { value, done } = await reader.read();
    if (done) throw new Refused("the stream broke off", 200);
    rest += value;
    const blocks = rest.split("\n\n");
    rest = blocks.pop();
    for (const block of blocks) {
      if (block === "data: [DONE]") return;
      if (block.startsWith("data: ")) yield JSON.parse(block.slice("data: ".length));
    }
  }
}
