// The page: head, summary, comparison, and the documents of the task one looks at.

const runs = summary.runs;
const two = runs.length > 1;

function head() {
  const place = document.getElementById("head");
  runs.forEach((run, i) => {
    place.append(make("h1", {}, two ? make("span", { class: `run-${i}` }, `${run.label}  `) : null, run.name, "  ", make("span", { class: "state soft" }, run.state)),
      make("ul", { class: "facts" }, ...run.facts.map(([name, value]) => make("li", {}, `${name} `, make("b", {}, value)))));
  });
}

const scoreKey = (score) => `${score.metric},${score.filter}`;
const scoreName = (score) => (score.filter === "none" ? score.metric : `${score.metric} (${score.filter})`);

// Sections (groups first) with their scores, the second run's beside the first's.
function sections() {
  const found = [];
  for (const kind of ["groups", "tasks"]) {
    runs[0][kind].forEach((section, task) => {
      const other = two ? runs[1][kind].findIndex((one) => one.name === section.name) : -1;
      found.push({ kind, section, task, other: other < 0 ? null : runs[1][kind][other], otherTask: other });
    });
  }
  return found;
}

function charts() {
  const shares = [], others = new Map();
  for (const { section, other } of sections()) {
    for (const score of section.scores) {
      const twin = other && other.scores.find((one) => scoreKey(one) === scoreKey(score));
      const row = { name: `${section.alias}  ${scoreName(score)}`, scores: two ? [score, twin] : [score] };
      const [low, high] = score.range || [null, null];
      if (low === 0 && high === 1) shares.push(row);
      else {
        const key = `${scoreName(score)}${score.unit ? `, ${score.unit}` : ""}`;
        others.set(key, [...(others.get(key) || []), row]);
      }
    }
  }
  const parts = [];
  const most = 60;
  if (shares.length) parts.push(intervalChart(shares.slice(0, most), 0, 1));
  for (const [name, rows] of others) {
    const values = rows.flatMap((row) => row.scores.filter(Boolean).flatMap((s) => [s.value, s.ci_low, s.ci_high])).map(number).filter((v) => v !== null);
    // A lone value on a scale of its own says less than the table does.
    if (!values.length || (rows.length === 1 && !two)) continue;
    const low = Math.min(...values), high = Math.max(...values), room = (high - low || Math.abs(high) || 1) * 0.15;
    parts.push(make("h3", {}, name), intervalChart(rows.slice(0, most), low - room, high + room));
  }
  if (shares.length > most) parts.unshift(make("p", { class: "soft" }, `the first ${most} of ${shares.length} scores; the table has all`));
  return parts;
}

function scoreTable() {
  const names = ["task", "shots", "metric", ...(two ? ["A", "B"] : ["value"]), "95 % interval", "n"];
  const table = make("table", { id: "scores" }, make("tr", {}, ...names.map((name, i) => make("th", { class: i === 1 || i > 2 ? "number" : null }, name))));
  for (const { kind, section, task, other } of sections()) {
    const open = kind === "tasks" && section.samples !== null;
    section.scores.forEach((score, i) => {
      const twin = other && other.scores.find((one) => scoreKey(one) === scoreKey(score));
      const interval = number(score.ci_low) === null ? "" : `${shown(score.ci_low)} to ${shown(score.ci_high)}`;
      table.append(make("tr", { class: open ? "open" : null, tabindex: open && i === 0 ? 0 : null, "data-task": open ? section.name : null, on: open ? { click: () => openTask(task), keydown: (event) => { if (event.key === "Enter") openTask(task); } } : {} },
        make("td", {}, i === 0 ? section.alias : "", i === 0 && kind === "groups" ? make("span", { class: "soft" }, "  group") : null), make("td", { class: "number" }, i === 0 ? shown(section.shots) : ""), make("td", {}, scoreName(score), score.unit ? make("span", { class: "soft" }, `  ${score.unit}`) : null),
        make("td", { class: "number" }, shown(score.value)), two ? make("td", { class: "number" }, twin ? shown(twin.value) : "") : null, make("td", { class: "number soft", title: score.stderr_method || "" }, interval), make("td", { class: "number" }, shown(score.n))));
    });
  }
  return table;
}

function comparisonTable() {
  const rows = summary.comparison;
  if (!rows.length) return [];
  const columns = [...new Set(rows.flatMap(Object.keys))];
  const table = make("table", { id: "comparison" }, make("tr", {}, ...columns.map((name) => make("th", { class: typeof rows[0][name] === "number" ? "number" : null }, name))));
  for (const row of rows) table.append(make("tr", {}, ...columns.map((name) => make("td", { class: typeof row[name] === "number" ? "number" : null }, shown(row[name])))));
  return [make("h2", {}, "B against A, document by document"), table];
}

// ---- one task -------------------------------------------------------------------------------------------------------

const taskPlace = make("section", { id: "task" });

async function openTask(number) {
  const task = runs[0].tasks[number], other = two ? runs[1].tasks.findIndex((one) => one.name === task.name) : -1;
  taskPlace.replaceChildren(make("h2", {}, task.alias), make("p", { class: "soft" }, "reading the documents ..."));
  taskPlace.scrollIntoView({ behavior: "smooth", block: "start" });
  try {
    const columns = await cachedColumns(0, number);
    const second = other >= 0 && runs[1].tasks[other].samples !== null ? await cachedColumns(1, other) : null;
    showTask(task, number, columns, other, second);
  } catch (error) {
    taskPlace.replaceChildren(make("h2", {}, task.alias), make("p", { class: "notice" }, error.message));
  }
}

// Place in the second run of every document of the first, null where it scored another document under that number.
function twins(columns, second) {
  const where = new Map(second.index.map((index, place) => [index, place]));
  return columns.index.map((index, place) => {
    const twin = where.get(index);
    const same = twin !== undefined && columns.digest.slice(place * 8, place * 8 + 8) === second.digest.slice(twin * 8, twin * 8 + 8);
    return same ? twin : null;
  });
}

function showTask(task, number, columns, other, second) {
  const joined = second && twins(columns, second);
  const metrics = Object.keys(columns.items).filter((name) => columns.items[name].some((value) => value !== null));
  const state = { show: "all", text: "", found: null, metric: metrics[0] || null, order: "number" };
  const sampleBox = make("div", { id: "sample" });
  const table = new DocumentTable(number, 0, async (place) => {
    const parts = [sampleView(0, task, await sampleAt(0, number, place), columns.verdict[place])];
    if (joined && joined[place] !== null) parts.push(make("h2", { class: "run-1" }, "the same document in B"), sampleView(1, runs[1].tasks[other], await sampleAt(1, other, joined[place]), second.verdict[joined[place]]));
    sampleBox.replaceChildren(...parts);
  });
  const count = make("span", { class: "soft", id: "count" });

  const tests = {
    all: () => true,
    right: (place) => columns.verdict[place] === "1",
    wrong: (place) => columns.verdict[place] === "0",
    flagged: (place) => columns.flags[place] !== "0",
    "A right, B wrong": (place) => joined && joined[place] !== null && columns.verdict[place] === "1" && second.verdict[joined[place]] === "0",
    "A wrong, B right": (place) => joined && joined[place] !== null && columns.verdict[place] === "0" && second.verdict[joined[place]] === "1",
  };

  function apply() {
    const test = tests[state.show], inside = state.found && new Set(state.found), places = [];
    for (let place = 0; place < columns.index.length; place++) if (test(place) && (!inside || inside.has(place))) places.push(place);
    const values = state.metric && columns.items[state.metric], sign = state.order === "lowest" ? 1 : -1;
    if (state.order !== "number" && values) places.sort((a, b) => sign * ((values[a] ?? Infinity * sign) - (values[b] ?? Infinity * sign)) || a - b);
    if (state.order === "confidence" && columns.confidence) places.sort((a, b) => columns.confidence[b] - columns.confidence[a] || a - b);
    table.set(columns, places, state.metric);
    count.textContent = `${places.length} of ${columns.index.length} documents`;
  }

  const names = ["all", ...(/[01]/.test(columns.verdict) ? ["right", "wrong"] : []), ...(/[^0]/.test(columns.flags) ? ["flagged"] : []), ...(joined ? ["A right, B wrong", "A wrong, B right"] : [])];
  const buttons = names.map((name) => make("button", { type: "button", "aria-pressed": name === "all" ? "true" : "false", "data-show": name, on: { click: () => {
    state.show = name;
    buttons.forEach((button) => button.setAttribute("aria-pressed", button.dataset.show === name ? "true" : "false"));
    apply();
  } } }, name));
  const metric = make("select", { "aria-label": "metric", on: { change: (event) => { state.metric = event.target.value; apply(); } } }, ...metrics.map((name) => make("option", { value: name }, name)));
  const orders = ["number", ...(metrics.length ? ["lowest", "highest"] : []), ...(columns.confidence ? ["confidence"] : [])];
  const order = make("select", { "aria-label": "order", on: { change: (event) => { state.order = event.target.value; apply(); } } }, ...orders.map((name) => make("option", { value: name }, `by ${name}`)));
  let asked = 0;
  const search = make("input", { type: "search", placeholder: "text in prompt or answer", "aria-label": "search", on: { change: async (event) => {
    const text = event.target.value.trim(), mine = ++asked;
    if (text) count.textContent = "searching ...";
    try {
      const found = text ? await source.search(0, number, text, columns.index.length) : null;
      if (mine !== asked) return;
      state.found = found;
      apply();
    } catch (error) {
      count.textContent = error.message;
    }
  } } });

  const pictures = make("div", { class: "panels" });
  const bins = [columns.reliability, ...(second ? [second.reliability] : [])];
  if (bins[0].length) pictures.append(make("div", {}, make("h3", {}, "reliability of the choices"), reliabilityChart(bins)));
  const spread = columns.confidence ? histogram([columns.confidence]) : state.metric && histogram([columns.items[state.metric]]);
  if (spread) pictures.append(make("div", {}, make("h3", {}, columns.confidence ? "confidence" : state.metric), spread));

  taskPlace.replaceChildren(make("h2", {}, task.alias), pictures, make("div", { class: "bar" }, ...buttons, metrics.length ? metric : null, order, search, count), table.box, sampleBox);
  apply();
}

// What does not hold stands above everything; looking through all samples takes a while.
async function remarks() {
  const place = make("section", { id: "remarks", role: "alert" });
  document.getElementById("head").after(place);
  const say = (lines) => place.append(...lines.map((line) => make("p", { class: "notice" }, line)));
  say(runs.flatMap((run) => run.remarks));
  try {
    say(await source.remarks());
  } catch (error) {
    say([`the samples cannot be checked: ${error.message}`]);
  }
  place.dataset.checked = "yes";
}

head();
remarks();
document.getElementById("main").replaceChildren(make("h2", {}, "Scores"), ...charts(), scoreTable(), ...comparisonTable(), taskPlace);
document.documentElement.dataset.ready = "summary";
