// One document: what the model was asked, what it answered, and why that counted as it did.

// Special tokens as models spell them, and spaces that one would not see.
const SPECIAL = /<\|[^|<>\n]{1,60}\|>|<\/?s>|\[\/?INST\]|<<\/?SYS>>|<(?:bos|eos|pad|unk|start_of_turn|end_of_turn|think)>|<\/think>/g;

function visible(text, head) {
  const place = make("pre");
  if (head) place.append(make("span", { class: "special", title: "put in front by the tokenizer" }, head));
  let from = 0;
  for (const found of text.matchAll(SPECIAL)) {
    place.append(text.slice(from, found.index), make("span", { class: "special" }, found[0]));
    from = found.index + found[0].length;
  }
  const rest = text.slice(from), trimmed = rest.replace(/[ \n\t]+$/, "");
  place.append(trimmed);
  const tail = rest.slice(trimmed.length);
  if (tail) place.append(make("span", { class: "space", title: "spaces at the end" }, tail.replace(/ /g, "·").replace(/\n/g, "↵\n").replace(/\t/g, "⇥")));
  return place;
}

function plainNumber(value) {
  if (value && typeof value === "object" && "$float" in value) return Number(value.$float.replace("inf", "Infinity").replace("nan", "NaN"));
  return typeof value === "number" ? value : null;
}

function sampleView(run, task, sample, verdict) {
  const { tokenizer } = summary.runs[run];
  const place = make("div");
  const right = verdict === "1" ? make("b", { class: "right" }, "right") : verdict === "0" ? make("b", { class: "wrong" }, "wrong") : null;
  place.append(make("h3", {}, `document ${sample.index}  `, right, make("span", { class: "soft" }, `  ${sample.doc_digest.slice(0, 12)}`)));
  const choices = task.output_type === "multiple_choice";
  place.append(...(choices ? choiceView(sample, verdict) : answerView(sample)));
  place.append(make("h3", {}, "what counted"), itemTable(sample));
  const notes = flagNotes(sample);
  if (notes.length) place.append(make("p", { class: "soft" }, notes.join("; ")));
  sample.prompts.forEach((prompt, i) => {
    const several = sample.prompts.length > 1 ? ` ${i}` : "";
    const head = tokenizer.adds_bos && !SPECIAL_START.test(prompt) ? "BOS" : prompt === "" ? "BOS or EOS" : null;
    place.append(make("h3", {}, `prompt${several}`), visible(prompt, head));
  });
  return place;
}

const SPECIAL_START = new RegExp(`^(?:${SPECIAL.source})`);

// The choices are the requests that share a prompt; those without context only serve mutual information.
function choiceView(sample, verdict) {
  const conditional = sample.requests.map((request, i) => ({ request, response: sample.responses[i], i })).filter(({ request }) => sample.prompts.length === 1 || sample.prompts[request.prompt] !== "");
  const inPrompt = new Set(conditional.map(({ request }) => request.continuation)).size === 1 && conditional.length > 1;
  const rows = conditional.map(({ request, response }) => {
    const text = inPrompt ? sample.prompts[request.prompt] : request.continuation;
    const length = [...text.trimStart()].length || 1;
    return { text: inPrompt ? `…${text.slice(-80)}` : text, logprob: plainNumber(response.logprob), length, greedy: response.is_greedy };
  });
  const finite = rows.filter((row) => row.logprob !== null && Number.isFinite(row.logprob));
  const top = Math.max(...finite.map((row) => row.logprob));
  const mass = finite.reduce((sum, row) => sum + Math.exp(row.logprob - top), 0);
  const best = rows.findIndex((row) => row.logprob === top);
  const gold = goldOf(sample, rows);
  const table = make("table", {}, make("tr", {}, ...["", "choice", "log-likelihood", "per character", "share", "greedy"].map((name, i) => make("th", { class: i > 1 ? "number" : null }, name))));
  rows.forEach((row, i) => {
    const marks = [gold.includes(i) ? "✓ key" : "", i === best ? "▸ chosen" : ""].filter(Boolean).join(" ");
    table.append(make("tr", {}, make("td", { class: gold.includes(i) ? "right" : i === best ? "wrong" : null }, marks), make("td", {}, row.text),
      make("td", { class: "number" }, shown(row.logprob)), make("td", { class: "number" }, row.logprob === null ? "" : shown(row.logprob / row.length)),
      make("td", { class: "number" }, row.logprob === null ? "" : `${(100 * Math.exp(row.logprob - top) / mass).toFixed(1)} %`), make("td", { class: "number" }, row.greedy ? "yes" : "")));
  });
  const parts = [table];
  if (verdict === "0" && gold.length && best >= 0 && !gold.includes(best)) {
    const gap = top - Math.max(...gold.map((i) => rows[i].logprob));
    parts.push(make("p", {}, `Counted wrong: choice ${best} is ${shown(gap, 3)} nats more likely than the key (choice ${gold.join(", ")}), ${shown(Math.exp(gap), 2)} times as probable.`));
  } else if (verdict === "0") {
    parts.push(make("p", {}, "Counted wrong by the metric's own rule; see what counted below."));
  }
  return parts;
}

function goldOf(sample, rows) {
  const target = Array.isArray(sample.target) ? sample.target : [sample.target];
  return target.map((one) => typeof one === "number" ? one : rows.findIndex((row) => row.text.trim() === String(one).trim())).filter((i) => i >= 0 && i < rows.length);
}

function answerView(sample) {
  const parts = [];
  sample.responses.forEach((response, i) => {
    const request = sample.requests[i];
    if (response.text !== null && response.text !== undefined) {
      parts.push(make("h3", {}, `answer${sample.responses.length > 1 ? ` ${i}` : ""} (${response.tokens} tokens)`), visible(response.text));
    } else {
      parts.push(make("h3", {}, `log-likelihood ${shown(plainNumber(response.logprob))} over ${response.tokens} tokens${response.is_greedy === null ? "" : response.is_greedy ? ", the greedy continuation" : ", not the greedy continuation"}`));
      if (request.continuation) parts.push(visible(request.continuation));
    }
  });
  for (const [name, answer] of Object.entries(sample.answers || {})) parts.push(make("h3", {}, `after the filter ${name}`), visible(asText(answer)));
  if (sample.target !== null && sample.target !== undefined && sample.requests.some((r) => r.kind === "generate_until")) parts.push(make("h3", {}, "wanted"), visible(asText(sample.target)));
  return parts;
}

const asText = (value) => (typeof value === "string" ? value : JSON.stringify(value));

function itemTable(sample) {
  const table = make("table", {}, make("tr", {}, make("th", {}, "metric"), make("th", {}, "filter"), make("th", {}, "this document contributes")));
  for (const [metric, filter, value] of sample.items) table.append(make("tr", {}, make("td", {}, metric), make("td", {}, filter), make("td", {}, typeof value === "number" ? shown(value) : asText(value))));
  return table;
}

function flagNotes(sample) {
  const left = sample.responses.reduce((sum, r) => sum + (r.truncated || 0), 0), cut = sample.responses.reduce((sum, r) => sum + (r.unscored || 0), 0);
  const notes = [];
  if (left) notes.push(`${left} tokens of context did not fit the model`);
  if (cut) notes.push(`${cut} tokens of continuations were not scored`);
  if (sample.observed.ties) notes.push("a tie for the best choice: the first counts");
  if (sample.observed.labels_out_of_range) notes.push("the key names no choice");
  return notes;
}
