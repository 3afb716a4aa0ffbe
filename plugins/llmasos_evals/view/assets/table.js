// The documents of a task: filters over columns, and only the rows one can see.

const ROW = 28;

class DocumentTable {
  constructor(task, run, show) {
    this.task = task;
    this.run = run;
    this.show = show;
    this.places = [];
    this.metric = null;
    this.chosen = null;
    this.box = make("div", { id: "rows", tabindex: 0, role: "listbox", "aria-label": "documents", on: { scroll: () => this.paint(), keydown: (event) => this.key(event) } });
    this.space = make("div");
    this.box.append(this.space);
    new ResizeObserver(() => this.paint()).observe(this.box);
  }

  set(columns, places, metric) {
    this.columns = columns;
    this.places = places;
    this.metric = metric;
    this.space.style.height = `${places.length * ROW}px`;
    this.box.scrollTop = 0;
    this.paint();
  }

  paint() {
    if (!this.columns) return;
    const first = Math.max(0, Math.floor(this.box.scrollTop / ROW) - 4);
    const last = Math.min(this.places.length, first + Math.ceil(this.box.clientHeight / ROW) + 8);
    const rows = [];
    for (let i = first; i < last; i++) rows.push(this.row(i));
    this.space.replaceChildren(...rows);
  }

  row(i) {
    const place = this.places[i], { index, verdict, items } = this.columns;
    const mark = verdict[place];
    const text = make("span", { class: "text" });
    const row = make("div", { class: `row${place === this.chosen ? " chosen" : ""}`, style: `top:${i * ROW}px`, role: "option", "data-place": place, "aria-selected": place === this.chosen ? "true" : "false", on: { click: () => this.choose(i) } },
      make("span", { class: "index" }, String(index[place])),
      make("span", { class: `verdict ${mark === "1" ? "right" : mark === "0" ? "wrong" : ""}` }, mark === "1" ? "right" : mark === "0" ? "wrong" : ""),
      make("span", { class: "value" }, this.metric ? shown(items[this.metric][place]) : ""), text);
    const ready = sampleAt(this.run, this.task, place);
    ready.then((sample) => { text.textContent = snippet(sample); }, (error) => { text.textContent = error.message; });
    return row;
  }

  choose(i) {
    this.chosen = this.places[i];
    this.at = i;
    this.paint();
    this.show(this.chosen);
  }

  key(event) {
    const step = { ArrowDown: 1, ArrowUp: -1, PageDown: 14, PageUp: -14 }[event.key];
    if (!step || !this.places.length) return;
    event.preventDefault();
    const i = Math.min(this.places.length - 1, Math.max(0, (this.at ?? -1) + step));
    const top = i * ROW;
    if (top < this.box.scrollTop || top + ROW > this.box.scrollTop + this.box.clientHeight) this.box.scrollTop = top - this.box.clientHeight / 2;
    this.choose(i);
  }
}

// The end of the first prompt is the question; its beginning is the same for every document.
function snippet(sample) {
  const text = sample.prompts.find((prompt) => prompt !== "") || sample.requests[0]?.continuation || "";
  return text.slice(-240).replace(/\s+/g, " ").trim();
}
