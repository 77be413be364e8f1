#!/usr/bin/env python3
"""A discrete-event model of how work units reach up to 1,024 devices and the disk: efficiency and lost work against the size of
a unit and the hand-out batch. What docs/scaling.md says of DESIGN's 1e13 flops comes from here.

  scheduler_model.py [--events 150000] [--seed 0] [--svg docs/scheduler.svg] [--doc docs/scaling.md]

A device asks rank 0 for a batch of units, which answers one question after the other; computes them one by one; and
hands each one's record to the file system while it computes the next, waiting when the one before is not synced yet, as
src/ablate/workers.c does. The file system syncs one record after the other, so many a second and so many bytes a
second, and tells each after its latency. A device that fails loses the unit in hand and the record that is not synced;
others are told after the time-out of its heartbeat, it is back after a restart. Unit times vary by device and by unit,
and some devices are slow throughout.

Fed with measured figures (docs/design.md, section 7; the flops of coar info): images a second of a device, flops and bytes
of a unit. A job too long for --events is cut: what drains of its queue in the middle is steady, and its rate holds for what
is left out; start-up and the tail, when no unit is left to hand out, come once. Deterministic by the seed; numpy only.
"""
import argparse
import heapq
import math

import numpy as np

# images/s of a device, flops of an image, images of the job, bytes of weights and of all examples: the reference's
# MiniResNet and ViT-B/16 jobs (50,000 masks of 10,000 images; 100,000 of 5,000)
JOBS = {
    "MiniResNet": dict(rate=13500., flops=9.66e9, images=5e8, startup_bytes=19e6 + 10000 * 3072),
    "ViT-B/16": dict(rate=2000., flops=35.1e9, images=5e8, startup_bytes=346e6 + 5000 * 150528),
}
# syncs/s, bytes/s and latency in s of a file system that all nodes share
DISKS = {
    "parallel file system": dict(syncs=20000., bandwidth=20e9, latency=3e-3),
    "one file server": dict(syncs=1000., bandwidth=1e9, latency=3e-3),
}
UNITS = (1e12, 3e12, 1e13, 3e13, 1e14)
BATCHES = (1, 2, 4, 16, 64)
DEVICES = (8, 64, 256, 1024)
DESIGN_UNIT = 1e13

MESSAGE = 5e-4          # s, one way
ANSWER = 2e-5           # s of rank 0
UNIT_NOISE = 0.03       # relative deviation of one unit's time
DEVICE_NOISE = 0.02     # of a device's mean
SLOW_SHARE, SLOW = 0.01, 0.7  # of devices run at this part of the speed
MTBF = 50e3 * 3600.     # s of one device: 419 interruptions in 54 days of 16,384 GPUs (Llama 3, arXiv 2407.21783)
SILENCE, RESTART = 60., 300.  # s until the others take over, and until the device is back
LINK = 10e9             # bytes/s of a node in the start-up broadcast, a binary tree


class Model:
    """One job on so many devices; run() gives (steady efficiency, tail seconds, lost device seconds a failure)."""

    def __init__(self, job, disk, devices, unit_flops, batch, events, seed, mtbf=MTBF):
        self.disk, self.devices, self.batch, self.mtbf = disk, devices, batch, mtbf
        self.images = max(unit_flops / job["flops"], 1)
        self.seconds = self.images / job["rate"]
        self.bytes = 4 * self.images + 32
        self.units_of_job = job["images"] / self.images
        self.units = int(min(self.units_of_job, max(events, 8 * devices)))
        random = np.random.default_rng(seed)
        self.speed = 1 + DEVICE_NOISE * random.standard_normal(devices)
        self.speed[random.random(devices) < SLOW_SHARE] *= SLOW
        self.noise = np.maximum(1 + UNIT_NOISE * random.standard_normal(1 << 16), .5)
        self.failure = random.exponential(mtbf, devices)
        self.random = random

    def run(self):
        left, answered, synced = self.units, 0., 0.
        hand = [0] * self.devices        # units handed out and not begun
        record = [0.] * self.devices     # when the last record is safe
        speed, noise, failure = self.speed.tolist(), self.noise.tolist(), self.failure.tolist()
        ready = [(0., d) for d in range(self.devices)]
        returned = []                    # (time, units) of devices that failed
        drained, last, done, lost, failures, n = None, 0., 0, 0., 0, 0
        each = max(1 / self.disk["syncs"], self.bytes / self.disk["bandwidth"])
        while ready:
            time, d = heapq.heappop(ready)
            while returned and returned[0][0] <= time:
                left += heapq.heappop(returned)[1]
            if not hand[d]:
                answered = max(answered, time + MESSAGE) + ANSWER
                time = answered + MESSAGE
                hand[d] = min(self.batch, left)
                left -= hand[d]
                if not hand[d]:
                    if drained is None and done > self.units / 2:
                        drained = (time, done)
                    if returned:         # wait for what a silent device has in hand
                        heapq.heappush(ready, (max(time, returned[0][0]), d))
                    continue
            n += 1
            end = time + self.seconds / speed[d] * noise[n & 0xffff]
            if end > failure[d]:
                safe = record[d] <= failure[d]
                lost += max(failure[d] - time, 0) + (0 if safe else self.seconds)
                failures += 1
                done -= 0 if safe else 1
                heapq.heappush(returned, (failure[d] + SILENCE, hand[d] + (0 if safe else 1)))
                hand[d] = 0
                back = failure[d] + RESTART
                failure[d] = back + self.random.exponential(self.mtbf)
                heapq.heappush(ready, (back, d))
                continue
            hand[d] -= 1
            done += 1
            synced = max(synced, end) + each
            free = max(end, record[d])   # two records: one is computed while the other is saved
            record[d] = synced + self.disk["latency"]
            last = max(last, record[d])
            heapq.heappush(ready, (free, d))
        drained = drained or (last, done)
        begun = drained[1] - self.devices / 2  # units in hand are half done
        steady = begun * self.seconds / (sum(speed) * drained[0])
        return steady, last - drained[0], lost / failures if failures else 0.


def whole(job, disk, devices, unit, batch, events, seed):
    """Efficiency and wall seconds of the whole job: the seconds that its units take with all devices at work, slow ones at
    their speed, over the wall seconds."""
    model = Model(job, disk, devices, unit, batch, events, seed)
    steady, tail, _ = model.run()
    work = job["images"] / job["rate"] / sum(model.speed)
    startup = math.ceil(math.log2(devices)) * job["startup_bytes"] / LINK
    seconds = startup + work / steady + tail
    return work / seconds, seconds


def lost(job, disk, devices, unit, batch, seed):
    """Device seconds that one failure costs in work to be done again; failures made frequent, so that there are some."""
    model = Model(job, disk, devices, unit, batch, 40000, seed, mtbf=max(4 * unit / job["flops"] / job["rate"], 1) * 50)
    return model.run()[2]


# ----------------------------------------------------------------------------------------------------- results


def measure(events, seed):
    found = {}
    for name, job in JOBS.items():
        for disk_name, disk in DISKS.items():
            for devices in DEVICES:
                for unit in UNITS:
                    found[name, disk_name, devices, unit, 1] = whole(job, disk, devices, unit, 1, events, seed)
            for batch in BATCHES[1:]:
                found[name, disk_name, 1024, DESIGN_UNIT, batch] = whole(job, disk, 1024, DESIGN_UNIT, batch, events, seed)
    return found


def tables(found, seed):
    lines = ["| job | file system | devices | " + " | ".join(f"{u:.0e}".replace("e+", "e") for u in UNITS) + " |",
             "|---|---|---|" + "---|" * len(UNITS)]
    for name in JOBS:
        for disk in DISKS:
            for devices in DEVICES:
                lines.append(f"| {name} | {disk} | {devices} | " + " | ".join(
                    f"{100 * found[name, disk, devices, u, 1][0]:.1f} %" for u in UNITS) + " |")
    lines += ["", "| job, 1,024 devices, units of 1e13 flops | file system | " +
              " | ".join(f"batch {b}" for b in BATCHES) + " |", "|---|---|" + "---|" * len(BATCHES)]
    for name in JOBS:
        for disk in DISKS:
            lines.append(f"| {name} | {disk} | " + " | ".join(
                f"{100 * found[name, disk, 1024, DESIGN_UNIT, b][0]:.1f} %" for b in BATCHES) + " |")
    lines += ["", "| lost by a failure, device seconds | " + " | ".join(f"{u:.0e}".replace("e+", "e") for u in UNITS) +
              " | syncs/s of 1,024 devices at 1e13 |", "|---|" + "---|" * (len(UNITS) + 1)]
    for name, job in JOBS.items():
        cells = [f"{lost(job, DISKS['parallel file system'], 64, u, 1, seed):.3f}" for u in UNITS]
        lines.append(f"| {name} | " + " | ".join(cells) + f" | {1024 * job['rate'] * job['flops'] / DESIGN_UNIT:,.0f} |")
    return "\n".join(lines)


# ---------------------------------------------------------------------------------------------------- drawing

WIDTH, HEIGHT, LEFT, TOP, GAP = 330, 210, 50, 34, 64
COLOURS = {8: "#9aa5b1", 64: "#4c9f70", 256: "#3b6fb6", 1024: "#c0504d"}


def panel(found, name, disk, x0, y0):
    def x(unit):
        return x0 + WIDTH * (math.log10(unit) - 12) / 2

    def y(share):
        return y0 + HEIGHT * (1 - share)

    out = [f'<text x="{x0}" y="{y0 - 10}" font-weight="bold">{name}, {disk}</text>',
           f'<rect x="{x0}" y="{y0}" width="{WIDTH}" height="{HEIGHT}" fill="none" stroke="#888"/>']
    for share in (0, .25, .5, .75, 1):
        out.append(f'<line x1="{x0}" x2="{x0 + WIDTH}" y1="{y(share):.1f}" y2="{y(share):.1f}" stroke="#ddd"/>'
                   f'<text x="{x0 - 6}" y="{y(share) + 4:.1f}" text-anchor="end">{share:g}</text>')
    for power in (12, 13, 14):
        out.append(f'<text x="{x(10. ** power):.1f}" y="{y0 + HEIGHT + 16}" text-anchor="middle">1e{power}</text>')
    out.append(f'<line x1="{x(DESIGN_UNIT):.1f}" x2="{x(DESIGN_UNIT):.1f}" y1="{y0}" y2="{y0 + HEIGHT}" stroke="#aaa" '
               'stroke-dasharray="4 3"/>')
    for devices in DEVICES:
        points = [(x(u), y(found[name, disk, devices, u, 1][0])) for u in UNITS]
        line = " ".join(f"{a:.1f},{b:.1f}" for a, b in points)
        out.append(f'<polyline points="{line}" fill="none" stroke="{COLOURS[devices]}" stroke-width="2"/>')
        out += [f'<circle cx="{a:.1f}" cy="{b:.1f}" r="2.5" fill="{COLOURS[devices]}"/>' for a, b in points]
    return out


def draw(found, path):
    width, height = LEFT + 2 * WIDTH + GAP + 16, TOP + 2 * (HEIGHT + GAP) + 10
    out = [f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" font-family="sans-serif" '
           'font-size="12"><rect width="100%" height="100%" fill="#fff"/>']
    for row, name in enumerate(JOBS):
        for column, disk in enumerate(DISKS):
            out += panel(found, name, disk, LEFT + column * (WIDTH + GAP), TOP + row * (HEIGHT + GAP))
    x = LEFT
    for devices in DEVICES:
        out.append(f'<rect x="{x}" y="{height - 22}" width="12" height="12" fill="{COLOURS[devices]}"/>'
                   f'<text x="{x + 17}" y="{height - 12}">{devices:,} devices</text>')
        x += 110
    out.append(f'<text x="{x}" y="{height - 12}">efficiency against flops of a work unit</text></svg>')
    with open(path, "w", encoding="utf-8") as file:
        file.write("\n".join(out) + "\n")


def main():
    from plan_reality import replace_between
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--events", type=int, default=150000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--svg")
    parser.add_argument("--doc")
    o = parser.parse_args()
    found = measure(o.events, o.seed)
    text = tables(found, o.seed)
    print(text)
    if o.svg:
        draw(found, o.svg)
    if o.doc:
        replace_between(o.doc, "scheduler-model", text)


if __name__ == "__main__":
    main()
