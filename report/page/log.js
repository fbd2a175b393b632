/* ---- A run log, read into columns ---- */
/* Bottom of the stack first: what stays, then what trades places, then the rest. */
const STACK = ['parameter', 'frozen', 'gathered', 'master', 'optimizer', 'gradient', 'activation', 'activation_gradient', 'temporary',
  'workspace', 'communication', 'input', 'buffer'];
const ALLOC = 0, FREE = 1, RETAG = 2;

function readLog(element, letter) {
  const run = {letter, info: null, places: [''], ops: [''], rows: [], columns: null, outline: [], steps: [], stepComponents: 0,
    stride: 1, validations: [], end: null, eventsEnd: null, file: {}, allocated: [], reservedAt: [], pytorch: null};
  for (const line of element.textContent.split('\n')) if (line.trim()) takeLine(run, JSON.parse(line));
  element.remove();
  run.components = (run.info.components || []).map(x => x[0]);
  run.groups = (run.info.components || []).map(x => x[1]);
  run.phases = run.info.phases || [];
  run.order = run.components.map((_, i) => i).sort((a, b) => rank(run.components[a]) - rank(run.components[b]) || a - b);
  run.options = run.info.options || {};
  run.memory = (run.end && run.end.memory) || null;
  run.plan = run.info.plan || (run.memory && run.memory.planned) || null;
  run.books = run.memory || run.plan || {components: {}, groups: {}, peak_bytes: 0, needs_bytes: 0};
  dropContradictions(run);
  makeColumns(run);
  makeTensors(run);
  makeStates(run);
  makeViews(run);
  placeOutline(run);
  return run;
}
function rank(name) { const at = STACK.indexOf(name); return at < 0 ? STACK.length : at; }

function takeLine(run, o) {
  switch (o.kind) {
    case 'run': run.info = o; break;
    case 'places': for (let i = 0; i < o.names.length; i++) run.places[o.from + i] = o.names[i]; break;
    case 'ops': for (let i = 0; i < o.names.length; i++) run.ops[o.from + i] = o.names[i]; break;
    case 'events': run.columns = run.columns || o.columns; for (const row of o.rows) run.rows.push(row); break;
    case 'events_end': run.eventsEnd = o; break;
    case 'outline': for (const x of o.live) run.outline.push(x); break;
    case 'steps': run.steps = o.rows; run.stride = o.stride; run.stepComponents = o.components; break;
    case 'validation': run.validations.push(o); break;
    case 'end': run.end = o; break;
    case 'pytorch': for (const x of o.allocated) run.allocated.push(x); for (const x of o.reserved) run.reservedAt.push(x); break;
    case 'pytorch_end': run.pytorch = o; break;
    case 'file': run.file = o; break;
  }
}

/* Leaves out events that contradict those before them, as after lines that are lost: an allocation that is there, a
 * free or re-tag of one that is not. What the replay says of each event goes with it. */
function dropContradictions(run) {
  const names = run.columns || [], at = name => names.indexOf(name), kind = at('kind'), serial = at('serial'), bytes = at('bytes');
  const live = new Map(), kept = [];
  run.rows.forEach((row, i) => {
    if (row[kind] === ALLOC ? live.has(row[serial]) : live.get(row[serial]) !== row[bytes]) return;
    live.set(row[serial], row[kind] === FREE ? -1 : row[bytes]);
    kept.push(i);
  });
  run.contradictions = run.rows.length - kept.length;
  if (!run.contradictions) return;
  const now = i => { let low = 0, high = kept.length; while (low < high) { const m = (low + high) >> 1; if (kept[m] < i) low = m + 1; else high = m; } return low; };
  run.rows = kept.map(i => run.rows[i]);
  run.allocated = kept.map(i => run.allocated[i]);
  run.reservedAt = run.reservedAt.map(([i, reserved]) => [now(i), reserved]);
  if (run.pytorch) run.pytorch.peak_event = Math.max(0, Math.min(kept.length - 1, now(run.pytorch.peak_event)));
}

function makeColumns(run) {
  const n = run.n = run.rows.length, names = run.columns || [];
  const column = (name, Type) => {
    const at = names.indexOf(name), list = new Type(n);
    if (at >= 0) for (let i = 0; i < n; i++) list[i] = run.rows[i][at];
    return list;
  };
  run.kind = column('kind', Uint8Array);
  run.time = column('time_us', Float64Array);
  run.step = column('step', Float64Array);
  run.phase = column('phase', Uint8Array);
  run.component = column('component', Uint8Array);
  run.from = column('from', Uint8Array);
  run.place = column('place', Int32Array);
  run.op = column('op', Int32Array);
  run.serial = column('serial', Float64Array);
  run.offset = column('offset', Float64Array);
  run.high = column('end', Uint8Array);
  run.bytes = column('bytes', Float64Array);
  run.requested = column('requested', Float64Array);
  run.rows = null;
  nameUnknown(run);
}
/* A number that names no component stands for one more, "unknown". */
function nameUnknown(run) {
  const known = run.components.length;
  let found = false;
  for (const list of [run.component, run.from]) for (let i = 0; i < list.length; i++) if (list[i] >= known) { list[i] = known; found = true; }
  if (!found) return;
  run.components.push('unknown');
  run.groups.push('overhead');
  run.order.push(known);
}
function opName(run, op) { return run.ops[op] === undefined ? 'unknown' : run.ops[op] || 'the script'; }

/* tensors[i]: one allocation, from the event that makes it to the one that frees it (n: not in the log). */
function makeTensors(run) {
  const bySerial = new Map();
  run.tensors = [];
  run.tensorOf = new Int32Array(run.n).fill(-1);
  for (let i = 0; i < run.n; i++) {
    let at = bySerial.get(run.serial[i]);
    if (run.kind[i] === ALLOC) {
      at = run.tensors.length;
      bySerial.set(run.serial[i], at);
      run.tensors.push({index: at, serial: run.serial[i], made: i, freed: run.n, bytes: run.bytes[i], requested: run.requested[i],
        place: run.place[i], op: run.op[i], first: run.component[i], retags: null, offset: run.offset[i], high: run.high[i]});
    }
    if (at === undefined) continue;
    run.tensorOf[i] = at;
    if (run.kind[i] === FREE) run.tensors[at].freed = i;
    if (run.kind[i] === RETAG) (run.tensors[at].retags = run.tensors[at].retags || []).push([i, run.component[i]]);
  }
  run.bySerial = bySerial;
}
function componentAt(tensor, event) {
  let c = tensor.first;
  if (tensor.retags) for (const [at, to] of tensor.retags) if (at <= event) c = to;
  return c;
}
function liveAt(run, event) { return run.tensors.filter(t => t.made <= event && event < t.freed); }

/* The extent of an end: how far its highest live block reaches. A heap whose dead tops are dropped when they surface. */
class Extent {
  constructor() { this.heap = []; }
  add(tensor) {
    const heap = this.heap;
    let i = heap.push(tensor) - 1;
    for (let up; i > 0 && reach(heap[up = (i - 1) >> 1]) < reach(tensor); i = up) heap[i] = heap[up];
    heap[i] = tensor;
  }
  top(event) {
    const heap = this.heap;
    while (heap.length && heap[0].freed <= event) this.drop();
    return heap.length ? reach(heap[0]) : 0;
  }
  drop() {
    const heap = this.heap, last = heap.pop();
    if (!heap.length) return;
    let i = 0;
    for (let child; (child = 2 * i + 1) < heap.length; i = child) {
      if (child + 1 < heap.length && reach(heap[child + 1]) > reach(heap[child])) child++;
      if (reach(heap[child]) <= reach(last)) break;
      heap[i] = heap[child];
    }
    heap[i] = last;
  }
}
function reach(tensor) { return tensor.offset + tensor.bytes; }

/* After each event: bytes by component, their sum, what was asked for, and what a reservation must hold. */
function makeStates(run) {
  const n = run.n, C = Math.max(1, run.components.length), low = new Extent(), high = new Extent();
  run.C = C;
  run.by = new Float64Array(n * C);
  run.total = new Float64Array(n);
  run.asked = new Float64Array(n);
  run.extent = new Float64Array(n);
  run.peakEvent = -1;
  const now = new Float64Array(C);
  let total = 0, asked = 0;
  for (let i = 0; i < n; i++) {
    const bytes = run.bytes[i], tensor = run.tensors[run.tensorOf[i]];
    if (run.kind[i] === ALLOC) {
      now[run.component[i]] += bytes; total += bytes; asked += run.requested[i];
      (tensor.high ? high : low).add(tensor);
    } else if (run.kind[i] === FREE) {
      now[run.component[i]] -= bytes; total -= bytes; asked -= run.requested[i];
    } else {
      now[run.from[i]] -= bytes; now[run.component[i]] += bytes;
    }
    run.by.set(now, i * C);
    run.total[i] = total;
    run.asked[i] = asked;
    run.extent[i] = low.top(i) + high.top(i);
    if (run.peakEvent < 0 || total > run.total[run.peakEvent]) run.peakEvent = i;
  }
  run.reserved = new Float64Array(n);
  let at = 0, reserved = 0;
  for (let i = 0; i < n; i++) {
    while (at < run.reservedAt.length && run.reservedAt[at][0] <= i) reserved = run.reservedAt[at++][1];
    run.reserved[i] = reserved;
  }
}

/* The plan has evaluations in other places than the run, so the log's outline leaves them out: there the run's own line
 * stands in for it. */
function placeOutline(run) {
  const planned = run.outline, evaluate = run.phases.indexOf('evaluate');
  run.planned = planned.length;
  run.unplanned = 0;
  if (!planned.length) return;
  run.outline = new Float64Array(run.n);
  for (let i = 0, at = 0; i < run.n; i++) {
    if (run.phase[i] === evaluate || at >= planned.length) { run.outline[i] = run.total[i]; run.unplanned++; } else run.outline[i] = planned[at++];
  }
}

/* Parts of the log one can look at, as events [from, to). */
function makeViews(run) {
  const setup = run.phases.indexOf('setup'), views = run.views = {};
  let at = 0;
  while (at < run.n && run.phase[at] === setup) at++;
  if (at) views.setup = {id: 'setup', name: 'Set-up', from: 0, to: at};
  for (let from = at; from < run.n;) {
    let to = from;
    while (to < run.n && run.step[to] === run.step[from]) to++;
    const number = run.step[from] + 1;
    views['step' + number] = {id: 'step' + number, name: 'Step ' + number, from, to};
    from = to;
  }
  if (run.n) views.all = {id: 'all', name: 'All', from: 0, to: run.n};
  /* The step whose moments are shown first: that of the peak, if it is one. */
  const peak = Object.values(views).find(v => v.id.startsWith('step') && v.from <= run.peakEvent && run.peakEvent < v.to);
  run.firstView = peak ? peak.id : Object.keys(views)[0];
}
function phaseName(run, i) { return run.phases[run.phase[i]] || 'unknown'; }
function placeName(run, place) { return run.places[place] === undefined ? 'unknown' : run.places[place] || 'the model itself'; }
function componentName(run, c) { return people(run.components[c] || 'unknown'); }
/* Stretches of one phase in [from, to). */
function bands(run, from, to) {
  const list = [];
  for (let i = from; i < to; i++) {
    const last = list[list.length - 1];
    if (last && last.phase === run.phase[i]) last.to = i + 1;
    else list.push({phase: run.phase[i], from: i, to: i + 1});
  }
  return list;
}
/* Which events to draw when there are more than pixels: of each pixel's the highest and the lowest, so that no peak is
 * lost. `edge(i)` is where event i begins, in pixels. */
function visible(run, from, to, edge, width) {
  const list = [];
  if (to - from <= 2 * width) {
    for (let i = from; i < to; i++) list.push(i);
    return list;
  }
  for (let i = from; i < to;) {
    const pixel = Math.floor(edge(i));
    let most = i, least = i, j = i;
    for (; j < to && Math.floor(edge(j)) === pixel; j++) {
      if (run.total[j] > run.total[most]) most = j;
      if (run.total[j] < run.total[least]) least = j;
    }
    if (most === least) list.push(most);
    else list.push(Math.min(most, least), Math.max(most, least));
    i = Math.max(j, i + 1);
  }
  return list;
}
