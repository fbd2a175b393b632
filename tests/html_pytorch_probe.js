/* Put behind a page of brim plan --framework pytorch --html by tests/html_headless.sh: uses it as a reader would and
 * writes "ok" and "not ok" lines into it. What the page draws is compared with what the plan says. */
'use strict';
(() => {
  const lines = [];
  function check(name, holds, detail) { lines.push((holds ? 'ok ' : 'not ok ') + name + (holds || detail === undefined ? '' : ': ' + detail)); }
  function same(name, a, b) { check(name, a === b, a + ' is not ' + b); }
  const {plan} = window.brimPlan, p = plan.pytorch, brim = plan.brim.memory, all = selector => [...document.querySelectorAll(selector)];
  const sum = list => list.reduce((a, b) => a + b, 0), section = id => document.getElementById(id);

  function figures() {
    const text = document.getElementById('head').textContent;
    for (const bytes of [p.requested_bytes, p.allocated_bytes, p.reserved_bytes]) check('the heading says ' + size(bytes), text.includes(size(bytes)));
    check('the heading says the versions', text.includes('torch ' + p.versions.torch) && text.includes('transformers ' + p.versions.transformers));
    check('and what is unverified', !p.unverified || text.includes(p.unverified));
    check('and whether it fits', !p.verdict || text.includes(p.verdict.fits ? 'Fits.' : 'Does not fit.'));
  }

  function bars() {
    for (const bar of plan.bars) same('the parts of the bar of ' + bar.name + ' sum to its peak', sum(bar.parts.map(part => part.bytes)), bar.sum);
    same('a bar of each', plan.bars.length, brim ? 2 : 1);
    same('each part is drawn', section('bars').querySelectorAll('svg rect.part').length, sum(plan.bars.map(bar => bar.parts.length)));
    if (!brim) return;
    same('the differences sum to the difference', sum(p.differences.map(row => row.bytes)), p.requested_bytes - brim.peak_bytes);
    const rows = [...section('bars').querySelectorAll('table.falls tbody tr')];
    for (const row of p.differences.filter(row => Math.abs(row.bytes) > p.requested_bytes / 100))
      check('a row of ' + row.name, rows.some(tr => tr.textContent.includes(row.name) && (row.name === 'other differences' || tr.textContent.includes(signed(row.bytes)))));
    const spans = rows.map(tr => tr.querySelector('.span').getBoundingClientRect()), box = rows[0].querySelector('.spans').getBoundingClientRect();
    same('each bar begins where the last one ended', spans.slice(1, -1).filter((b, i) => Math.min(...[b.left, b.right].flatMap(x => [spans[i].left, spans[i].right].map(y => Math.abs(x - y)))) > 3).length, 0);
    check('and none leaves its column', spans.every(b => b.left >= box.left - 1 && b.right <= box.right + 1));
  }

  function courses() {
    const {view, chart, choose, text} = section('course').probe, points = plan.points;
    same('the highest point is what is allocated', Math.max(...points.map(x => x.allocated)), p.allocated_bytes);
    same('the highest of what is reserved, too', Math.max(...points.map(x => x.reserved)), p.reserved_bytes);
    same('kinds never sum to more than is allocated', points.filter(x => sum(x.by) > x.allocated || x.allocated > x.reserved).length, 0);
    same('at the peak they sum to what is requested', sum(points[plan.peak].by), p.requested_bytes);
    check('it opens at the peak', chart.index === plan.peak && chart.node.getAttribute('aria-valuetext').includes(size(p.allocated_bytes)), chart.index);
    check('and says its phase', chart.node.getAttribute('aria-valuetext').startsWith('step ' + p.peak_at.step + ', ' + p.peak_at.phase) || p.peak_at.phase === 'evaluate', chart.node.getAttribute('aria-valuetext'));
    chart.node.focus();
    for (const [key, to] of [['Home', () => view.from], ['ArrowRight', () => view.from + 1], ['End', () => view.to - 1]]) {
      chart.node.dispatchEvent(new KeyboardEvent('keydown', {key, bubbles: true, cancelable: true}));
      same(key + ' goes to its point', chart.index, to());
    }
    for (const id of ['1', '2', 'all']) {
      choose(id);
      const shown = plan.spans.filter(span => span.first < view.to && span.to > view.from).map(span => span.step);
      check('a step by itself: ' + id, id === 'all' ? view.from === 0 && view.to === points.length : new Set(shown).size === 1 && shown[0] === Number(id), shown.join());
      check('it says a phase: ' + id, /step \d|evaluation|is made/.test(text(chart.index)), text(chart.index));
    }
    const box = chart.node.getBoundingClientRect();
    chart.node.dispatchEvent(new PointerEvent('pointermove', {clientX: box.left + box.width * .5, clientY: box.top + 100, bubbles: true, pointerType: 'mouse'}));
    check('the pointer goes to its point', Math.abs(chart.index / points.length - .47) < .1, chart.index / points.length);
    same('the limit is a line where it can be seen', section('course').querySelectorAll('.l-limit').length, p.verdict && plan.page.limit_bytes <= 1.6 * p.reserved_bytes ? 1 : 0);
  }

  function details() {
    const rows = [...section('details').querySelectorAll('table')].pop().querySelectorAll('tbody tr');
    check('the largest come first', rows.length === Math.min(12, p.live_at_peak.length) && rows[0].textContent.includes(size(Math.max(...p.live_at_peak.map(a => a.bytes)))));
    for (const box of all('details')) { box.open = true; box.dispatchEvent(new Event('toggle')); }
  }
  function tables() {
    same('each table opens', all('details table').length, all('details').length);
    check('the phases have a row each', all('details')[1].querySelectorAll('tbody tr').length === p.moments.length);
  }

  function nothingCut() {
    const wide = document.documentElement.clientWidth;
    same('nothing is wider than the window', document.documentElement.scrollWidth > wide + 1, false);
    same('no text of a chart is cut', all('.chart svg text').filter(t => { const box = t.getBoundingClientRect(); return box.width && (box.left < -1 || box.right > wide + 1); }).length, 0);
    check('nothing is loaded', performance.getEntriesByType('resource').length === 0);
  }

  function report() {
    check('no errors', window.probeErrors.length === 0, window.probeErrors.join(' | '));
    const text = lines.join('\n') + '\nend of' + ' probe';
    document.body.append(Object.assign(document.createElement('pre'), {id: 'probe', textContent: text}));
    if (parent !== window) parent.postMessage(text, '*');
  }
  setTimeout(() => {
    for (const part of window.probeCut ? [nothingCut, figures] : [nothingCut, figures, bars, courses, details]) {
      try { part(); } catch (error) { check(part.name + ' runs', false, error && error.stack); }
    }
    setTimeout(() => { if (!window.probeCut) tables(); nothingCut(); report(); }, 500);
  }, 500);
})();
