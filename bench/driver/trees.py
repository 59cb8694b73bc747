# SPDX-License-Identifier: MIT
"""The initramfs of the guests: the default guest, or the tree of Debian packages, with our programs
under /bench."""
import os
import re
import shutil
import subprocess

from driver import cpio

PROGRAMS = ('bench-guest', 'bench-exec', 'bench-exec-static')
SOURCES = ('lz.c', 'exec.c', 'bench.h', 'work.py')  # what gcc compiles and Python runs


def regular(path, mode=0o755):
    with open(path, 'rb') as f:
        return 0o100000 | mode, f.read()


def shared_objects(program):
    """The loader and libraries of a dynamic program, by the paths where the guest looks for them."""
    listing = subprocess.run(['ldd', program], check=True, capture_output=True, text=True).stdout
    return sorted(set(re.findall(r'(/\S+)', listing)))


def bench_members(bin_dir):
    """What is added to an initramfs: (name, mode, data)."""
    yield 'bench', 0o40755, b''
    for name in PROGRAMS:
        yield f'bench/{name}', *regular(os.path.join(bin_dir, name))
    yield 'bench/busybox', *regular(os.path.join(bin_dir, 'busybox'))
    yield 'bench/init', *regular('bench/guest/init')


def library_members(bin_dir):
    made = set()
    for path in shared_objects(os.path.join(bin_dir, 'bench-exec')):
        folders = path.strip('/').split('/')[:-1]
        for depth in range(1, len(folders) + 1):
            folder = '/'.join(folders[:depth])
            if folder not in made:
                made.add(folder)
                yield folder, 0o40755, b''
        yield path.strip('/'), *regular(path)


def make_default(guest, bin_dir, out):
    """Writes OUT, the default guest's initramfs and ours behind it; also takes busybox out of it,
    for the native side."""
    initrd = os.path.join(guest, 'initrd.gz')
    sources = [initrd, 'bench/guest/init', __file__] + [os.path.join(bin_dir, p) for p in PROGRAMS]
    if os.path.exists(out) and all(os.path.getmtime(out) > os.path.getmtime(s) for s in sources):
        return
    busybox = os.path.join(bin_dir, 'busybox')
    for name, _, data in cpio.entries(initrd):
        if name == 'bin/busybox':
            with open(busybox, 'wb') as f:
                f.write(data)
            os.chmod(busybox, 0o755)
            break
    else:
        raise ValueError(f'{initrd} holds no bin/busybox; make guest')
    with open(out + '.new', 'wb') as archive:
        with open(initrd, 'rb') as f:
            data = f.read()
        archive.write(data + bytes(-len(data) % 4))  # the kernel wants the next one aligned
        cpio.write(archive, [*library_members(bin_dir), *bench_members(bin_dir)])
    os.rename(out + '.new', out)


def make_programs(tree, bin_dir, out):
    """Puts our programs and sources into the tree, which the native side enters by chroot, and writes
    OUT, the same as an initramfs."""
    sources = [os.path.join(tree, '../inputs'), __file__, 'bench/guest/init',
               *(os.path.join(bin_dir, p) for p in PROGRAMS),
               *(os.path.join('bench/guest', s) for s in SOURCES)]
    if os.path.exists(out) and all(os.path.getmtime(out) > os.path.getmtime(s) for s in sources):
        return
    folder = os.path.join(tree, 'bench')
    os.makedirs(os.path.join(folder, 'source'), exist_ok=True)
    for name in (*PROGRAMS, 'busybox'):
        shutil.copy(os.path.join(bin_dir, name), folder)
    shutil.copy('bench/guest/init', folder)
    for name in SOURCES:
        shutil.copy(os.path.join('bench/guest', name), os.path.join(folder, 'source'))
    links = [(f'bin/{name}', 0o120777, b'/bench/busybox')  # for /bench/init
             for name in ('sh', 'mount', 'poweroff')]
    with open(out + '.new', 'wb') as archive:
        cpio.write(archive, [*cpio.members(tree), *links])
    os.rename(out + '.new', out)
