/* ---- The timeline of one step ---- */
function timeline(run) {
  const section = h('section', {id: 'timeline', 'aria-labelledby': 'timeline-title'},
    h('h2', {id: 'timeline-title'}, 'One step, allocation by allocation'));
  if (!run.n) {
    section.append(h('p', {class: 'lead'}, 'The log holds no allocation events.'));
    return section;
  }
  const view = {id: run.firstView, axis: 'event', from: 0, to: 0, x: null, y: null, box: null, pick: null, pinned: false,
    component: -1, brush: null, states: null, overlay: null};
  const setView = id => { view.id = id; view.from = run.views[id].from; view.to = run.views[id].to; };
  setView(run.firstView);
  const side = momentPanel(run);
  const chart = explorer({
    label: 'Memory by component over the events of a step',
    range: () => [view.from, view.to - 1],
    start: () => {
      const i = highest(run, view.from, view.to);
      view.component = run.components.indexOf('activation');
      view.pick = largest(tensorsOf(run, i, view.component));
      return i;
    },
    draw: width => drawTimeline(run, view, width),
    at: x => eventAt(run, view, x),
    show: (i, y) => showMoment(run, view, side, i, y),
    text: i => momentText(run, view, i),
    move: (event, x) => moveBrush(view, x),
    down: (event, x) => { if (event.pointerType === 'mouse' && event.button === 0) view.brush = {x, to: x}; },
    up: (event, x, y) => endBrush(x, y),
    leave: () => { dropBrush(view); },
    key: event => pressKey(event),
  });
  const out = h('button', {class: 'plain', type: 'button', onclick: () => { setView(view.id); redraw(); }}, 'Show all of it');
  function redraw() {
    const whole = run.views[view.id];
    out.style.visibility = view.from === whole.from && view.to === whole.to ? 'hidden' : '';
    chart.draw();
  }
  function zoom(from, to) {
    const whole = run.views[view.id];
    if (to - from < 4) return;
    view.from = Math.max(whole.from, from);
    view.to = Math.min(whole.to, to);
    redraw();
  }
  function endBrush(x, y) {
    const brush = view.brush;
    dropBrush(view);
    if (brush && Math.abs(x - brush.x) > 8) {
      zoom(eventAt(run, view, Math.min(x, brush.x)), eventAt(run, view, Math.max(x, brush.x)) + 1);
      return;
    }
    view.pinned = false;
    chart.go(eventAt(run, view, x), y);
    view.pinned = Boolean(view.pick);
    chart.go(chart.index);
  }
  function pressKey(event) {
    const i = chart.index, span = view.to - view.from;
    if (event.key === 'ArrowUp' || event.key === 'ArrowDown') {
      const up = event.key === 'ArrowUp' ? 1 : -1;
      view.pinned = false;
      if (event.shiftKey) stepTensor(run, view, i, up); else stepComponent(run, view, i, up);
      view.pinned = Boolean(view.pick);
    } else if (event.key === 'p' || event.key === 'P') {
      view.pinned = false;
      chart.go(highest(run, view.from, view.to));
      return true;
    } else if (event.key === 'Enter' || event.key === ' ') view.pinned = Boolean(view.pick) && !view.pinned;
    else if (event.key === 'Escape') { view.pinned = false; view.pick = null; view.component = -1; }
    else if (event.key === '+' || event.key === '=') zoom(Math.round(i - span / 4), Math.round(i + span / 4));
    else if (event.key === '-') zoom(view.from - Math.round(span / 2), view.to + Math.round(span / 2));
    else if (event.key === '0') { setView(view.id); redraw(); }
    else return false;
    chart.go(chart.index);
    return true;
  }
  put(section,
    h('p', {class: 'lead'}, 'Every allocation and every free, as they happened. Colours are components; the dashed line is what was planned before the run. Point at an area to see the tensor there.'),
    h('div', {class: 'controls'},
      choice('Show', Object.values(run.views).map(v => [v.id, v.name]), view.id, id => { setView(id); view.pinned = false; view.pick = null; redraw(); drawTable(); }),
      choice('Across', [['event', 'events in order'], ['time', 'time']], 'event', id => { view.axis = id; redraw(); }),
      out),
    h('div', {class: 'with-side'}, h('div', {}, chart.node,
      h('p', {class: 'keys hint'}, keyHint('\u2190 \u2192', 'event'), keyHint('\u2191 \u2193', 'component'), keyHint('Shift \u2191 \u2193', 'tensor'),
        keyHint('P', 'peak'), keyHint('+ \u2212 0', 'zoom, or drag'), keyHint('Enter', 'hold the tensor')),
      planText(run)), side.node));
  const tableBox = h('div', {});
  function drawTable() { tableBox.replaceChildren(asTable('The phases as a table', () => phaseTable(run, run.views[view.id]))); }
  drawTable();
  section.append(tableBox);
  out.style.visibility = 'hidden';
  section.probe = {chart, view};
  return section;
}
function keyHint(keys, what) { return h('span', {}, keys.split(' ').map(k => [h('kbd', {}, k), ' ']), what); }

/* ---- Drawing ---- */
function drawTimeline(run, view, width) {
  const narrow = width < 560, height = view.height || (narrow ? 330 : 452);
  const box = view.box = {left: narrow ? 44 : 56, top: 62, width: width - (narrow ? 52 : 68), height: height - 62 - 44};
  let most = view.least || 1; /* another drawing's scale */
  for (let i = view.from; i < view.to; i++) most = Math.max(most, run.total[i], run.outline[i] || 0);
  most *= 1.04;
  const start = run.time[view.from], end = view.to < run.n ? run.time[view.to] : run.time[run.n - 1], long = Math.max(1, end - start);
  view.x = view.axis === 'time'
    ? i => box.left + box.width * ((i < run.n ? run.time[Math.min(i, run.n - 1)] : end) - start) / long
    : i => box.left + box.width * (i - view.from) / Math.max(1, view.to - view.from);
  view.y = bytes => box.top + box.height * (1 - bytes / most);
  view.most = most;
  view.states = visible(run, view.from, view.to, view.x, box.width);
  const svg = s('svg', {height});
  svg.append(phaseBands(run, view), sizeAxis(box, most, view.y), areas(run, view));
  if (run.outline.length) svg.append(s('path', {class: 'planned', d: outlinePath(view, i => run.outline[i] || 0)}));
  svg.append(areaLabels(run, view), eventAxis(run, view, long, height), peakMark(run, view));
  view.overlay = s('g', {});
  svg.append(view.overlay);
  return svg;
}

/* The next drawn state's left edge is this one's right edge. */
function rightEdge(view, k) { return k + 1 < view.states.length ? view.x(view.states[k + 1]) : view.x(view.to); }

function outlinePath(view, value) {
  let d = '';
  view.states.forEach((i, k) => {
    const y = fixed(view.y(value(i)));
    d += (k ? 'V' + y : 'M' + fixed(view.x(i)) + ' ' + y) + 'H' + fixed(rightEdge(view, k));
  });
  return d;
}

/* The area between two functions of the event. */
function bandPath(view, states, low, high) {
  let d = '', back = '';
  states.forEach((k, at) => {
    const i = view.states[k], x0 = fixed(view.x(i)), x1 = fixed(rightEdge(view, k)), y = fixed(view.y(high(i)));
    d += (at ? 'V' + y : 'M' + x0 + ' ' + y) + 'H' + x1;
    back = 'V' + fixed(view.y(low(i))) + 'H' + x0 + back;
  });
  return d + back + 'Z';
}

function areas(run, view) {
  const g = s('g', {}), C = run.C, below = new Float64Array(run.n);
  for (const c of run.order) {
    let any = false;
    for (const i of view.states) any = any || run.by[i * C + c] > 0;
    if (!any) continue;
    const base = below.slice();
    for (const i of view.states) below[i] += run.by[i * C + c];
    const all = view.states.map((_, k) => k);
    g.append(s('path', {class: 'area', fill: paint(run.components[c]), d: bandPath(view, all, i => base[i], i => below[i])}));
  }
  return g;
}

/* A component's name where it is thickest, if it fits there. */
function areaLabels(run, view) {
  const g = s('g', {}), C = run.C, {box} = view, below = new Float64Array(run.n);
  for (const c of run.order) {
    const base = below.slice(), name = componentName(run, c), wide = name.length * 7.2 + 12;
    let best = null;
    for (const i of view.states) below[i] += run.by[i * C + c];
    const edges = view.states.map(i => view.x(i));
    for (let k = 0, end = 0; k < edges.length; k++) {
      if (run.by[view.states[k] * C + c] * box.height / view.most < 18) continue;
      const from = Math.min(edges[k], box.left + box.width - wide);
      let low = -Infinity, high = Infinity;
      for (let j = k; j < edges.length && edges[j] < from + wide; j++) {
        low = Math.max(low, base[view.states[j]]);
        high = Math.min(high, below[view.states[j]]);
        end = j;
      }
      if (edges.length > 400) k += Math.floor(edges.length / 400);
      const tall = (high - low) * box.height / view.most, middle = Math.abs(from + wide / 2 - box.left - box.width / 2) / box.width;
      if (end >= k && tall >= 18 && (!best || tall - 40 * middle > best.score)) best = {score: tall - 40 * middle, x: from + wide / 2, y: view.y((low + high) / 2)};
    }
    if (best) g.append(s('text', {class: 'inside ' + onPaint(run.components[c]), x: fixed(best.x), y: fixed(best.y + 4), 'text-anchor': 'middle'}, name));
  }
  return g;
}

const SHORT = {forward: 'fwd', backward: 'bwd', recompute: 'rec', optimizer: 'opt', evaluate: 'eval'};
function phaseBands(run, view) {
  const g = s('g', {}), {box} = view;
  for (const band of bands(run, view.from, view.to)) {
    const x0 = view.x(band.from), x1 = view.x(band.to), wide = x1 - x0, name = run.phases[band.phase] || '?';
    g.append(s('rect', {x: fixed(x0), y: box.top - 54, width: Math.max(.5, fixed(wide - 1)), height: 22, rx: Math.min(3, wide / 4),
      style: {fill: 'var(--phase-' + Math.min(5, band.phase) + ')'}}));
    if (wide > 6) g.append(s('line', {class: 'grid', x1: fixed(x0), x2: fixed(x0), y1: box.top - 32, y2: box.top + box.height}));
    const label = [name, SHORT[name] || name.slice(0, 3)].find(text => wide > 7 * text.length + 8);
    if (label) g.append(s('text', {x: fixed((x0 + x1) / 2), y: box.top - 39, 'text-anchor': 'middle'}, label));
  }
  return g;
}

function eventAxis(run, view, long, height) {
  const g = s('g', {}), {box} = view, wanted = box.width < 500 ? 4 : 9, inTime = view.axis === 'time';
  const span = inTime ? long : view.to - view.from, step = niceStep(span / wanted), unit = long >= 2e6 ? 1e6 : 1000;
  for (let v = 0; v <= span; v += step) {
    const x = box.left + box.width * v / span;
    g.append(s('line', {class: 'base', x1: x, x2: x, y1: box.top + box.height, y2: box.top + box.height + 4}),
      s('text', {x, y: box.top + box.height + 18, 'text-anchor': 'middle'}, plainNumber(inTime ? v / unit : v + view.from - run.views[view.id].from)));
  }
  g.append(s('text', {x: box.left + box.width, y: height - 8, 'text-anchor': 'end'},
    inTime ? (unit === 1e6 ? 'seconds' : 'milliseconds') + ' since the first event shown' : 'allocation events, in order'));
  return g;
}

function peakMark(run, view) {
  const g = s('g', {}), {box} = view, i = highest(run, view.from, view.to);
  const x = view.x(i), y = view.y(run.total[i]), right = x > box.left + box.width * .62;
  g.append(s('line', {class: 'cursor', x1: x, x2: x, y1: box.top - 30, y2: y, 'stroke-dasharray': '1 3'}),
    s('circle', {cx: x, cy: y, r: 4, class: 'ring', stroke: 'var(--ink)'}),
    s('text', {class: 'strong halo', x: x + (right ? -8 : 8), y: box.top - 14, 'text-anchor': right ? 'end' : 'start'}, (run.total[i] === run.total[run.peakEvent] ? 'peak ' : 'highest ') + size(run.total[i])));
  return g;
}
function highest(run, from, to) {
  let most = from;
  for (let i = from; i < to; i++) if (run.total[i] > run.total[most]) most = i;
  return most;
}

/* ---- Where the pointer is ---- */
function eventAt(run, view, x) {
  let low = view.from, high = view.to - 1;
  while (low < high) {
    const middle = (low + high + 1) >> 1;
    if (view.x(middle) <= x) low = middle; else high = middle - 1;
  }
  return low;
}
function moveBrush(view, x) {
  if (!view.brush) return false;
  view.brush.to = x;
  const from = Math.min(x, view.brush.x), to = Math.max(x, view.brush.x);
  if (to - from <= 8) return false;
  const {box} = view;
  view.overlay.replaceChildren(s('rect', {class: 'brush', x: from, width: to - from, y: box.top, height: box.height}));
  return true;
}
function dropBrush(view) { view.brush = null; }

/* The component, and in it the tensor, at a height of the stack. Within a component tensors stand by age. */
function pickAt(run, view, i, y) {
  const {box} = view;
  let left = (1 - (y - box.top) / box.height) * view.most;
  view.component = -1;
  view.pick = null;
  if (left < 0) return;
  for (const c of run.order) {
    const bytes = run.by[i * run.C + c];
    if (left < bytes) {
      view.component = c;
      for (const t of run.tensors) {
        if (t.made > i) break;
        if (i >= t.freed || componentAt(t, i) !== c) continue;
        if (left < t.bytes) { view.pick = t; return; }
        left -= t.bytes;
      }
      return;
    }
    left -= bytes;
  }
}
function tensorsOf(run, i, c) { return run.tensors.filter(t => t.made <= i && i < t.freed && componentAt(t, i) === c); }
function largest(list) { return list.reduce((a, b) => (!a || b.bytes > a.bytes ? b : a), null); }
function stepComponent(run, view, i, up) {
  const there = run.order.filter(c => run.by[i * run.C + c] > 0), at = there.indexOf(view.component);
  const next = at < 0 ? (up > 0 ? 0 : there.length - 1) : Math.min(there.length - 1, Math.max(0, at + up));
  view.component = there.length ? there[next] : -1;
  view.pick = largest(tensorsOf(run, i, view.component));
}
function stepTensor(run, view, i, up) {
  if (view.component < 0) { stepComponent(run, view, i, 1); return; }
  const list = tensorsOf(run, i, view.component), at = list.indexOf(view.pick);
  view.pick = list.length ? list[Math.min(list.length - 1, Math.max(0, at + up))] : null;
}

/* Bytes below the tensor, and its component, at each drawn state of its life, by drawn state. Of its own component only older ones lie
 * below it, so that what is made later never moves it. */
function underneath(run, view, tensor) {
  const C = run.C, older = Float64Array.from(run.by.subarray(tensor.made * C, tensor.made * C + C));
  older[tensor.first] -= tensor.bytes;
  const result = new Map();
  let k = 0;
  while (k < view.states.length && view.states[k] < tensor.made) k++;
  let c = tensor.first;
  for (let i = tensor.made; i < Math.min(tensor.freed, view.to) && k < view.states.length; i++) {
    if (i > tensor.made && run.tensorOf[i] === tensor.index) { if (run.kind[i] === RETAG) c = run.component[i]; }
    else if (i > tensor.made && run.tensorOf[i] >= 0 && run.tensors[run.tensorOf[i]].serial < tensor.serial) {
      if (run.kind[i] === FREE) older[run.component[i]] -= run.bytes[i];
      else if (run.kind[i] === RETAG) { older[run.from[i]] -= run.bytes[i]; older[run.component[i]] += run.bytes[i]; }
    }
    if (view.states[k] !== i) continue;
    let base = older[c];
    for (const lower of run.order) { if (lower === c) break; base += run.by[i * C + lower]; }
    result.set(k++, [base, c]);
  }
  return result;
}

function showMoment(run, view, side, i, y) {
  const {box, overlay} = view;
  if (y !== undefined && !view.pinned) pickAt(run, view, i, y);
  else if (view.pick && !view.pinned && (view.pick.made > i || i >= view.pick.freed)) view.pick = null;
  const x = fixed((view.x(i) + view.x(i + 1)) / 2), parts = [];
  if (view.pick) {
    /* A piece for each component that it belongs to in turn. */
    const bases = underneath(run, view, view.pick), pieces = [], byEvent = new Map();
    let before = -1;
    for (const [k, [base, c]] of bases) {
      byEvent.set(view.states[k], base);
      if (c !== before) pieces.push([]);
      pieces[pieces.length - 1].push(k);
      before = c;
    }
    if (pieces.length) parts.push(s('path', {class: 'pick' + (view.pinned ? ' pinned' : ''),
      d: pieces.map(states => bandPath(view, states, e => byEvent.get(e), e => byEvent.get(e) + view.pick.bytes)).join('')}));
  }
  parts.push(s('line', {class: 'cursor', x1: x, x2: x, y1: box.top - 30, y2: box.top + box.height}),
    s('circle', {cx: x, cy: view.y(run.total[i]), r: 3, fill: 'var(--ink)'}));
  overlay.replaceChildren(...parts);
  side.show(i, view);
}

/* ---- In words ---- */
function eventText(run, i) {
  const verb = ['makes', 'frees', 're-tags'][run.kind[i]], op = opName(run, run.op[i]);
  const what = run.kind[i] === RETAG ? componentName(run, run.from[i]) + ' as ' + componentName(run, run.component[i]) : componentName(run, run.component[i]);
  return op + ' ' + verb + ' ' + size(run.bytes[i]) + ' of ' + what + ' in ' + placeName(run, run.place[i]);
}
function momentText(run, view, i) {
  const parts = run.order.filter(c => run.by[i * run.C + c] > 0).map(c => componentName(run, c) + ' ' + size(run.by[i * run.C + c]));
  let text = 'Event ' + count(i - run.views[view.id].from) + ', ' + phaseName(run, i) + (run.total[i] === run.total[run.peakEvent] ? ', the peak' : '') + ': total ' +
    size(run.total[i]) + '; ' + parts.join(', ') + '. ' + eventText(run, i) + '.';
  if (view.pick) text += ' Tensor: ' + tensorRows(run, view.pick, i).map(row => row.join(' ')).join(', ') + '.';
  return text;
}
function when(run, i) {
  const own = Object.values(run.views).find(v => v.id !== 'all' && v.from <= i && i < v.to);
  return (own ? own.name.toLowerCase() + ', ' : '') + phaseName(run, i) + ', event ' + count(i - (own ? own.from : 0));
}
function tensorRows(run, t, i) {
  const tags = [t.first, ...(t.retags || []).map(([, c]) => c)].map(c => words(run.components[c] || 'unknown'));
  const rows = [['layer', placeName(run, t.place)], ['made by', opName(run, t.op)],
    ['size', size(t.bytes) + (t.bytes >= 10240 ? ' (' + exact(t.bytes) + ')' : '')],
    ['component', tags.join(' \u2192 ')], ['made', when(run, t.made)]];
  if (t.freed < run.n) {
    rows.push(['freed', when(run, t.freed)], ['lives', plural(t.freed - t.made, 'event') + ', ' + duration(run.time[t.freed] - run.time[t.made])]);
  } else rows.push(['freed', 'not in the log: it stays']);
  return rows;
}

function momentPanel(run) {
  const head = h('p', {class: 'quiet small'}), total = h('p', {class: 'total'}), what = h('p', {class: 'what quiet small'});
  const rows = new Map(), body = h('tbody', {});
  for (const c of [...run.order].reverse()) {
    const peak = run.books.components[run.components[c]];
    if (peak && !peak.peak) continue;
    const cell = h('td', {}), row = h('tr', {}, h('th', {scope: 'row'}, swatch(run.components[c]), componentName(run, c)), cell);
    rows.set(c, [row, cell]);
    body.append(row);
  }
  const tensor = h('div', {class: 'tensor'});
  const node = h('div', {class: 'side', role: 'group', 'aria-label': 'The moment under the cursor'}, head, total, what,
    h('table', {}, h('tbody', {}, [...body.children])), tensor);
  function show(i, view) {
    head.textContent = when(run, i) + ', ' + duration(run.time[i] - run.time[run.views[view.id].from]) + ' in';
    head.textContent = head.textContent.charAt(0).toUpperCase() + head.textContent.slice(1);
    total.textContent = size(run.total[i]);
    if (run.total[i] === run.total[run.peakEvent]) total.append(h('span', {class: 'tagged'}, 'the peak'));
    const text = eventText(run, i);
    what.textContent = text.charAt(0).toUpperCase() + text.slice(1);
    for (const [c, [row, cell]] of rows) {
      const bytes = run.by[i * run.C + c];
      cell.textContent = bytes ? size(bytes) : '\u2013';
      row.className = c === view.component ? 'now' : bytes ? '' : 'zero';
    }
    if (!view.pick) { tensor.replaceChildren(h('h3', {}, 'No tensor picked'), h('p', {class: 'quiet small'}, 'Point at a coloured area, or press \u2191.')); return; }
    tensor.replaceChildren(h('h3', {}, swatch(run.components[componentAt(view.pick, i)]), view.pinned ? 'Tensor, held' : 'Tensor'),
      h('dl', {}, tensorRows(run, view.pick, i).map(([k, v]) => [h('dt', {}, k), h('dd', {}, breakable(v))])));
  }
  return {node, show};
}

/* ---- Plan beside run ---- */
function planText(run) {
  if (!run.outline.length) return null;
  const both = Math.min(run.n - run.unplanned, run.planned);
  let off = 0, most = 0;
  for (let i = 0; i < run.n; i++) {
    const apart = Math.abs(run.total[i] - run.outline[i]);
    if (apart) off++;
    most = Math.max(most, apart);
  }
  if (!off && both === run.planned) return h('p', {class: 'small quiet'}, 'Planned and measured are equal, to the byte, after each of the ' + count(both) + ' events' + (run.unplanned ? ' outside evaluations.' : '.'));
  return h('p', {class: 'notice small'}, off ? 'Planned and measured differ after ' + plural(off, 'event') + ', by at most ' + exact(most) + '.'
    : 'The events end after ' + count(both) + ' of the ' + count(run.planned) + ' that were planned; up to there both are equal.');
}
function phaseTable(run, view) {
  const there = run.order.filter(c => bands(run, view.from, view.to).some(b => { for (let i = b.from; i < b.to; i++) if (run.by[i * run.C + c]) return true; return false; }));
  return table('Each phase of ' + view.name.toLowerCase() + ', and what was live at its highest moment', ['phase', 'events', 'time', 'at its end', 'highest', ...there.map(c => componentName(run, c))],
    bands(run, view.from, view.to).map(b => {
      const most = highest(run, b.from, b.to);
      return [run.phases[b.phase], count(b.to - b.from), duration(run.time[Math.min(b.to, run.n - 1)] - run.time[b.from]),
        size(run.total[b.to - 1]), size(run.total[most]), ...there.map(c => size(run.by[most * run.C + c]))];
    }));
}
