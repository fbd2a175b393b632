"""Runs the page's Python in one namespace and checks what it has made of the log: see tests/notebook/run."""
import io
import os
import sys
from contextlib import redirect_stdout

page = {}
printed = io.StringIO()
with redirect_stdout(printed):
    exec(compile(open(sys.argv[1]).read(), "docs/notebook.md", "exec"), page)

steps, memory, live, plans, table = (page[name] for name in ("steps", "memory", "live", "plans", "table"))
end = page["lines"][-1]
checks = {
    "all steps are read": list(steps.index) == list(range(1, 21)),
    "the loss falls": steps.loss.iloc[-1] < steps.loss.iloc[0],
    "the losses are those of the end": abs(steps.loss.iloc[-1] - end["loss_last"]) < 1e-6,
    "groups sum to the peak": ((memory.sum(axis=1) * 2**20).round().astype(int) == steps.peak_bytes).all(),
    "events peak at the run's peak": round(page["peak"] * 2**20) == end["memory"]["peak_bytes"],
    "nothing is freed that is not live": (live > -1e-9).all().all(),
    "what is live after the events is what the log says": round(live.iloc[-1].sum() * 2**20) == steps.live_bytes[2],
    "plans grow with the batch": plans.sum(axis=1).is_monotonic_increasing and list(plans.index) == [1, 2, 4, 8],
    "the plan of this batch is the run": round(plans.loc[4].sum() * 2**20) == end["memory"]["peak_bytes"],
    "a row a choice": len(table) == 4 and (table.needs_bytes >= table.peak_bytes).all(),
    "pictures are drawn": all(os.path.getsize(name) > 5000 for name in ("run.png", "step.png")),
    "tables are printed": all(word in printed.getvalue() for word in ("loss", "activations", "peak_bytes")),
}
for name, holds in checks.items():
    print(("ok " if holds else "not ok ") + "notebook: " + name)
sys.exit(not all(checks.values()))
