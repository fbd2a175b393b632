"""Reads a run log and what was exported from it with real readers, and checks every rule of the formats.

usage: check_exports.py RUN.jsonl SNAPSHOT.pickle TRACE.json EVENTS.csv EVENTS.jsonl
Prints "ok PEAK", the peak in bytes that each of them shows. Plain Python 3, nothing else."""
import collections
import csv
import json
import pickle
import pickletools
import sys


def read_log(path):
    log = {"events": [], "places": [], "ops": [], "outline": []}
    for line in open(path, encoding="utf-8"):
        one = json.loads(line)
        if one["kind"] == "run":
            log["run"] = one
        elif one["kind"] == "events":
            log["events"] += [dict(zip(one["columns"], row)) for row in one["rows"]]
        elif one["kind"] in ("places", "ops"):
            assert one["from"] == len(log[one["kind"]])
            log[one["kind"]] += one["names"]
        elif one["kind"] == "outline":
            log["outline"] += one["live"]
    return log


def replay(log):
    """Live bytes after each event, and by component at the end."""
    names = [name for name, group in log["run"]["components"]]
    by, live, curve, what = collections.Counter(), 0, [], {}
    for e in log["events"]:
        if e["kind"] == 0:
            live += e["bytes"]
            by[names[e["component"]]] += e["bytes"]
        elif e["kind"] == 1:
            live -= e["bytes"]
            by[names[e["component"]]] -= e["bytes"]
        else:
            by[names[e["from"]]] -= e["bytes"]
            by[names[e["component"]]] += e["bytes"]
        curve.append(live)
    return curve, +by


ALLOWED = {"PROTO", "EMPTY_DICT", "EMPTY_LIST", "MARK", "SETITEMS", "APPENDS", "BINUNICODE", "BININT", "BININT1",
           "BININT2", "LONG1", "NEWTRUE", "NEWFALSE", "BINPUT", "LONG_BINPUT", "BINGET", "LONG_BINGET", "TUPLE2", "STOP"}


def check_opcodes(raw):
    marks, depth_at_mark = [], 0
    counts = []
    for op, argument, position in pickletools.genops(raw):
        assert op.name in ALLOWED, op.name
        if op.name == "PROTO":
            assert 2 <= argument <= 4
        if op.name == "LONG1":
            assert raw[position + 1] <= 8 and 0 <= argument < 2 ** 53
        # Items since each mark, to see how many a list is appended at a time.
        if op.name == "MARK":
            counts.append(0)
        elif op.name in ("APPENDS", "SETITEMS"):
            items = counts.pop()
            assert items <= (1000 if op.name == "APPENDS" else 100), (op.name, items)
        elif op.name in ("EMPTY_DICT", "EMPTY_LIST", "BINUNICODE", "BININT", "BININT1", "BININT2", "LONG1", "NEWTRUE",
                         "NEWFALSE", "BINGET", "LONG_BINGET"):
            if counts:
                counts[-1] += 1
        elif op.name == "TUPLE2":
            counts[-1] -= 1
    assert not counts


class NoClasses(pickle.Unpickler):
    def find_class(self, module, name):
        raise AssertionError("a snapshot must not name classes")


def check_plain(value):
    assert type(value) in (dict, list, str, int, bool, tuple), type(value)
    if isinstance(value, dict):
        for key, one in value.items():
            assert type(key) is str
            check_plain(one)
    elif isinstance(value, (list, tuple)):
        for one in value:
            check_plain(one)


EVENT_KEYS = {"action", "addr", "size", "stream", "time_us", "frames", "compile_context", "user_metadata", "category"}
SEGMENT_KEYS = {"device", "address", "total_size", "allocated_size", "active_size", "requested_size", "stream",
                "segment_type", "segment_pool_id", "is_expandable", "frames", "blocks"}
BLOCK_KEYS = {"address", "size", "requested_size", "state", "frames"}


def check_frames(frames):
    for frame in frames:
        assert set(frame) == {"name", "filename", "line"} and type(frame["line"]) is int and frame["name"]


def check_snapshot(path, log):
    raw = open(path, "rb").read()
    check_opcodes(raw)
    snapshot = NoClasses(open(path, "rb")).load()
    check_plain(snapshot)
    assert set(snapshot) == {"segments", "device_traces", "allocator_settings", "external_annotations"}
    components = {name for name, group in log["run"]["components"]}
    (trace,) = snapshot["device_traces"]
    (segment,) = snapshot["segments"]
    assert set(segment) == SEGMENT_KEYS and segment["segment_type"] in ("small", "large")
    assert segment["segment_pool_id"] == (0, 0) and segment["is_expandable"] is False

    # The trace: from byte 0, each free announced right before, no address given twice.
    live, peak, now, time, categories = {}, 0, 0, 0, set()
    log_events = iter(log["events"])
    for i, e in enumerate(trace):
        assert set(e) == EVENT_KEYS and e["stream"] == 0 and e["compile_context"] == "N/A"
        check_frames(e["frames"])
        assert e["time_us"] >= time
        time = e["time_us"]
        categories.add(e["category"])
        assert segment["address"] <= e["addr"] and e["addr"] + e["size"] <= segment["address"] + segment["total_size"]
        if i == 0:
            assert e["action"] == "segment_alloc" and e["addr"] == segment["address"]
            assert e["size"] == segment["total_size"] and e["category"] == "unknown"
            continue
        assert e["category"] in components or e["category"] == "unknown"
        assert [f["filename"] for f in e["frames"]] == ["op", "place"]
        if e["action"] == "free_requested":
            assert trace[i + 1]["action"] == "free_completed"
            assert all(trace[i + 1][key] == e[key] for key in EVENT_KEYS - {"action"})
        elif e["action"] == "free_completed":
            assert trace[i - 1]["action"] == "free_requested"
            assert live.pop(e["addr"])["size"] == e["size"]
            now -= e["size"]
        else:
            assert e["action"] == "alloc" and e["addr"] not in live
            live[e["addr"]] = e
            now += e["size"]
            peak = max(peak, now)
    assert "unknown" in categories and not categories - components - {"unknown"}

    # Each event of the log, in order: a re-tag is a free and an allocation at the same address.
    at, place = 1, segment["address"]
    names = [name for name, group in log["run"]["components"]]
    for e in log["events"]:
        base = place + (segment["total_size"] - e["offset"] - e["bytes"] if e["end"] else e["offset"])
        actions = {0: ["alloc"], 1: ["free_requested", "free_completed"],
                   2: ["free_requested", "free_completed", "alloc"]}[e["kind"]]
        for action in actions:
            t = trace[at]
            at += 1
            assert (t["action"], t["addr"], t["size"]) == (action, base, e["bytes"]), (t, e)
            assert t["category"] == names[e["component"] if action == "alloc" else e["from"]]
            assert t["frames"][0]["name"] == (log["ops"][e["op"]] or "no op")
            assert t["frames"][1]["name"] == (log["places"][e["place"]] or "(root)")
    assert at == len(trace)

    # Blocks tile the segment and are what the trace leaves.
    address = segment["address"]
    left = dict(live)
    for block in segment["blocks"]:
        assert set(block) == BLOCK_KEYS and block["address"] == address and block["size"] > 0
        check_frames(block["frames"])
        if block["state"] == "active_allocated":
            assert left.pop(address)["size"] == block["size"] >= block["requested_size"] > 0
        else:
            assert block["state"] == "inactive"
        address += block["size"]
    assert address == segment["address"] + segment["total_size"] and not left
    assert segment["allocated_size"] == segment["active_size"] == now

    # Played backwards from the segments, as the viewer does, nothing is left at the start.
    blocks = {b["address"] for b in segment["blocks"] if b["state"] == "active_allocated"}
    for e in reversed(trace):
        if e["action"] == "alloc":
            blocks.remove(e["addr"])
        elif e["action"] == "free_completed":
            assert e["addr"] not in blocks
            blocks.add(e["addr"])
    assert not blocks

    open_phases = []
    for a in snapshot["external_annotations"]:
        assert set(a) == {"name", "stage", "device", "time_us"}
        if a["stage"] == "START":
            open_phases.append(a["name"])
        else:
            assert a["stage"] == "END" and open_phases.pop() == a["name"]
    assert not open_phases
    return peak


def check_trace(path, log, by):
    trace = json.load(open(path, encoding="utf-8"))
    counters, peak = {}, 0
    named, times = set(), {}
    components = {name for name, group in log["run"]["components"]} | {"unknown"}
    for e in trace["traceEvents"]:
        if e["ph"] == "M":
            named.add((e["name"], e["tid"]))
            assert e["args"]["name"]
        elif e["ph"] == "C":
            assert list(e["args"]) == ["value"] and type(e["ts"]) is int and e["args"]["value"] >= 0
            kind, name = e["name"].split("/")
            assert kind == "mem" and (name in components or name == "live")
            assert e["ts"] >= times.get(name, 0)
            times[name] = e["ts"]
            counters[name] = e["args"]["value"]
            if name == "live": # the last of its moment
                peak = max(peak, e["args"]["value"])
                assert e["args"]["value"] == sum(v for k, v in counters.items() if k != "live")
        else:
            assert e["ph"] == "X" and e["dur"] >= 0 and ("thread_name", e["tid"]) in named
            # Slices of a track follow each other.
            key = ("slice", e["tid"])
            assert e["ts"] >= times.get(key, 0)
            times[key] = e["ts"] + e["dur"]
    live = counters.pop("live")
    assert live == sum(counters.values()) and {k: v for k, v in counters.items() if v} == dict(by)
    return peak


def check_rows(rows, log, curve):
    kinds = {"alloc": 0, "free": 1, "retag": 2}
    names = [name for name, group in log["run"]["components"]]
    live = peak = 0
    assert len(rows) == len(log["events"])
    for row, e, after in zip(rows, log["events"], curve):
        live += {"alloc": int(row["bytes"]), "free": -int(row["bytes"]), "retag": 0}[row["kind"]]
        peak = max(peak, live)
        assert int(row["live_bytes"]) == live == after
        assert kinds[row["kind"]] == e["kind"] and int(row["requested"]) == e["requested"]
        assert row["place"] == log["places"][e["place"]] and row["op"] == log["ops"][e["op"]]
        assert row["component"] == names[e["component"]] and row["phase"] == log["run"]["phases"][e["phase"]]
        assert int(row["serial"]) == e["serial"] and int(row["step"]) == e["step"]
    return peak


def main():
    log_path, snapshot, trace, table, lines = sys.argv[1:]
    log = read_log(log_path)
    curve, by = replay(log)
    evaluate = log["run"]["phases"].index("evaluate")
    if log["outline"]:
        assert log["outline"] == [c for c, e in zip(curve, log["events"]) if e["phase"] != evaluate]
    peak = max(curve)
    assert check_snapshot(snapshot, log) == peak
    assert check_trace(trace, log, by) == peak
    assert check_rows(list(csv.DictReader(open(table, newline="", encoding="utf-8"))), log, curve) == peak
    assert check_rows([json.loads(line) for line in open(lines, encoding="utf-8")], log, curve) == peak
    print("ok", peak)


main()
