/* What the page shows of one reply. Texts are set as texts: nothing of them is ever read as HTML. */

import { compare } from "./diff.js";

const MOST_COMPARED = 200_000; // characters of both texts

const OUTCOMES = {
  corrected: "The answer was corrected.",
  unchanged: "The answer is right as it is.",
  passthrough: "There is no correction: this is the answer as it came.",
  blocked: "The answer was withheld.",
  raw: "Nobody corrects this model.",
};

export const part = (id) => document.getElementById(id);

/** An empty reply, for a request that is under way. */
export function begin({ raw }) {
  for (const id of ["outcome", "answer", "correction", "thanks"]) part(id).textContent = "";
  part("result").hidden = false;
  part("result").setAttribute("aria-busy", "true");
  part("result").dataset.outcome = "";
  part("correction-panel").hidden = raw;
  part("stages").hidden = part("feedback").hidden = true;
  part("answer").classList.toggle("waiting", !raw);
  tell(raw ? "The upstream writes." : "The upstream writes; nothing is shown before the correction.");
}

/** The turns before the question, where the conversation is kept. */
export function showTurns(turns) {
  const lines = turns.map(({ role, content }) => {
    const line = document.createElement("p");
    line.className = role;
    line.textContent = content;
    return line;
  });
  part("conversation").replaceChildren(...lines);
  part("conversation").hidden = lines.length === 0;
}

/** A further piece of what the client gets. */
export function add(text, { raw }) {
  part(raw ? "answer" : "correction").append(text);
  if (!raw) tell("The correction is being written.");
}

/** One sentence on how it stands. */
export function tell(sentence) {
  // Said again, the same sentence would be read out again.
  if (part("status").textContent !== sentence) part("status").textContent = sentence;
}

/** The whole reply, with what was changed. */
export function finish({ text, refusal, report, usage, raw }) {
  const outcome = raw ? "raw" : report.outcome;
  const original = report?.original ?? null;
  close(outcome);
  tell([OUTCOMES[outcome] ?? "", raw ? "" : reasonOf(report), tokensOf(usage)].filter(Boolean).join(" "));
  if (refusal) part("correction").textContent = refusal;
  if (!raw) {
    if (original === null) part("answer").textContent = "The original is not shown here.";
    else if (refusal || !text) part("answer").textContent = original;
    else showChanges(original, text);
  }
  showStages(report?.stages ?? []);
}

/** The end of a request that failed or was stopped. */
export function fail(outcome, sentence) {
  close(outcome);
  tell(sentence);
}

function close(outcome) {
  part("result").setAttribute("aria-busy", "false");
  part("result").dataset.outcome = outcome;
  part("outcome").textContent = outcome;
  part("answer").classList.remove("waiting");
}

function reasonOf({ reason, similarity }) {
  if (reason) return `The reason is ${reason.replaceAll("_", " ")}.`;
  const changed = typeof similarity === "number" && similarity < 1;
  return changed ? `${Math.round(100 * similarity)} % of it stayed.` : "";
}

function tokensOf(usage) {
  return usage ? `${usage.total_tokens} tokens in all.` : "";
}

function showChanges(before, after) {
  if (before.length + after.length > MOST_COMPARED) {
    part("answer").textContent = before;
    return;
  }
  const [left, right] = compare(before, after);
  part("answer").replaceChildren(...left.map((run) => marked(run, "del")));
  part("correction").replaceChildren(...right.map((run) => marked(run, "ins")));
}

function marked({ same, text }, tag) {
  if (same) return document.createTextNode(text);
  const mark = document.createElement(tag);
  mark.textContent = text;
  return mark;
}

function showStages(stages) {
  const longest = Math.max(1, ...stages.map((stage) => stage.milliseconds));
  const rows = stages.map((stage) => {
    const row = document.createElement("tr");
    const name = stage.round > 1 ? `${stage.stage}, round ${stage.round}` : stage.stage;
    const by = stage.version ?? stage.answered_by ?? stage.name;
    const failed = stage.reason ? ` (${stage.reason.replaceAll("_", " ")})` : "";
    for (const text of [name, by + failed, String(stage.usage.total_tokens)]) cell(row, text);
    const time = cell(row, String(Math.round(stage.milliseconds)));
    const bar = document.createElement("meter");
    Object.assign(bar, { min: 0, max: longest, value: stage.milliseconds });
    bar.setAttribute("aria-hidden", "true");
    time.append(bar);
    return row;
  });
  part("stages").tBodies[0].replaceChildren(...rows);
  part("stages").hidden = rows.length === 0;
}

function cell(row, text) {
  const made = document.createElement("td");
  made.textContent = text;
  row.append(made);
  return made;
}
