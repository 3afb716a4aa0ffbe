// Where columns and samples come from: elements of this page, or the local server.

const summary = JSON.parse(document.getElementById("summary").textContent);

async function unpack(element) {
  const bytes = Uint8Array.from(atob(element.textContent), (c) => c.charCodeAt(0));
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"));
  return JSON.parse(await new Response(stream).text());
}

// An embedded element may lie in a part of the file that has not arrived yet.
function arrived(id) {
  return new Promise((resolve, reject) => {
    const look = () => {
      const found = document.getElementById(id);
      // A script element is complete when something follows it or the document is complete.
      if (found && (found.nextSibling || document.readyState !== "loading")) resolve(found);
      else if (document.readyState !== "loading") reject(new Error("this part is missing from the file"));
      else setTimeout(look, 30);
    };
    look();
  });
}

const embedded = {
  columns: async (run, task) => unpack(await arrived(`columns-${run}-${task}`)),
  remarks: async () => unpack(await arrived("doubts")),
  block: async (run, task, block) => unpack(await arrived(`block-${run}-${task}-${block}`)),
  async search(run, task, text, count) {
    const wanted = text.toLowerCase(), places = [];
    for (let block = 0; block * summary.block < count; block++) {
      const samples = await cachedBlock(run, task, block);
      samples.forEach((sample, i) => {
        const texts = [...sample.prompts, ...sample.requests.map((r) => r.continuation || ""), ...sample.responses.map((r) => r.text || "")];
        if (texts.some((one) => one.toLowerCase().includes(wanted))) places.push(block * summary.block + i);
      });
    }
    return places;
  },
};

async function ask(path, values) {
  const answer = await fetch(`${path}?${new URLSearchParams(values)}`);
  if (!answer.ok) throw new Error(await answer.text());
  return answer.json();
}

const served = {
  columns: (run, task) => ask("/columns", { run, task }),
  remarks: () => ask("/remarks", {}),
  block: (run, task, block) => ask("/block", { run, task, block }),
  search: (run, task, text) => ask("/search", { run, task, text }),
};

const source = summary.embedded ? embedded : served;

// Columns stay; of the blocks the last ones looked at.
const columnsKept = new Map();
const blocksKept = new Map();
const MOST_BLOCKS = 40;

function cachedColumns(run, task) {
  const key = `${run}/${task}`;
  if (!columnsKept.has(key)) columnsKept.set(key, source.columns(run, task));
  return columnsKept.get(key);
}

function cachedBlock(run, task, block) {
  const key = `${run}/${task}/${block}`;
  let found = blocksKept.get(key);
  blocksKept.delete(key);
  if (!found) {
    found = source.block(run, task, block);
    found.catch(() => blocksKept.delete(key));
  }
  blocksKept.set(key, found);
  if (blocksKept.size > MOST_BLOCKS) blocksKept.delete(blocksKept.keys().next().value);
  return found;
}

async function sampleAt(run, task, place) {
  const samples = await cachedBlock(run, task, Math.floor(place / summary.block));
  return samples[place % summary.block];
}
