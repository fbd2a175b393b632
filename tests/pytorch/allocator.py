"""What PyTorch's caching allocator does with random requests, recorded for tests/test_pytorch_limits.c.

Unmodified PyTorch runs its own allocator on the CUDA runtime of stand-in/, whose cudaMalloc and cuMemCreate fail when the card
is full. Each scenario is a process of its own, for the settings are read once.

usage: allocator.py [--check] [--out FOLDER] [SCENARIO ...]

--check compares with the fixtures in the tree instead of writing them. PyTorch 2.6 differs in a few scenarios, whose fixtures
end in _2.6; 2.11 does as 2.15. A fixture is text, compressed:

    conf TEXT                           PYTORCH_CUDA_ALLOC_CONF
    card TOTAL LIMIT FRACTION           bytes, LIMIT without the context; FRACTION 0: set_per_process_memory_fraction is not called
    +BYTES STREAM ALLOCATED RESERVED    a request, and by how much the statistics changed; it is the n-th
    !BYTES STREAM RESERVED              a request that fails
    -N ALLOCATED                        the n-th request is freed
    e RESERVED                          empty_cache()
    = REQUESTED ALLOCATED RESERVED RETRIES OOMS DEVICE_ALLOCS DEVICE_FREES     the statistics, now and then
    peaks REQUESTED ALLOCATED RESERVED
"""
import argparse
import gzip
import importlib.metadata
import os
import random
import subprocess
import sys

MIB = 1 << 20
HERE = os.path.dirname(os.path.abspath(__file__))
STAND_IN = os.environ.get("BRIM_PYTORCH_STAND_IN", os.path.join(HERE, "../../build/pytorch-stand-in"))
CONTEXT = 600  # MiB that the stand-in takes for the context, but for scenarios whose names end in "_alone"

# name: seed, PYTORCH_CUDA_ALLOC_CONF, MiB of the card beside the context, fraction, streams, largest MiB, events
SCENARIOS = {
    "plain": (1, "", 8000, 0, 1, 300, 500),
    "streams": (2, "", 8000, 0, 4, 60, 500),
    "full": (3, "", 1500, 0, 1, 300, 900),
    "full_streams": (4, "", 900, 0, 3, 120, 600),
    "small_only": (5, "", 10, 0, 2, 1, 500),
    "fraction": (6, "", 3000, 0.3, 1, 200, 600),
    "split": (7, "max_split_size_mb:64", 1500, 0, 1, 300, 900),
    "split_20": (8, "max_split_size_mb:20", 1200, 0, 2, 150, 600),
    "split_odd": (9, "max_split_size_mb:33,max_non_split_rounding_mb:70", 1200, 0, 1, 200, 500),
    "collect": (10, "garbage_collection_threshold:0.6", 3000, 0.5, 1, 200, 900),
    "collect_full": (11, "garbage_collection_threshold:0.3", 1200, 1.0, 2, 200, 600),
    "collect_split": (12, "garbage_collection_threshold:0.5,max_split_size_mb:100", 2000, 0.8, 2, 300, 600),
    "roundup": (13, "roundup_power2_divisions:4", 1500, 0, 1, 300, 400),
    "roundup_list": (14, "roundup_power2_divisions:[1:2,4:8,16:0,64:16,256:1,>:4]", 8000, 0, 1, 900, 400),
    "roundup_rest": (15, "roundup_power2_divisions:[>:2]", 3000, 0, 1, 200, 300),
    "large_segment": (16, "large_segment_size_mb:36", 1500, 0, 1, 60, 400),
    "expandable": (17, "expandable_segments:True", 8000, 0, 1, 300, 500),
    "expandable_full": (18, "expandable_segments:True", 1500, 0, 1, 300, 900),
    "expandable_streams": (19, "expandable_segments:True", 900, 0, 3, 120, 600),
    "expandable_fraction": (20, "expandable_segments:True", 2400, 0.4, 2, 150, 500),
    "expandable_split": (21, "expandable_segments:True,max_split_size_mb:64", 1200, 0, 1, 200, 500),
    "expandable_collect": (22, "expandable_segments:True,garbage_collection_threshold:0.4", 1500, 0.9, 1, 200, 300),
    "expandable_pages": (23, "expandable_segments:True,large_segment_size_mb:50", 1500, 0, 1, 200, 400),
    "expandable_roundup": (24, "expandable_segments:True,roundup_power2_divisions:8", 1500, 0, 2, 200, 400),
    "fraction_border": (26, "", 1000, 0.06, 2, 12, 500),
    "expandable_border": (27, "expandable_segments:True", 1000, 0.06, 2, 12, 400),
    "split_streams": (28, "max_split_size_mb:30", 1000, 0, 4, 120, 700),
    "expandable_alone": (29, "expandable_segments:True", 800, 0, 1, 300, 600),
    "everything": (25, "expandable_segments:False,max_split_size_mb:40,garbage_collection_threshold:0.7,"
                       "roundup_power2_divisions:[2:4,32:8,>:2]", 1600, 0.7, 3, 250, 900),
}

OLDER = "_2.6" if importlib.metadata.version("torch").startswith("2.6") else ""
DIFFERENT = ("collect_full", "roundup_list", "roundup_rest", "everything")


def sizes_of(rng, largest):
    """Few different sizes, as a training has: a third small, a third below 20 MiB, a third up to the largest."""
    sizes = [512, 1024, MIB] + [int(2 ** rng.uniform(0, 20)) for _ in range(9)]
    if largest > 1:
        sizes += [MIB + 1, 10 * MIB, 10 * MIB - 512]
        sizes += [int(rng.uniform(1, min(20, largest)) * MIB) for _ in range(9)]
        sizes += [int(rng.uniform(min(10, largest / 2), largest) * MIB) for _ in range(9)]
        sizes += [int(rng.uniform(min(10, largest / 2), largest)) * MIB for _ in range(3)]
    return sizes


class Recorder:
    def __init__(self, torch, out, streams):
        self.torch, self.out, self.live, self.count = torch, out, {}, 0
        self.streams = [torch.cuda.current_stream()] + [torch.cuda.Stream() for _ in range(streams - 1)]
        self.allocated = self.reserved = 0

    def now(self):
        stats = self.torch.cuda.memory_stats()
        allocated, reserved = stats["allocated_bytes.all.current"], stats["reserved_bytes.all.current"]
        changes = allocated - self.allocated, reserved - self.reserved
        self.allocated, self.reserved = allocated, reserved
        return changes

    def request(self, size, stream):
        self.count += 1
        try:
            address = self.torch.cuda.caching_allocator_alloc(size, stream=self.streams[stream])
        except self.torch.OutOfMemoryError:
            self.out.append("!%d %d %d" % (size, stream, self.now()[1]))
            return False
        self.live[self.count] = address, size
        self.out.append("+%d %d %d %d" % (size, stream, *self.now()))
        return True

    def free(self, number):
        self.torch.cuda.caching_allocator_delete(self.live.pop(number)[0])
        allocated, reserved = self.now()
        assert reserved == 0
        self.out.append("-%d %d" % (number, allocated))

    def empty(self):
        self.torch.cuda.empty_cache()
        self.out.append("e %d" % self.now()[1])

    def check(self):
        stats = self.torch.cuda.memory_stats()
        assert stats["requested_bytes.all.current"] == sum(size for _, size in self.live.values())
        names = ("requested_bytes.all.current", "allocated_bytes.all.current", "reserved_bytes.all.current",
                 "num_alloc_retries", "num_ooms", "num_device_alloc", "num_device_free")
        self.out.append("= " + " ".join(str(stats[name]) for name in names))


def record(name):
    """In the scenario's own process."""
    import torch

    seed, conf, mib, fraction, streams, largest, events = SCENARIOS[name]
    rng = random.Random(seed)
    torch.cuda.init()
    if fraction:
        torch.cuda.set_per_process_memory_fraction(fraction)
    limit, total = torch.cuda.mem_get_info()
    out = ["conf " + conf, "card %d %d %.17g" % (total, limit, fraction)]
    recorder, sizes, growing = Recorder(torch, out, streams), sizes_of(rng, largest), True
    for event in range(events):
        live = recorder.live
        if not live or (len(live) < 160 and rng.random() < (0.75 if growing else 0.3)):
            if not recorder.request(rng.choice(sizes), rng.randrange(streams)):
                growing = False
        else:
            recorder.free(rng.choice(list(live)))
        if event % 97 == 96:
            recorder.check()
            growing = not growing
        if event == events // 2:
            recorder.empty()
    for number in rng.sample(sorted(recorder.live), len(recorder.live)):
        recorder.free(number)
    recorder.empty()
    recorder.check()
    stats = torch.cuda.memory_stats()
    out.append("peaks " + " ".join(str(stats[k + "_bytes.all.peak"]) for k in ("requested", "allocated", "reserved")))
    return "\n".join(out) + "\n"


def text_of(name):
    _, conf, mib = SCENARIOS[name][:3]
    context = 0 if name.endswith("_alone") else CONTEXT
    library = os.path.join(STAND_IN, "libpytorch-stand-in.so")
    if not os.path.exists(library):
        sys.exit("allocator: there is no stand-in at %s: stand-in/build makes it" % STAND_IN)
    env = dict(os.environ, ALLOCATOR_SCENARIO=name, STAND_IN_MIB=str(mib + context), STAND_IN_CONTEXT=str(context),
               LD_PRELOAD=library, LD_LIBRARY_PATH=STAND_IN + ":" + os.environ.get("LD_LIBRARY_PATH", ""),
               PYTORCH_NVML_BASED_CUDA_CHECK="0")
    for variable in ("PYTORCH_ALLOC_CONF", "PYTORCH_CUDA_ALLOC_CONF"):
        env.pop(variable, None)
    if conf:
        env["PYTORCH_CUDA_ALLOC_CONF"] = conf
    run = subprocess.run([sys.executable, __file__], env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    if run.returncode:
        raise RuntimeError(run.stderr.decode().strip().splitlines()[-1])
    return run.stdout


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--check", action="store_true")
    parser.add_argument("--out", default=os.path.join(HERE, "fixtures"))
    parser.add_argument("scenarios", nargs="*")
    a = parser.parse_args()
    differ = 0
    for name in a.scenarios or SCENARIOS:
        path = os.path.join(a.out, "allocator_%s%s.gz" % (name, OLDER if name in DIFFERENT else ""))
        try:
            text = text_of(name)
        except RuntimeError as error:  # an older PyTorch does not know every setting
            print("%s: fails: %s" % (name, error), flush=True)
            differ += 1
            continue
        said = "%d lines, %d out of memory" % (text.count(b"\n"), text.count(b"\n!"))
        if a.check:
            with open(path, "rb") as there:
                before = gzip.decompress(there.read())
            lines = zip(before.splitlines() + [b""], text.splitlines() + [b""])
            first = next((n for n, (x, y) in enumerate(lines, 1) if x != y), 0)
            differ += before != text
            said += ", as before" if before == text else ", differs from line %d" % first
        else:
            with open(path, "wb") as out:
                out.write(gzip.compress(text, 9, mtime=0))
        print(name + ":", said, flush=True)
    sys.exit(differ > 0)


if __name__ == "__main__":
    scenario = os.environ.get("ALLOCATOR_SCENARIO")
    if scenario:
        sys.stdout.write(record(scenario))
    else:
        main()
