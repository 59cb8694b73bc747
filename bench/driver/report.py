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


def group_mean(results, group, side):
    """Geometric mean of the group's times in multiples of native."""
    ratios = (results.ratio(group, row, side, 'native') for row in results.rows_of(group))
    return geometric_mean(r for r in ratios if not math.isnan(r))


def group_speed(results, group):
    speeds = (results.speed(group, row) for row in results.rows_of(group))
    return geometric_mean(s for s in speeds if not math.isnan(s))


def worst_first(results):
    """(group, rows) in the order of the table; groups without a gate stand last."""
    groups = sorted(results.groups(),
                    key=lambda g: (g in results.ungated, order(group_speed(results, g))))
    return [(g, sorted(results.rows_of(g), key=lambda r, g=g: order(results.speed(g, r))))
            for g in groups]


def is_gated(results):
    return results.subject is not None and 'qemu' in results.sides


def row_name(results, group, row):
    """A boot has no native side to be held against: its times stand with its name."""
    if not math.isnan(results.time(group, row, 'native')):
        return row
    times = ((side, results.time(group, row, side)) for side in results.sides if side != 'native')
    return row + ''.join(f', {side} {t:.2f} s' for side, t in times if not math.isnan(t))


def table(results):
    """Lines: groups and rows, the worst first; ratios are to native, the last column is how many
    times faster than TCG. A mark stands where a gate is missed."""
    guests = [s for s in results.sides if s != 'native']
    gated = is_gated(results)

    def line(name, group, native, ratios, speed, gate):
        mark = ' <' if speed < gate and group not in results.ungated else ''
        return [name, native, *map(number, ratios), *([number(speed) + mark] if gated else [])]

    lines = [['row', 'native ms', *(f'{side} x' for side in guests),
              *(['faster than TCG'] if gated else [])]]
    for group, rows in worst_first(results):
        name = group + (' (not gated)' if group in results.ungated else '')
        lines.append(line(name, group, '', [group_mean(results, group, s) for s in guests],
                          group_speed(results, group), gate_of(group)))
        lines += [line('  ' + row_name(results, group, row), group, number(results.time(group, row, 'native') * 1000, 1),
                       [results.ratio(group, row, s, 'native') for s in guests],
                       results.speed(group, row), ROW_GATE) for row in rows]
    return layout(lines)


def layout(rows):
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    for row in rows:
        yield '  '.join(cell.ljust(width) if i == 0 else cell.rjust(width)
                        for i, (cell, width) in enumerate(zip(row, widths))).rstrip()


def missed_gates(results):
    """How many groups and rows miss their gates."""
    if not is_gated(results):
        return 0, 0
    gated = [(g, rows) for g, rows in worst_first(results) if g not in results.ungated]
    return (sum(group_speed(results, g) < gate_of(g) for g, _ in gated),
            sum(results.speed(g, row) < ROW_GATE for g, rows in gated for row in rows))
