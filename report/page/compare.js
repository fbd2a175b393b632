/* ---- Two runs on one scale ---- */
function peakOf(run) { return run.books.peak_bytes; }
function atPeak(run, name) { const c = run.books.components[name]; return c ? c.at_peak : 0; }
function label(run) { return h('span', {class: 'tag' + (run.letter === 'B' ? ' b' : '')}, run.letter); }
/* The options in which the two differ, of one of them. */
function differences(run, other) {
  const keys = [...new Set([...Object.keys(run.options), ...Object.keys(other.options)])];
  const parts = keys.filter(k => !['steps', 'seed', 'threads'].includes(k) && (run.options[k] || 0) !== (other.options[k] || 0)).map(k => words(k) + ' ' + (run.options[k] === undefined ? 'none' : run.options[k]));
  if (run.info.model !== other.info.model) parts.unshift(run.info.model);
  return parts.join(', ') || 'the same options';
}
function sameModel(a, b) {
  return a.info.model === b.info.model && a.info.family === b.info.family && a.info.parameters === b.info.parameters;
}
/* What a step took, the first left out because it warms up: the median and the middle half of the steps, or all where
 * they are few. Null where no spread can be told. */
function stepTimes(run) {
  const list = run.steps.slice(1).filter(r => r[SECONDS] > 0).map(r => r[SECONDS] / (r[LAST] - r[FIRST] + 1)).sort((a, b) => a - b), n = list.length;
  if (n < 3) return null;
  const cut = n < 4 ? 0 : n >> 2;
  return {median: list[n >> 1], low: list[cut], high: list[n - 1 - cut]};
}
/* Whether two spreads touch: then nothing is known of which is faster. */
function timesAgree(a, b) { return (a.low <= b.high && b.low <= a.high) || Math.abs(b.median / a.median - 1) < .005; }
/* Seconds with the digits that the spread leaves: two, or three where it is below a fortieth. */
function roughTime(seconds, times) {
  const unit = seconds < .9995 ? [1e3, ' ms'] : [1, ' s'], digits = times.high - times.low < times.median / 40 ? 3 : 2;
  const v = Number((seconds * unit[0]).toPrecision(digits)), decimals = Math.max(0, digits - 1 - Math.floor(Math.log10(v || 1)));
  return (v < 1e3 ? v.toFixed(decimals) : count(v)) + unit[1];
}
function timeWords(a, b) {
  if (!a || !b) return '';
  if (timesAgree(a, b)) return '; a step takes about as long';
  return '; a step takes ' + Math.max(1, Math.round(100 * Math.abs(b.median / a.median - 1))) + ' %' + (b.median > a.median ? ' longer' : ' less time');
}

function compare(a, b) {
  const timeA = stepTimes(a), timeB = stepTimes(b);
  const section = h('section', {id: 'compare', 'aria-labelledby': 'compare-title'}, h('h2', {id: 'compare-title'}, 'Two runs on one scale'),
    h('p', {class: 'headline'}, sameModel(a, b) ? savingWords(a, b, timeWords(timeA, timeB)) : modelWords(a, b)));
  if (a.n && b.n) section.append(overlay(a, b));
  put(section, h('div', {class: 'pair', style: {'margin-top': '30px'}}, h('div', {}, h('h3', {}, 'By component, each at its run\u2019s peak'), bars(a, b)),
    h('div', {}, differenceTable(a, b, timeA, timeB))));
  return section;
}
function savingWords(a, b, time) {
  const saved = peakOf(a) - peakOf(b);
  return [label(b), differences(b, a), saved ? (saved > 0 ? ' saves ' : ' needs ') : ' has the same peak as ',
      saved ? h('b', {}, size(Math.abs(saved)) + ' (' + percent(Math.abs(saved) / peakOf(a)) + ')') : null,
      saved ? (saved > 0 ? ' of the peak of ' : ' more than ') : null, label(a), differences(a, b), time + '.'];
}
/* Of two models nothing is saved: they are not the same work. */
function modelWords(a, b) {
  const one = run => [label(run), run.info.model + ', ' + plural(run.info.parameters, 'parameter') + ', peak ', h('b', {}, size(peakOf(run)))];
  return ['These are different models, so the difference is not what an option saves: ', one(a), '; ', one(b), '.'];
}

function commonViews(a, b) { return Object.values(a.views).filter(v => b.views[v.id]); }

function overlay(a, b) {
  const views = commonViews(a, b), view = {id: views.some(v => v.id === 'step2') ? 'step2' : views[0].id, axis: 'share'}, readout = h('p', {class: 'readout'}), state = {};
  const POINTS = 1000;
  /* The moment at a share of the axis; both runs are as far along. */
  const eventOf = (run, i) => {
    const v = run.views[view.id], share = i / POINTS;
    if (view.axis === 'share') return Math.min(v.to - 1, v.from + Math.floor(share * (v.to - v.from)));
    const t = run.time[v.from] + share * state.long;
    let low = v.from, high = v.to - 1;
    if (t > endOf(run)) return -1;
    while (low < high) { const m = (low + high + 1) >> 1; if (run.time[m] <= t) low = m; else high = m - 1; }
    return low;
  };
  const endOf = run => { const v = run.views[view.id]; return v.to < run.n ? run.time[v.to] : run.time[run.n - 1]; };
  const lengthOf = run => endOf(run) - run.time[run.views[view.id].from];
  const chart = explorer({
    label: 'Both runs, total memory over a step', range: () => [0, POINTS],
    start: () => { const v = a.views[view.id]; return Math.round(POINTS * (highest(a, v.from, v.to) + .5 - v.from) / (v.to - v.from)); },
    at: x => Math.round((x - state.box.left) / state.box.width * POINTS),
    draw: width => {
      const narrow = width < 560, height = narrow ? 280 : 360, box = state.box = {left: narrow ? 44 : 56, top: 28, width: width - (narrow ? 52 : 68), height: height - 28 - 42};
      state.long = Math.max(1, lengthOf(a), lengthOf(b));
      const most = [a, b].reduce((m, run) => { for (let i = run.views[view.id].from; i < run.views[view.id].to; i++) m = Math.max(m, run.total[i]); return m; }, 1) * 1.08;
      state.y = v => box.top + box.height * (1 - v / most);
      const svg = s('svg', {height});
      const tops = [], labels = [];
      svg.append(sizeAxis(box, most, state.y));
      for (const run of [a, b]) {
        const v = run.views[view.id], one = {from: v.from, to: v.to, y: state.y};
        one.x = view.axis === 'share' ? i => box.left + box.width * (i - v.from) / (v.to - v.from)
          : i => box.left + box.width * ((i < v.to ? run.time[i] : endOf(run)) - run.time[v.from]) / state.long;
        one.states = visible(run, v.from, v.to, one.x, box.width);
        const cls = run.letter.toLowerCase();
        svg.append(s('path', {class: 'f-' + cls, d: bandPath(one, one.states.map((_, k) => k), () => 0, i => run.total[i])}), s('path', {class: 'l-' + cls, d: outlinePath(one, i => run.total[i])}));
        const top = highest(run, v.from, v.to), x = one.x(top), right = x > box.left + box.width * .7;
        tops.push(run.total[top]);
        svg.append(s('line', {class: 'level', x1: x, x2: box.left + box.width, y1: state.y(run.total[top]), y2: state.y(run.total[top])}));
        svg.append(s('circle', {class: 'ring', stroke: 'var(--' + (cls === 'a' ? 'other' : 'accent') + ')', cx: x, cy: state.y(run.total[top]), r: 4}));
        const at = state.y(run.total[top]), places = [[x - 7, at - 8, 'end'], [x + 7, at - 8, 'start'], [x - 7, at + 18, 'end'], [x + 7, at + 18, 'start'], [box.left + 6, at - 8, 'start']];
        if (!right) places.unshift(places.splice(1, 1)[0]);
        labels.push({text: run.letter + ' ' + size(run.total[top]), places});
      }
      svg.append(gapArrow(box, state.y, tops, labels, sameModel(a, b)), layLabels(width, labels), shareAxis(box, view.axis, state.long, height));
      state.overlay = s('g', {});
      svg.append(state.overlay);
      return svg;
    },
    text: i => readText(i).map(p => typeof p === 'string' ? p : p.textContent).join(''),
    show: i => {
      const {box} = state, x = box.left + box.width * i / POINTS;
      state.overlay.replaceChildren(s('line', {class: 'cursor', x1: x, x2: x, y1: box.top, y2: box.top + box.height}),
        ...[a, b].map(run => [run, eventOf(run, i)]).filter(p => p[1] >= 0).map(([run, e]) => s('circle', {class: 'dot-' + run.letter.toLowerCase(), cx: x, cy: state.y(run.total[e]), r: 4})));
      readout.replaceChildren(...readText(i));
    },
  });
  function readText(i) {
    const [ea, eb] = [eventOf(a, i), eventOf(b, i)], parts = [];
    parts.push(view.axis === 'share' ? percent(i / POINTS) + ' of the step\u2019s events: ' : duration(i / POINTS * state.long) + ': ');
    for (const [run, e] of [[a, ea], [b, eb]]) parts.push(run.letter + ' ', h('b', {}, e < 0 ? 'done' : size(run.total[e])), e < 0 ? '' : ' in ' + phaseName(run, e), ' \u00b7 ');
    parts.push(ea >= 0 && eb >= 0 ? 'B \u2212 A ' + signed(b.total[eb] - a.total[ea]) : '');
    return parts;
  }
  const box = h('div', {}, h('div', {class: 'controls'}, choice('Show', views.map(v => [v.id, v.name]), view.id, id => { view.id = id; chart.draw(); }),
    choice('Across', [['share', 'share of the events'], ['time', 'time']], 'share', id => { view.axis = id; chart.draw(); })), chart.node, readout,
    asTable('Both runs as a table', () => table('Total memory along ' + a.views[view.id].name.toLowerCase(), ['share of the events', 'A', 'phase', 'B', 'phase', 'B \u2212 A'],
      Array.from({length: 21}, (_, k) => {
        const [ea, eb] = [a, b].map(run => { const v = run.views[view.id]; return Math.min(v.to - 1, v.from + Math.floor(k / 20 * (v.to - v.from))); });
        return [5 * k + ' %', size(a.total[ea]), phaseName(a, ea), size(b.total[eb]), phaseName(b, eb), signed(b.total[eb] - a.total[ea])];
      }))));
  box.probe = {chart};
  return box;
}
/* From one peak to the other, at the right; what it says goes to the labels. */
function gapArrow(box, y, [first, second], labels, share) {
  const g = s('g', {}), x = box.left + box.width - 12, from = y(first), to = y(second), head = from < to ? -5 : 5;
  if (Math.abs(from - to) < 14) return g;
  g.append(s('path', {class: 'arrow', d: 'M' + x + ' ' + from + 'V' + to + 'm-4 ' + head + 'l4 ' + -head + 'l4 ' + head}));
  const middle = (from + to) / 2 + 4, places = [0, -16, 16, -32, 32].map(d => [x - 10, middle + d, 'end']);
  const full = signed(second - first) + (share ? ' (' + change(second / first - 1) + ')' : '');
  labels.push({text: full, places});
  return g;
}
function shareAxis(box, axis, long, height) {
  const g = s('g', {}), span = axis === 'share' ? 100 : long, step = niceStep(span / (box.width < 500 ? 4 : 8)), unit = axis === 'share' ? 1 : 1000;
  for (let v = 0; v <= span; v += step) g.append(s('text', {x: box.left + box.width * v / span, y: box.top + box.height + 17, 'text-anchor': 'middle'}, plainNumber(v / unit)));
  g.append(s('text', {x: box.left + box.width, y: height - 6, 'text-anchor': 'end'}, axis === 'share' ? '% of the step\u2019s events' : 'milliseconds since the step began'));
  return g;
}

function comparedComponents(a, b) {
  return a.order.map(c => a.components[c]).filter(name => atPeak(a, name) || atPeak(b, name));
}
/* Two bars a component, and the change beside them. */
function bars(a, b) {
  const names = comparedComponents(a, b), most = Math.max(...names.flatMap(n => [atPeak(a, n), atPeak(b, n)]), 1);
  const bar = (run, name) => h('span', {style: {display: 'block', height: '9px', margin: '1.5px 0', 'border-radius': '2px', 'min-width': atPeak(run, name) ? '1.5px' : '0', width: 100 * atPeak(run, name) / most + '%',
    background: paint(name), opacity: run === a ? '.42' : '1', 'print-color-adjust': 'exact'}});
  return h('div', {role: 'img', 'aria-label': 'Bars by component; the table below has the values', style: {display: 'grid', 'grid-template-columns': 'minmax(92px, 150px) 1fr minmax(76px, auto)', gap: '7px 14px', 'align-items': 'center', 'margin-top': '10px', 'font-size': '13.5px'}},
    names.map(name => { const d = atPeak(b, name) - atPeak(a, name); return [h('span', {}, people(name)), h('span', {}, bar(a, name), bar(b, name)), h('span', {class: d < 0 ? 'better' : d > 0 ? 'worse' : 'quiet', style: {'text-align': 'right'}}, signed(d))]; }),
    h('span', {}), h('span', {class: 'hint'}, 'Pale A, full B'), h('span', {class: 'hint', style: {'text-align': 'right'}}, 'B \u2212 A'));
}
function differenceTable(a, b, timeA, timeB) {
  const row = (name, x, y, sum) => ({sum, cells: [name, size(x), size(y), [signed(y - x), h('span', {class: 'more'}, x && x !== y ? change(y / x - 1) : '')]]});
  const rows = comparedComponents(a, b).map(name => row(people(name), atPeak(a, name), atPeak(b, name)));
  rows.push(row('peak', peakOf(a), peakOf(b), true), row('needs, gaps included', a.books.needs_bytes, b.books.needs_bytes));
  if (a.pytorch && b.pytorch && a.pytorch.peak_reserved) rows.push(row('reserved by PyTorch\u2019s rules', a.pytorch.peak_reserved, b.pytorch.peak_reserved));
  if (timeA && timeB) rows.push(['step, median', roughTime(timeA.median, timeA), roughTime(timeB.median, timeB), timesAgree(timeA, timeB) ? 'about the same'
    : [(timeB.median > timeA.median ? '+' : '\u2212') + Math.max(1, Math.round(100 * Math.abs(timeB.median / timeA.median - 1))) + ' %', h('span', {class: 'more'}, '')]]);
  const last = run => run.steps.length ? run.steps[run.steps.length - 1][LOSS] : null, held = run => run.validations.length ? run.validations[run.validations.length - 1].loss : null;
  for (const [name, of] of [['loss of the last step', last], ['loss, held out', held]]) if (of(a) !== null && of(b) !== null) rows.push([name, number(of(a), 4), number(of(b), 4), [signedNumber(of(b) - of(a)), h('span', {class: 'more'}, '')]]);
  return table('The same in figures', ['', 'A', 'B', 'B \u2212 A'], rows, {class: 'figured'});
}
