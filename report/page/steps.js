/* ---- Over the run: loss, throughput, the peak of each step ---- */
const FIRST = 0, LAST = 1, LOSS = 2, RATE = 3, TOKENS = 4, SECONDS = 5, LIVE = 6, PEAK = 7, BY = 8;

function overTheRun(runs) {
  const section = h('section', {id: 'steps', 'aria-labelledby': 'steps-title'}, h('h2', {id: 'steps-title'}, 'Over the run'));
  const shown = runs.filter(run => run.steps.length);
  if (!shown.length) {
    section.append(h('p', {class: 'lead'}, runs.every(run => run.info.planned) ? 'A plan: nothing has run.' : 'The log holds no steps.'));
    return section;
  }
  const unit = shown[0].options.seq ? 'tokens' : 'samples';
  const speed = row => row[SECONDS] > 0 ? row[TOKENS] / row[SECONDS] : null;
  const stride = Math.max(...shown.map(r => r.stride));
  put(section, h('p', {class: 'lead'}, 'Loss, speed and the highest moment of each step' + (stride > 1 ? '; a point stands for ' + count(stride) + ' steps' : '') + '.'),
    h('div', {class: shown.length > 1 ? 'pair' : 'trio', style: {'margin-top': '16px'}},
      stepChart('Loss', shown, row => row[LOSS], v => number(v, 4), {validations: true}),
      stepChart(unit.charAt(0).toUpperCase() + unit.slice(1) + ' per second', shown, speed, v => v === null ? '\u2013' : count(v), {zero: true}),
      shown.map(run => peakChart(run, shown))),
    shown.map(run => asTable('The steps' + (shown.length > 1 ? ' of ' + run.letter : '') + ' as a table', () => stepTable(run, speed, unit))));
  return section;
}

function stepTable(run, speed, unit) {
  const every = Math.max(1, Math.ceil(run.steps.length / 400));
  return table(every > 1 ? 'Every ' + count(every) + 'th row' : 'Every step', ['step', 'loss', 'learning rate', unit + '/s', 'live after', 'peak'],
    run.steps.filter((_, i) => i % every === 0 || i === run.steps.length - 1).map(row => [row[FIRST] === row[LAST] ? count(row[FIRST]) : count(row[FIRST]) + '\u2013' + count(row[LAST]),
      number(row[LOSS], 4), row[RATE].toExponential(2), speed(row) === null ? '\u2013' : count(speed(row)), size(row[LIVE]), size(row[PEAK])]));
}
function stepAxis(box, first, last) {
  const g = s('g', {}), step = Math.max(1, niceStep((last - first) / (box.width < 420 ? 4 : 7)));
  for (let v = Math.ceil(first / step) * step; v <= last; v += step) {
    g.append(s('text', {x: box.left + box.width * (v - first) / Math.max(1, last - first), y: box.top + box.height + 17, 'text-anchor': 'middle'}, plainNumber(v)));
  }
  g.append(s('text', {x: box.left + box.width, y: box.top + box.height + 33, 'text-anchor': 'end'}, 'step'));
  return g;
}
/* A running median over a few points: one slow step does not hide the course. */
function smooth(values, reach) {
  return values.map((_, i) => {
    const part = values.slice(Math.max(0, i - reach), i + reach + 1).filter(v => v !== null).sort((a, b) => a - b);
    return part.length ? part[part.length >> 1] : null;
  });
}
function linePath(values, x, y) {
  let d = '', pen = false;
  values.forEach((v, i) => {
    if (v === null || !isFinite(v)) { pen = false; return; }
    d += (pen ? 'L' : 'M') + fixed(x(i)) + ' ' + fixed(y(v));
    pen = true;
  });
  return d;
}

function stepChart(title, runs, value, format, options) {
  const readout = h('p', {class: 'readout'}), state = {}, series = runs.map(run => ({run, raw: run.steps.map(value)}));
  const many = Math.max(...runs.map(r => r.steps.length)), longest = series.find(x => x.raw.length === many);
  for (const one of series) one.smooth = many > 40 ? smooth(one.raw, Math.max(2, Math.round(many / 60))) : one.raw;
  const all = series.flatMap(x => x.raw).filter(v => v !== null && isFinite(v)).concat(options.validations ? runs.flatMap(r => r.validations.map(v => v.loss)) : []);
  if (!all.length) return h('div', {}, h('h3', {}, title), h('p', {class: 'quiet small'}, 'No value that is a number.'));
  const high = all.reduce((a, b) => Math.max(a, b)), least = all.reduce((a, b) => Math.min(a, b));
  const bottom = options.zero ? 0 : Math.max(0, least - (high - least) * .12), top = high + (high - bottom) * .06 || 1;
  const first = Math.min(...runs.map(r => r.steps[0][FIRST])), last = Math.max(...runs.map(r => r.steps[r.steps.length - 1][LAST]));
  const letter = run => runs.length > 1 ? run.letter + ' ' : '';
  const cls = run => runs.length > 1 && run.letter === 'A' ? 'a' : 'b';
  const chart = explorer({
    label: title + ' over the steps', range: () => [0, many - 1], start: () => many - 1,
    at: x => Math.round((x - state.box.left) / state.box.width * (many - 1)),
    draw: width => {
      const height = 230, box = state.box = {left: 56, top: 16, width: width - 66, height: height - 16 - 40}, svg = s('svg', {height});
      const y = state.y = v => box.top + box.height * (1 - (v - bottom) / (top - bottom)), step = niceStep((top - bottom) / 4);
      state.at = step_ => box.left + box.width * (step_ - first) / Math.max(1, last - first);
      for (let v = Math.ceil(bottom / step) * step; v <= top; v += step) svg.append(s('line', {class: 'grid', x1: box.left, x2: box.left + box.width, y1: y(v), y2: y(v)}),
        s('text', {x: box.left - 8, y: y(v) + 4, 'text-anchor': 'end'}, plainNumber(v)));
      svg.append(stepAxis(box, first, last));
      for (const {run, raw, smooth: calm} of series) {
        const x = i => state.at(run.steps[i][LAST]);
        if (calm !== raw) svg.append(s('path', {class: 'thin l-' + cls(run), d: linePath(raw, x, y)}));
        svg.append(s('path', {class: 'l-' + cls(run), d: linePath(calm, x, y)}));
        if (options.validations) for (const v of run.validations) if (v.step <= last) svg.append(s('circle', {class: 'ring', stroke: 'var(--' + (cls(run) === 'a' ? 'other' : 'accent') + ')', cx: state.at(v.step), cy: y(v.loss), r: 4}));
      }
      state.overlay = s('g', {});
      svg.append(state.overlay);
      return svg;
    },
    text: i => readText(i),
    show: i => {
      const x = state.at(longest.run.steps[i][LAST]), {box} = state;
      state.overlay.replaceChildren(s('line', {class: 'cursor', x1: x, x2: x, y1: box.top, y2: box.top + box.height}),
        ...series.filter(o => o.raw[i] !== null && o.raw[i] !== undefined).map(o => s('circle', {class: 'dot-' + cls(o.run), cx: state.at(o.run.steps[i][LAST]), cy: state.y(o.raw[i]), r: 3.5})));
      readout.textContent = readText(i);
    },
  });
  function readText(i) {
    const row = longest.run.steps[i], name = row[FIRST] === row[LAST] ? 'Step ' + count(row[LAST]) : 'Steps ' + count(row[FIRST]) + ' to ' + count(row[LAST]);
    const near = options.validations ? runs.flatMap(run => run.validations.filter(v => v.step >= row[FIRST] && v.step <= row[LAST]).map(v => letter(run) + 'held out ' + format(v.loss))) : [];
    return name + ': ' + series.filter(o => o.raw[i] !== undefined).map(o => letter(o.run) + format(o.raw[i])).concat(near).join(' \u00b7 ');
  }
  return h('div', {}, h('h3', {}, title), chart.node, readout, options.validations && runs.some(r => r.validations.length) ? h('p', {class: 'hint'}, many > 40 ? 'Thin: each step; thick: a running median; rings: held out.' : 'Rings: held out.')
    : many > 40 ? h('p', {class: 'hint'}, 'Thin: each step; thick: a running median.') : null);
}

function peakChart(run, runs) {
  const readout = h('p', {class: 'readout'}), state = {}, n = run.steps.length, C = run.stepComponents;
  const top = Math.max(...runs.map(r => r.steps.reduce((a, row) => Math.max(a, row[PEAK]), 1))) * 1.05;
  const known = run.steps.some(row => row.slice(BY, BY + C).some(v => v > 0));
  const chart = explorer({
    label: 'Peak of each step by component', range: () => [0, n - 1], start: () => n - 1,
    at: x => Math.floor((x - state.box.left) / state.box.width * n),
    draw: width => {
      const height = 230, box = state.box = {left: 56, top: 24, width: width - 66, height: height - 24 - 40}, svg = s('svg', {height});
      Object.assign(state, {from: 0, to: n, x: i => box.left + box.width * i / n, y: v => box.top + box.height * (1 - v / top)});
      const bucket = Math.max(1, Math.ceil(n / box.width));
      state.states = [];
      for (let i = 0; i < n; i += bucket) {
        let most = i;
        for (let k = i; k < Math.min(n, i + bucket); k++) if (run.steps[k][PEAK] > run.steps[most][PEAK]) most = k;
        state.states.push(most);
      }
      svg.append(sizeAxis(box, top, state.y));
      const below = new Float64Array(n), all = state.states.map((_, k) => k);
      for (const c of known ? run.order : []) {
        if (!run.steps.some(row => row[BY + c] > 0)) continue;
        const base = below.slice();
        for (const i of state.states) below[i] += run.steps[i][BY + c];
        svg.append(s('path', {class: 'area', fill: paint(run.components[c]), d: bandPath(state, all, i => base[i], i => below[i])}));
      }
      if (!known) svg.append(s('path', {class: 'l-b', d: outlinePath(state, i => run.steps[i][PEAK])}));
      svg.append(stepAxis(box, run.steps[0][FIRST], run.steps[n - 1][LAST]));
      state.overlay = s('g', {});
      svg.append(state.overlay);
      return svg;
    },
    text: i => readText(i),
    show: i => {
      const {box} = state, x = (state.x(i) + state.x(i + 1)) / 2;
      state.overlay.replaceChildren(s('line', {class: 'cursor', x1: x, x2: x, y1: box.top, y2: box.top + box.height}));
      readout.textContent = readText(i);
    },
  });
  function readText(i) {
    const row = run.steps[i];
    return 'Step ' + count(row[LAST]) + ': peak ' + size(row[PEAK]) + (known ? ' \u00b7 ' + run.order.filter(c => row[BY + c] > 0).map(c => componentName(run, c) + ' ' + size(row[BY + c])).join(', ') : '');
  }
  return h('div', {}, h('h3', {}, (runs.length > 1 ? run.letter + ': p' : 'P') + 'eak of each step, by component'), chart.node, readout);
}
