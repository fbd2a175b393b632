/* ---- Ranks side by side: a bar each at one moment of a step, and the step of each kind of rank along a common time ----
 * Ranks have no common clock. What waits for what puts their events side by side: with stages a forward needs that of the
 * stage before it, a backward that of the stage behind it; without, all ranks do the same at the same time. */
const FORWARD_TAKES = 1, BACKWARD_TAKES = 2, MOST_BARS = 16;

/* run.ranks: what the log's other ranks are, each kind with its own log. */
function readRanks(run, number) {
  const element = document.getElementById('ranks-' + number);
  run.ranks = null;
  if (!element) return;
  const all = JSON.parse(element.textContent);
  element.remove();
  for (const kind of all.kinds) {
    const log = kind.log && document.getElementById(kind.log);
    kind.run = kind.own ? run : log ? readLog(log, '') : null;
  }
  all.shown = all.kinds.filter(kind => kind.run && kind.run.n);
  run.ranks = all;
}

/* Two runs are drawn on one scale. */
function commonScale(runs) {
  const all = runs.map(run => run.ranks).filter(Boolean);
  for (const one of all) one.least = Math.max(...all.flatMap(other => other.kinds.map(kind => Math.max(kind.planned, kind.measured))));
}

/* ---- The common time of a step ---- */
/* A step's events in stretches: a micro-batch's forward or backward, and what comes behind the last. The events of one micro-batch
 * are as many as of another, so a stretch of one phase that is k times as long has k of them. */
function stretches(run, from, to, micro) {
  const forward = run.phases.indexOf('forward'), kindOf = i => (run.phase[i] === forward ? 'forward' : ['backward', 'recompute'].includes(phaseName(run, i)) ? 'backward' : '');
  let last = to;
  if (!(micro <= to - from)) return null;
  while (last > from && kindOf(last - 1) !== 'backward') last--;
  const list = [];
  for (let i = from; i < last; i++) {
    const what = kindOf(i), now = list[list.length - 1];
    if (now && (!what || now.what === what)) now.to = i + 1;
    else list.push({what: what || 'forward', from: i, to: i + 1});
  }
  const parts = [];
  for (const what of ['forward', 'backward']) {
    const own = list.filter(x => x.what === what), all = own.reduce((a, x) => a + x.to - x.from, 0);
    const counts = own.map(x => Math.max(1, Math.round((x.to - x.from) * micro / all)));
    if (counts.reduce((a, b) => a + b, 0) !== micro) return null; /* unlike any schedule that is known */
    let number = 0;
    own.forEach((x, k) => { for (let j = 0; j < counts[k]; j++) parts.push({what, micro: number++, from: Math.round(x.from + (x.to - x.from) * j / counts[k]), to: Math.round(x.from + (x.to - x.from) * (j + 1) / counts[k])}); });
  }
  parts.sort((a, b) => a.from - b.from);
  if (last < to) parts.push({what: 'end', micro: -1, from: last, to});
  return parts;
}

/* When each stretch begins and ends. False where they wait for each other in a circle: then lanes are of another schedule. */
function schedule(lanes, stages) {
  const done = new Map(), key = (stage, part) => stage + part.what + part.micro;
  const at = lanes.map(() => 0), free = lanes.map(() => 0);
  const before = (lane, part) => {
    const stage = lane.kind.stage, other = part.what === 'forward' ? stage - 1 : stage + 1;
    return other < 0 || other >= stages || !lanes.some(l => l.kind.stage === other) ? 0 : done.get(key(other, part));
  };
  for (let moved = true; moved;) {
    moved = false;
    lanes.forEach((lane, k) => {
      for (let part; (part = lane.parts[at[k]]) && part.what !== 'end'; at[k]++, moved = true) {
        const ready = before(lane, part);
        if (ready === undefined) return;
        part.start = Math.max(free[k], ready);
        part.end = free[k] = part.start + (part.what === 'forward' ? FORWARD_TAKES : BACKWARD_TAKES);
        done.set(key(lane.kind.stage, part), part.end);
      }
    });
  }
  const whole = Math.max(...free);
  return lanes.every((lane, k) => {
    const part = lane.parts[at[k]];
    if (part && part.what === 'end') { part.start = whole; part.end = whole + 1; }
    return !part || part.what === 'end';
  });
}

/* Each lane with the time at which each of its events begins; and all of these moments in order. */
function commonTime(ranks, id) {
  const lanes = ranks.shown.filter(kind => kind.run.views[id]).map(kind => {
    const run = kind.run, {from, to} = run.views[id];
    return {kind, run, from, to, parts: ranks.stages > 1 ? stretches(run, from, to, ranks.micro_batches) : null};
  });
  const staged = ranks.stages > 1 && lanes.every(lane => lane.parts) && schedule(lanes, ranks.stages);
  const most = Math.max(...lanes.map(lane => lane.to - lane.from));
  for (const lane of lanes) {
    lane.time = new Float64Array(lane.to - lane.from);
    if (!staged) { lane.parts = null; lane.time.forEach((_, i) => { lane.time[i] = i * most / (lane.to - lane.from); }); continue; }
    for (const part of lane.parts) for (let i = part.from; i < part.to; i++) lane.time[i - lane.from] = part.start + (part.end - part.start) * (i - part.from) / (part.to - part.from);
  }
  const end = staged ? Math.max(...lanes.flatMap(lane => lane.parts.map(part => part.end))) : most;
  const moments = [...new Set(lanes.flatMap(lane => [...lane.time]))].sort((a, b) => a - b);
  return {lanes, staged, end, moments};
}
/* The lane's event at a time; -1 before its first. */
function laneEvent(lane, time) {
  let low = 0, high = lane.time.length;
  while (low < high) { const m = (low + high) >> 1; if (lane.time[m] <= time + 1e-9) low = m + 1; else high = m; }
  return low ? lane.from + low - 1 : lane.from - 1;
}
function lanePart(lane, time) { return lane.parts ? lane.parts.find(part => part.start <= time + 1e-9 && time < part.end - 1e-9) || null : null; }

/* ---- What a rank does and holds ---- */
function doing(lane, time) {
  const i = laneEvent(lane, time);
  if (!lane.parts) return i < lane.from ? 'begins' : phaseName(lane.run, i);
  const part = lanePart(lane, time);
  return !part ? 'waits' : part.what === 'end' ? phaseName(lane.run, i) : part.what + ' ' + (part.micro + 1);
}
function heldAt(lane, i, c) { return i < 0 ? 0 : lane.run.by[i * lane.run.C + c]; }
function totalAt(lane, i) { return i < 0 ? 0 : lane.run.total[i]; }
/* Live activations by the micro-batch that made them; without stages all together. */
function byMicro(lane, i, c) {
  const held = heldAt(lane, i, c);
  if (!lane.parts || lane.run.components[c] !== 'activation' || !held) return [[held, 0]];
  const sums = new Map();
  for (const t of tensorsOf(lane.run, i, c)) {
    const part = lane.parts.find(p => p.from <= t.made && t.made < p.to), micro = part && part.micro >= 0 ? part.micro + 1 : 0;
    sums.set(micro, (sums.get(micro) || 0) + t.bytes);
  }
  return [...sums].sort((a, b) => a[0] - b[0]).map(([micro, bytes]) => [bytes, micro]);
}
/* "layers.3" of "model.layers.3.mlp.up_proj"; the last word where nothing is numbered. */
function layerName(place) {
  const words_ = place.split('.'), at = words_.findIndex(w => /^\d+$/.test(w));
  return at > 0 ? words_[at - 1] + '.' + words_[at] : words_.slice(-1)[0] || 'the model';
}
/* Of each event of the lane, the layer of what was gathered last and is still there. */
function gatheredLayers(lane) {
  const {run} = lane, c = run.components.indexOf('gathered'), names = new Array(lane.to - lane.from).fill('');
  if (c < 0) return names;
  const live = new Map(); /* in the order in which they came */
  for (let i = 0; i < lane.to; i++) {
    const at = run.tensorOf[i], goes = run.kind[i] === FREE || (run.kind[i] === RETAG && run.component[i] !== c);
    if (goes) live.delete(at);
    else if (run.component[i] === c) live.set(at, layerName(placeName(run, run.place[i])));
    if (i >= lane.from && live.size) names[i - lane.from] = [...live.values()].pop();
  }
  return names;
}
function gatheredLayer(lane, i) {
  if (!lane.layers) lane.layers = gatheredLayers(lane);
  return lane.layers[i - lane.from] || '';
}

/* ---- The section ---- */
function ranksSection(run) {
  const all = run.ranks;
  if (!all) return null;
  const section = h('section', {id: 'ranks', 'aria-labelledby': 'ranks-title'}, h('h2', {id: 'ranks-title'}, 'Ranks side by side'));
  put(section, h('p', {class: 'headline'}, all.why), all.saving ? h('p', {class: 'lead'}, all.saving) : null,
    all.notes.map(text => h('p', {class: 'notice', role: 'note'}, text)));
  if (all.shown.length) ranksPicture(run, all, section);
  section.append(asTable('The ranks as a table', () => ranksTable(all)));
  return section;
}
function bringsTogether(all) {
  return all.stages > 1 ? 'The ranks\u2019 events stand side by side as they wait for each other, a backward twice as long as a forward; not by their clocks. Numbers are micro-batches.'
    : 'The ranks do the same at the same moment.';
}
function ranksPicture(run, all, section) {
  const views = Object.values(run.views).filter(v => v.id.startsWith('step') && all.shown.every(kind => kind.run.views[v.id]));
  if (!views.length) return;
  const state = {all, id: (views.find(v => v.id === run.firstView) || views[views.length - 1]).id, index: 0};
  const setStep = id => { state.id = id; Object.assign(state, commonTime(all, id)); measureLanes(state); };
  setStep(state.id);
  const bars = h('div', {class: 'bars', 'aria-hidden': 'true'}), readout = h('p', {class: 'readout'});
  const drawBars = () => drawNewBars(state, bars);
  const chart = explorer({
    label: 'What each rank holds, over the moments of a step', range: () => [0, state.moments.length - 1], start: () => fullestMoment(state),
    at: x => momentAt(state, x), draw: width => drawLanes(state, width),
    text: i => momentOfRanks(state, i),
    move: event => { if (event.isTrusted || event.pressure) stop(); return false; },
    key: event => { stop(); if (event.key !== 'p' && event.key !== 'P') return false; chart.go(fullestMoment(state)); return true; },
    show: i => { state.index = i; showLaneMoment(state, i); drawBars(); readout.replaceChildren(...readoutOf(state, i)); },
  });
  let timer = 0;
  const play = h('button', {class: 'plain', type: 'button', 'aria-pressed': 'false', onclick: () => (timer ? stop() : run_())}, 'Play the step');
  function stop() { if (timer) clearInterval(timer); timer = 0; play.textContent = 'Play the step'; play.setAttribute('aria-pressed', 'false'); }
  function run_() {
    let time = chart.index >= state.moments.length - 1 ? 0 : state.moments[chart.index];
    play.textContent = 'Stop';
    play.setAttribute('aria-pressed', 'true');
    timer = setInterval(() => {
      time += state.end / 260;
      chart.go(lastMoment(state, time));
      if (time >= state.end || !section.isConnected) stop();
    }, 50);
  }
  put(section, h('div', {class: 'controls'}, views.length > 1 ? choice('Show', views.map(v => [v.id, v.name]), state.id, id => { stop(); setStep(id); chart.draw(); }) : null, play),
    h('div', {class: 'ranks'}, h('div', {}, h('h3', {}, 'Each rank at this moment'), bars),
      h('div', {}, h('h3', {}, state.all.shown.length > 1 ? 'The step of each' : 'The step'), chart.node)),
    readout, h('ul', {class: 'legend'}, legendOf(state).map(name => h('li', {}, h('i', {class: 'patch', style: {background: paint(name)}}), people(name)))),
    h('p', {class: 'keys hint'}, keyHint('\u2190 \u2192', 'moment'), keyHint('PageUp PageDown', 'a twentieth'), keyHint('Home End', 'begin and end'), keyHint('P', 'fullest moment')),
    h('p', {class: 'small quiet', style: {'max-width': '92ch', 'margin-top': '8px'}}, bringsTogether(all) + (all.kinds.length > all.shown.length ? ' Shown are ' + all.shown.length + ' of ' + count(all.kinds.length) + ' kinds of ranks.' : '')));
  onResize(bars, drawBars);
  section.probe = {state, chart, bars, play};
}

/* The highest sum of a lane, and of all; the moment at which it is reached. */
function measureLanes(state) {
  state.most = 1;
  for (const lane of state.lanes) {
    lane.peak = highest(lane.run, lane.from, lane.to);
    state.most = Math.max(state.most, lane.run.total[lane.peak]);
  }
  state.scale = Math.max(state.most, state.all.least || 0);
  state.gathers = state.lanes.find(lane => { const c = lane.run.components.indexOf('gathered'); for (let i = lane.from; i < lane.to; i++) if (c >= 0 && lane.run.by[i * lane.run.C + c]) return true; return false; });
}
function fullestMoment(state) {
  const lane = state.lanes.reduce((a, b) => (b.run.total[b.peak] > a.run.total[a.peak] ? b : a));
  return lastMoment(state, lane.time[lane.peak - lane.from]);
}
function lastMoment(state, time) {
  let low = 0, high = state.moments.length - 1;
  while (low < high) { const m = (low + high + 1) >> 1; if (state.moments[m] <= time + 1e-9) low = m; else high = m - 1; }
  return low;
}
function legendOf(state) {
  const names = new Set();
  for (const lane of state.lanes) for (const c of lane.run.order) for (let i = lane.from; i < lane.to; i++) if (lane.run.by[i * lane.run.C + c]) { names.add(lane.run.components[c]); break; }
  return [...names].sort((a, b) => rank(a) - rank(b));
}

/* ---- Bars ---- */
/* A bar a rank; where there are many, one a kind of ranks. */
function barsOf(state) {
  const list = [];
  for (const lane of state.lanes) {
    const each = state.all.size <= MOST_BARS && lane.kind.numbers;
    for (const number of each || [null]) list.push({lane, number, label: number === null ? 'rank' + (lane.kind.count > 1 ? 's ' : ' ') + lane.kind.ranks : 'rank ' + number});
  }
  return list.sort((a, b) => (a.number === null ? a.lane.kind.first : a.number) - (b.number === null ? b.lane.kind.first : b.number));
}
function drawNewBars(state, node) {
  const width = Math.max(280, Math.round(node.clientWidth || 480)), list = barsOf(state), time = state.moments[state.index];
  const height = Math.max(340, Math.min(state.lanesHeight || 400, 520)), box = {left: 48, top: 34, width: width - 56, height: height - 34 - 56}, svg = s('svg', {viewBox: '0 0 ' + width + ' ' + height});
  const most = state.scale * 1.06, y = bytes => box.top + box.height * (1 - bytes / most), each = box.width / list.length, wide = Math.min(84, each * .72);
  svg.append(sizeAxis(box, most, y));
  list.forEach((bar, k) => {
    const {lane} = bar, i = laneEvent(lane, time), x = box.left + each * (k + .5) - wide / 2, middle = fixed(x + wide / 2);
    let below = 0;
    for (const c of lane.run.order) for (const [bytes, micro] of byMicro(lane, i, c)) {
      const top = y(below + bytes), tall = y(below) - top;
      below += bytes;
      if (tall <= 0) continue;
      const gap = tall > 3 && micro ? 1 : 0;
      svg.append(s('rect', {class: 'part', x: fixed(x), width: fixed(wide), y: fixed(top + gap), height: Math.max(.2, fixed(tall - gap)), style: {fill: paint(lane.run.components[c])}}));
      if (micro && tall > 13) svg.append(s('text', {class: 'inside ' + onPaint(lane.run.components[c]), x: middle, y: fixed(top + tall / 2 + 4), 'text-anchor': 'middle'}, micro));
    }
    const high = lane.run.total[lane.peak];
    svg.append(s('rect', {class: 'full', x: fixed(x - 3), width: fixed(wide + 6), y: fixed(y(high)), height: fixed(y(0) - y(high))}),
      s('text', {class: 'strong halo', x: middle, y: fixed(y(below) - 7), 'text-anchor': 'middle'}, barSize(below, each)));
    svg.append(...barFoot(state, bar, time, middle, box, each));
  });
  node.replaceChildren(svg);
}
function barSize(bytes, room) {
  const text = size(bytes), value = text.replace(/ .*/, '');
  return [text, value, value.replace(/\..*/, '')].find(t => t.length * 7.6 < room) || '';
}
/* Which rank it is, and what it does now. */
function barFoot(state, bar, time, x, box, room) {
  const at = box.top + box.height, what = doing(bar.lane, time), one = state.all.stages > 1 && bar.number !== null && state.all.size === state.all.stages ? 'stage ' + bar.number : bar.label;
  const fits = list => list.find(text => text.length * 7.2 < room) || '';
  return [s('text', {class: 'strong', x, y: at + 19, 'text-anchor': 'middle'}, fits([one, one.replace(/^\D+/, '')])),
    s('text', {x, y: at + 37, 'text-anchor': 'middle'}, fits([what, what.replace('forward', 'F').replace('backward', 'B').replace('optimizer', 'opt').replace('recompute', 'rec')]))];
}

/* ---- Lanes ---- */
function laneHeight(state, narrow) {
  const n = state.lanes.length;
  return n === 1 ? narrow ? 210 : 250 : n <= 2 ? 150 : n <= 4 ? 84 : n <= 8 ? 52 : 26;
}
const STRIP = 17, LANE_GAP = 14;
function drawLanes(state, width) {
  const narrow = width < 560, left = narrow ? 44 : 62, own = laneHeight(state, narrow), pulse = state.gathers ? 96 : 0;
  const top = 8, each = STRIP + 3 + own + LANE_GAP, height = top + each * state.lanes.length + (pulse ? pulse + 30 : 0) + 6;
  const box = state.box = {left, top, width: width - left - 10, height: height - top - 6}, svg = s('svg', {height});
  state.lanesHeight = height;
  state.x = time => box.left + box.width * time / state.end;
  state.lanes.forEach((lane, k) => svg.append(drawLane(state, lane, {left, width: box.width, top: top + each * k + STRIP + 3, height: own}, narrow)));
  if (pulse) svg.append(drawPulse(state, {left, width: box.width, top: top + each * state.lanes.length + 38, height: pulse - 32}));
  state.overlay = s('g', {});
  svg.append(state.overlay);
  return svg;
}
function momentAt(state, x) { return lastMoment(state, Math.max(0, (x - state.box.left) / state.box.width * state.end)); }
/* What bandPath and outlinePath want, of a lane. */
function laneView(state, lane, box, most) {
  const view = {from: lane.from, to: lane.to, y: b => box.top + box.height * (1 - b / most),
    x: i => state.x(i < lane.to ? lane.time[i - lane.from] : lane.parts ? lane.parts[lane.parts.length - 1].end : state.end)};
  view.states = visible(lane.run, lane.from, lane.to, view.x, box.width);
  return view;
}
function drawLane(state, lane, box, narrow) {
  const g = s('g', {}), {run} = lane, view = laneView(state, lane, box, state.scale * 1.04), below = new Float64Array(run.n), all = view.states.map((_, k) => k);
  const cls = view.states.length > box.width ? 'area dense' : 'area'; /* an edge would be all that is seen */
  let before = 0; /* what it has of the step before, until its first event */
  for (const c of run.order) {
    if (!view.states.some(i => run.by[i * run.C + c] > 0)) continue;
    const base = below.slice();
    for (const i of view.states) below[i] += run.by[i * run.C + c];
    g.append(s('path', {class: cls, fill: paint(run.components[c]), d: bandPath(view, all, i => base[i], i => below[i])}));
    const kept = heldAt(lane, lane.from - 1, c), until = view.x(lane.from);
    if (kept && until - box.left > .5) g.append(s('rect', {class: 'dense', fill: paint(run.components[c]), x: box.left, width: fixed(until - box.left + .6), y: fixed(view.y(before + kept)), height: fixed(view.y(before) - view.y(before + kept))}));
    before += kept;
  }
  const x = fixed((view.x(lane.peak) + view.x(lane.peak + 1)) / 2), y = fixed(view.y(run.total[lane.peak]));
  g.append(s('line', {class: 'base', x1: box.left, x2: box.left + box.width, y1: box.top + box.height, y2: box.top + box.height}), strips(state, lane, box),
    s('circle', {class: 'ring', stroke: 'var(--ink)', cx: x, cy: y, r: 3}));
  const name = state.all.stages > 1 ? 'stage ' + lane.kind.stage : lane.kind.count === state.all.size ? 'all ' + state.all.size : lane.kind.ranks;
  g.append(s('text', {class: 'strong', x: box.left - 8, y: box.top - 8, 'text-anchor': 'end'}, narrow ? name.replace(/^stage /, '') : name));
  if (box.height >= 26) g.append(axisSize(box, run.total[lane.peak], narrow));
  return g;
}
/* The height of a lane's highest moment, beside it. */
function axisSize(box, bytes, narrow) {
  const [value, unit] = size(bytes).split(' '), at = {x: box.left - 8, y: box.top + 10, 'text-anchor': 'end'};
  return narrow ? s('text', at, value) : s('text', at, value + ' ' + unit);
}
/* Above the area: what the rank does; with stages the micro-batches, and gaps where it waits. */
function strips(state, lane, box) {
  const g = s('g', {}), {run} = lane, y = box.top - STRIP - 3;
  const cells = lane.parts ? lane.parts.map(p => ({x0: state.x(p.start), x1: state.x(p.end), phase: p.what === 'end' ? 'optimizer' : p.what, text: p.micro >= 0 ? String(p.micro + 1) : 'opt'}))
    : bands(run, lane.from, lane.to).map(b => ({x0: state.x(lane.time[b.from - lane.from]), x1: b.to < lane.to ? state.x(lane.time[b.to - lane.from]) : state.x(state.end), phase: run.phases[b.phase], text: run.phases[b.phase]}));
  for (const {x0, x1, phase, text} of cells) {
    g.append(s('rect', {class: 'cell-' + phase, x: fixed(x0), y, width: Math.max(.5, fixed(x1 - x0 - 1)), height: STRIP, rx: 2, style: {fill: 'var(--phase-' + Math.min(5, Math.max(0, run.phases.indexOf(phase))) + ')'}}));
    const label = [text, SHORT[text] || text.slice(0, 3)].find(t => x1 - x0 > 7 * t.length + 4);
    if (label) g.append(s('text', {x: fixed((x0 + x1) / 2), y: y + 13, 'text-anchor': 'middle'}, label));
  }
  return g;
}
/* Gathered weights on a scale of their own, each stretch named by its layer. */
function drawPulse(state, box) {
  const lane = state.gathers, {run} = lane, c = run.components.indexOf('gathered'), g = s('g', {});
  let most = 1;
  for (let i = lane.from; i < lane.to; i++) most = Math.max(most, run.by[i * run.C + c]);
  const view = laneView(state, lane, box, most * 1.05);
  view.states = Array.from({length: lane.to - lane.from}, (_, i) => lane.from + i);
  g.append(s('line', {class: 'base', x1: box.left, x2: box.left + box.width, y1: box.top + box.height, y2: box.top + box.height}),
    s('path', {class: 'area dense', fill: paint('gathered'), d: bandPath(view, view.states.map((_, k) => k), () => 0, i => run.by[i * run.C + c])}), axisSize(box, most, box.left < 60));
  const spans = [];
  for (let i = lane.from; i < lane.to; i++) {
    const name = gatheredLayer(lane, i), last = spans[spans.length - 1];
    if (!name) continue;
    if (last && last.name === name) last.to = i + 1;
    else spans.push({name, from: i, to: i + 1});
  }
  lane.pulses = spans;
  for (const span of spans) {
    const x0 = view.x(span.from), x1 = view.x(span.to), number = (/\d+$/.exec(span.name) || [''])[0];
    const label = [span.name, number].find(t => t && x1 - x0 > 6.6 * t.length);
    if (label) g.append(s('text', {class: 'halo', x: fixed((x0 + x1) / 2), y: box.top - 4, 'text-anchor': 'middle'}, label));
  }
  g.append(s('text', {class: 'strong', x: box.left, y: box.top - 24}, (state.lanes.length > 1 ? lane.kind.name.replace(/ \(.*/, '').replace(/^./, x => x.toUpperCase()) + ': g' : 'G') + (box.width < 400 ? 'athered weights, by layer' : 'athered weights alone, by the layer that reads them')));
  return g;
}
function showLaneMoment(state, i) {
  const next = i + 1 < state.moments.length ? state.moments[i + 1] : state.end, x = fixed(state.x((state.moments[i] + Math.min(next, state.moments[i] + state.end / 400)) / 2)), {box} = state;
  state.overlay.replaceChildren(s('line', {class: 'cursor', x1: x, x2: x, y1: box.top - 4, y2: box.top + box.height}));
}

/* ---- In words ---- */
function readoutOf(state, i) {
  const time = state.moments[i], out = [];
  state.lanes.slice(0, 8).forEach((lane, k) => out.push(k ? ' \u00b7 ' : '', lane.kind.count > 1 && state.lanes.length === 1 ? 'each rank: ' : lane.kind.name.replace(/ \(.*/, '') + ': ', doing(lane, time) + ' ', h('b', {}, size(totalAt(lane, laneEvent(lane, time))))));
  const lane = state.gathers, layer = lane ? gatheredLayer(lane, laneEvent(lane, time)) : '';
  if (layer) out.push(' \u00b7 gathered: ', h('b', {}, layer));
  return out;
}
function momentOfRanks(state, i) {
  const time = state.moments[i], lane = state.gathers, layer = lane ? gatheredLayer(lane, laneEvent(lane, time)) : '';
  return 'Moment ' + count(i + 1) + ' of ' + count(state.moments.length) + '. ' + state.lanes.map(one => {
    const at = laneEvent(one, time), held = byMicro(one, at, one.run.components.indexOf('activation')).filter(x => x[1]);
    return one.kind.name + ': ' + doing(one, time) + ', ' + size(totalAt(one, at)) + (held.length ? ', activations of micro-batch ' + held.map(x => x[1]).join(', ') : '') + ' (' +
      one.run.order.filter(c => heldAt(one, at, c) > 0).map(c => componentName(one.run, c) + ' ' + size(heldAt(one, at, c))).join(', ') + ')';
  }).join('. ') + (layer ? '. Gathered: ' + layer : '') + '.';
}
/* Micro-batches that have begun and are not over, at most. */
function heldAtMost(kind, all) {
  const views = Object.keys(kind.run ? kind.run.views : {}).filter(id => id.startsWith('step'));
  const view = views.length && kind.run.views[views[views.length - 1]], parts = view ? stretches(kind.run, view.from, view.to, all.micro_batches) : null;
  let now = 0, most = 0;
  for (const part of parts || []) { now += part.what === 'forward' ? 1 : part.what === 'backward' ? -1 : 0; most = Math.max(most, now); }
  return most;
}
function ranksTable(all) {
  const measured = all.kinds.some(kind => kind.measured), process = all.kinds.some(kind => kind.process), shown = bytes => (bytes ? size(bytes) : '\u2013'), staged = all.stages > 1;
  const of = (kind, group) => { const books = kind.run && (kind.run.memory || kind.run.plan); return books && books.groups ? size(books.groups[group]) : '\u2013'; };
  return table('Every distinct rank, planned' + (measured ? ' and measured' : '') + '; what is live at its peak', ['rank', 'peak, planned', ...measured ? ['peak, measured'] : [], 'parameters', 'gradients', 'states', 'activations', 'overhead',
    ...staged ? ['micro-batches at once'] : [], 'needs', ...process ? ['process'] : [], 'sent a step'],
    all.kinds.map(kind => [kind.name, size(kind.planned), ...measured ? [shown(kind.measured)] : [], ...['parameters', 'gradients', 'optimizer_states', 'activations', 'overhead'].map(group => of(kind, group)),
      ...staged ? [heldAtMost(kind, all) || '\u2013'] : [], size(kind.needs), ...process ? [shown(kind.process)] : [], size(kind.sent)]));
}
