# SPDX-License-Identifier: MIT
"""The sides of the comparison: how each one starts, and the lines it prints with the host's time."""
import os
import re
import select
import signal
import subprocess
import time
from dataclasses import dataclass, field

# The C library's choices are pinned to what x86-64-v3 has, and to sizes that do not depend on what
# CPUID says of caches. bench-guest prints what was chosen, and bench/run compares that.
TUNABLES = ('glibc.cpu.hwcaps=-AVX512F,-AVX512VL,-AVX512BW,-AVX512DQ,-AVX512CD,-ERMS,-FSRM,-RTM,'
            '-XSAVEC,-Prefer_No_VZEROUPPER,Fast_Unaligned_Load:glibc.cpu.x86_non_temporal_threshold=0xc0000:'
            'glibc.cpu.x86_rep_movsb_threshold=0x800:glibc.cpu.x86_rep_stosb_threshold=0x800:'
            'glibc.cpu.x86_data_cache_size=0x8000:glibc.cpu.x86_shared_cache_size=0x100000')
SILENCE = 180  # seconds without a line until a side counts as hanging


@dataclass
class Run:
    """One start of one side: what it measured, and why it failed if it did."""
    rows: dict = field(default_factory=dict)  # name: (seconds, host's seconds, cpu seconds, checksum)
    dispatch: str = ''
    failure: str = ''


def processor_time(pid):
    """Of all threads of a process, exactly (clock_getcpuclockid)."""
    return time.clock_gettime(~pid << 3 | 2)


def stamped_lines(process, log):
    """Yields (line, host's time, processor time) as the lines come."""
    buffered = b''
    fd = process.stdout.fileno()
    while True:
        if not select.select([fd], [], [], SILENCE)[0]:
            process.kill()
            raise TimeoutError(f'no line for {SILENCE} s')
        data = os.read(fd, 65536)
        at = time.monotonic(), processor_time(process.pid)
        if not data:
            return
        log.write(data)
        buffered += data
        *lines, buffered = buffered.split(b'\n')
        for line in lines:
            yield line.decode(errors='replace').strip('\r'), *at


# A mount namespace of its own, gone with the process; the guest's /tmp is in memory, too.
CHROOT = ('set -e; mount --rbind /dev "$0/dev"; mount --rbind /proc "$0/proc"; '
          'mount -t tmpfs tmpfs "$0/tmp"; exec chroot "$0" "$@"')


class Native:
    name = 'native'

    def __init__(self, config):
        self.config = config

    def command(self, group):
        arguments = ['run', str(self.config.scale), *group.rows]
        if not group.tree:
            return [os.path.abspath(os.path.join(self.config.bin_dir, 'bench-guest')), *arguments]
        user = [] if os.geteuid() == 0 else ['--map-root-user']
        return ['unshare', *user, '--mount', 'sh', '-c', CHROOT, group.tree, '/bench/bench-guest',
                *arguments]

    def start(self, group, stderr, log_path):
        cpu = max(os.sched_getaffinity(0))  # guests have one processor, too
        return subprocess.Popen(
            self.command(group), stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=stderr,
            env={'PATH': '/bin:/usr/bin:/sbin:/usr/sbin', 'TMPDIR': '/tmp', 'HOME': '/tmp',
                 'GLIBC_TUNABLES': TUNABLES},
            preexec_fn=lambda: os.sched_setaffinity(0, {cpu}))


class Guest:
    """A virtual machine: same kernel, initramfs, memory and command line for all."""

    def __init__(self, name, config):
        self.name = name
        self.config = config

    def append(self, group):
        return (f'{group.append} rdinit=/bench/init bench.scale={self.config.scale} '
                f'bench.rows={",".join(group.rows)} bench.tunables={TUNABLES}'
                if group.rows else group.append)

    def start(self, group, stderr, log_path):
        return subprocess.Popen(self.command(group, self.append(group), log_path),
                                stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=stderr)


class Doppel(Guest):
    def command(self, group, append, log_path):
        return [self.config.doppel, 'run', '--engine', self.name, '--cpu', 'base', '--mem', '1G',
                '--kernel', self.config.kernel, '--initrd', group.initrd, '--append', append,
                f'--stats={log_path}.json']


class Qemu(Guest):
    # Feature bits that the model `base` of doppel does not have either.
    CPU = 'max,erms=off'

    def command(self, group, append, log_path):
        return ['qemu-system-x86_64', '-accel', 'tcg', '-cpu', self.CPU, '-m', '1G', '-display',
                'none', '-serial', 'stdio', '-monitor', 'none', '-nic', 'none', '-no-reboot',
                '-kernel', self.config.kernel, '-initrd', group.initrd, '-append', append]


ROW = re.compile(r'bench row (\S+) (\d+) (\d+) ([0-9a-f]{16})$')


def read_rows(run, lines, wanted, native):
    """Rows that bench-guest prints. A guest's clock is held against the host's: a row whose two times
    differ by more than 5 % and 0.1 s, which a busy host takes to wake us, is a failure."""
    begun = None
    for line, at, used in lines:
        if line.startswith('bench begin '):
            begun = at, used
        elif line.startswith('bench dispatch '):
            run.dispatch = line.split()[2]
        elif match := ROW.match(line):
            name, wall, cpu = match[1], int(match[2]) / 1e9, int(match[3]) / 1e9
            outside = at - begun[0]
            if abs(outside - wall) > 0.1 + 0.05 * outside:
                run.failure = f'{name}: its clock says {wall:.3f} s, the host\'s {outside:.3f} s'
            run.rows[name] = wall, outside, cpu if native else used - begun[1], match[4]
    if missing := [name for name in wanted if name not in run.rows]:
        run.failure = run.failure or f'no figure for {missing[0]}'


def read_boot(run, lines, started):
    """Rows of a boot: from the kernel's first message to init's, and from the start of the program."""
    first = None
    for line, at, used in lines:
        if first is None and 'Linux version' in line:
            first = at, used
        elif 'doppel guest: init reached' in line and first is not None:
            run.rows['boot/kernel'] = at - first[0], at - first[0], used - first[1], ''
            run.rows['boot/whole'] = at - started, at - started, used, ''
    if not run.rows:
        run.failure = 'init was not reached'


def measure(side, group, log_path):
    """Runs a group on a side to the end of its process."""
    run = Run()
    with open(log_path, 'wb') as log, open(log_path + '.err', 'w+b') as stderr:
        started = time.monotonic()
        process = side.start(group, stderr, log_path)
        try:
            lines = stamped_lines(process, log)
            if group.rows:
                read_rows(run, lines, group.rows, side.name == 'native')
            else:
                read_boot(run, lines, started)
        except TimeoutError as e:
            run.failure = str(e)
        except KeyboardInterrupt:
            process.send_signal(signal.SIGKILL)
            raise
        status = process.wait()
        stderr.seek(0)
        said = stderr.read().decode(errors='replace').strip().splitlines()
        if status != 0:
            run.failure = run.failure or f'status {status}'
    if run.failure:
        run.failure += f' ({said[-1] if said else "nothing on stderr"}; console in {log_path})'
    return run
