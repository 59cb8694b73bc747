# SPDX-License-Identifier: MIT
"""Medians, ratios, the table and the CSV file."""
import csv
import math
from statistics import median

GROUP_GATE, SIMD_GATE, ROW_GATE = 3.0, 10.0, 1.5


def geometric_mean(values):
    values = list(values)
    return math.exp(sum(map(math.log, values)) / len(values)) if values else math.nan


class Results:
    """What was measured: one sample for each side, row and round. `clock` is wall or cpu."""

    def __init__(self, sides, subject, clock):
        self.sides = sides      # names, in the order of columns
        self.subject = subject  # the side that is held against qemu
        self.clock = clock
        self.samples = []       # (group, row, side, round, seconds, host's, cpu, checksum)
        self.ungated = set()    # groups

    def add(self, group, side, turn, rows):
        for name, values in rows.items():
            self.samples.append((group, name.split('/')[1], side, turn, *values))

    def time(self, group, row, side):
        at = 4 if self.clock == 'wall' else 6
        times = [s[at] for s in self.samples if s[:3] == (group, row, side)]
        return median(times) if times else math.nan

    def ratio(self, group, row, side, to):
        return self.time(group, row, side) / self.time(group, row, to)

    def speed(self, group, row):
        """How many times faster than TCG the subject is; without a subject, TCG against native."""
        if self.subject is None:
            return self.ratio(group, row, 'native', 'qemu')
        return self.ratio(group, row, 'qemu', self.subject)

    def rows_of(self, group):
        return list(dict.fromkeys(s[1] for s in self.samples if s[0] == group))

    def groups(self):
        return list(dict.fromkeys(s[0] for s in self.samples))

    def differences(self):
        """Rows whose checksums are not all the same: a failure of some side."""
        sums = {}
        for group, row, side, _, _, _, _, checksum in self.samples:
            sums.setdefault(f'{group}/{row}', {}).setdefault(checksum, set()).add(side)
        return [f'{row}: checksums differ: ' + ', '.join(
            f'{checksum} on {" and ".join(sorted(sides))}' for checksum, sides in found.items())
            for row, found in sums.items() if len(found) > 1]

    def write_csv(self, path):
        with open(path, 'w', newline='') as f:
            out = csv.writer(f)
            out.writerow(['group', 'row', 'side', 'round', 'seconds', 'host_seconds', 'cpu_seconds',
                          'checksum'])
            out.writerows([*s[:4], *(f'{v:.6f}' for v in s[4:7]), s[7]] for s in self.samples)


def number(value, digits=2):
    return '-' if math.isnan(value) else f'{value:.{digits}f}'


def order(value):
    return math.inf if math.isnan(value) else value


def gate_of(group):
    return SIMD_GATE if group == 'simd' else GROUP_GATE


def table(results):
    """Lines: groups and rows, the worst first; ratios are to native, the last column is how many
    times faster than TCG. A mark stands where a gate is missed."""
    guests = [s for s in results.sides if s != 'native']
    gated = results.subject is not None and 'qemu' in results.sides
    head = ['row', 'native ms', *(f'{side} x' for side in guests)]
    if gated:
        head.append('faster than TCG')
    lines = []

    def means(group):
        rows = results.rows_of(group)
        cells = [geometric_mean(r for r in (results.ratio(group, row, side, 'native')
                                            for row in rows) if not math.isnan(r))
                 for side in guests]
        speeds = [s for s in (results.speed(group, row) for row in rows) if not math.isnan(s)]
        return cells, geometric_mean(speeds)

    groups = sorted(results.groups(),
                    key=lambda g: (g in results.ungated, order(means(g)[1])))
    for group in groups:
        cells, speed = means(group)
        free = group in results.ungated
        mark = ' <' if gated and not free and speed < gate_of(group) else ''
        lines.append([group + (' (not gated)' if free else ''), '', *map(number, cells)] +
                     ([number(speed) + mark] if gated else []))
        for row in sorted(results.rows_of(group), key=lambda r: order(results.speed(group, r))):
            speed = results.speed(group, row)
            mark = ' <' if gated and not free and speed < ROW_GATE else ''
            lines.append(['  ' + row, number(results.time(group, row, 'native') * 1000, 1)] +
                         [number(results.ratio(group, row, side, 'native')) for side in guests] +
                         ([number(speed) + mark] if gated else []))
    return layout([head, *lines])


def layout(rows):
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    for row in rows:
        yield '  '.join(cell.ljust(width) if i == 0 else cell.rjust(width)
                        for i, (cell, width) in enumerate(zip(row, widths))).rstrip()


def missed_gates(results):
    """How many groups and rows miss their gates."""
    groups = rows = 0
    for group in results.groups():
        if group in results.ungated:
            continue
        speeds = [results.speed(group, row) for row in results.rows_of(group)]
        speeds = [s for s in speeds if not math.isnan(s)]
        groups += bool(speeds) and geometric_mean(speeds) < gate_of(group)
        rows += sum(s < ROW_GATE for s in speeds)
    return groups, rows
