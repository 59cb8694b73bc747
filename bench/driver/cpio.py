# SPDX-License-Identifier: MIT
"""Initramfs archives in the "newc" format (Linux, Documentation/driver-api/early-userspace/buffer-format.rst)."""
import gzip
import os
import stat


def entries(path):
    """Yields (name, mode, data) of a plain or gzipped archive; of the first, if several follow."""
    with open(path, 'rb') as f:
        data = f.read()
    if data[:2] == b'\x1f\x8b':
        data = gzip.decompress(data)
    at = 0
    while data[at:at + 6] == b'070701':
        field = [int(data[at + 6 + 8 * i:at + 14 + 8 * i], 16) for i in range(13)]
        name = data[at + 110:at + 110 + field[11] - 1].decode()
        if name == 'TRAILER!!!':
            return
        body = at + (110 + field[11] + 3) // 4 * 4
        yield name, field[1], data[body:body + field[6]]
        at = body + (field[6] + 3) // 4 * 4
    raise ValueError(f'{path}: not a whole newc archive')


def write(archive, members):
    """Writes members, (name, mode, data) each, in order; equal members give equal bytes."""
    def header(number, name, mode, size):
        fields = (number, mode, 0, 0, 1, 0, size, 0, 0, 0, 0, len(name) + 1, 0)
        head = b'070701' + b''.join(b'%08X' % field for field in fields) + name + b'\0'
        return head + bytes(-len(head) % 4)

    for number, (name, mode, data) in enumerate(members, 1):
        archive.write(header(number, name.encode(), mode, len(data)) + data + bytes(-len(data) % 4))
    archive.write(header(0, b'TRAILER!!!', 0, 0))


def members(tree):
    """Files, directories and links of a tree, sorted; hard links become files of their own."""
    for folder, folders, files in os.walk(tree):
        folders.sort()
        for name in sorted(folders + files):
            path = os.path.join(folder, name)
            mode = os.lstat(path).st_mode
            data = b''
            if stat.S_ISLNK(mode):
                data = os.readlink(path).encode()
            elif stat.S_ISREG(mode):
                with open(path, 'rb') as f:
                    data = f.read()
            yield os.path.relpath(path, tree), mode, data
