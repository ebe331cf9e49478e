"""In what two builds differ: which file of the root, which file of the initrd, which section of the boot file.

Used by image/verify, as root, when sums differ. Names are said in the order of the tree; at most MOST of them.
"""

import hashlib
import pathlib
import stat
import subprocess
import tempfile

MOST = 10
# The header of the newc format (cpio(5)): a magic number and 13 fields of 8 hexadecimal digits.
HEADER = 6 + 13 * 8


def told(path):
    """All about a file that an image keeps."""
    status = path.lstat()
    result = {"mode": oct(status.st_mode), "owner": f"{status.st_uid}:{status.st_gid}", "time": status.st_mtime_ns}
    if stat.S_ISREG(status.st_mode):
        result["size"] = status.st_size
        result["content"] = hashlib.sha256(path.read_bytes()).hexdigest()
    if path.is_symlink():
        result["target"] = str(path.readlink())
    return result


def compared(one, other):
    """Lines about two sets of named things, each with its properties."""
    lines = []
    for name in sorted(one.keys() | other.keys()):
        if name not in other:
            lines.append(f"{name}: only in the first build")
        elif name not in one:
            lines.append(f"{name}: only in the second build")
        elif one[name] != other[name]:
            kinds = [kind for kind in one[name].keys() | other[name].keys() if one[name].get(kind) != other[name].get(kind)]
            lines.append(f"{name}: {', '.join(sorted(kinds))}")
    return lines


def roots(first, second):
    """Which files of two root partitions differ."""
    trees = []
    for partition in (first, second):
        with tempfile.TemporaryDirectory() as folder:
            subprocess.run(["mount", "-t", "erofs", "-o", "loop,ro", partition, folder], check=True)
            try:
                root = pathlib.Path(folder)
                trees.append({str(path.relative_to(root)): told(path) for path in root.rglob("*")})
            finally:
                subprocess.run(["umount", folder], check=True)
    return compared(*trees) or ["no file of it: how the file system lays them down"]


def archive(octets):
    """Name → properties of each entry of cpio archives in the newc format, one behind the other."""
    entries, at = {}, 0
    while (at := octets.find(b"0707", at)) >= 0:
        fields = [int(octets[at + 6 + 8 * number:at + 14 + 8 * number], 16) for number in range(13)]
        size, length = fields[6], fields[11]
        name = octets[at + HEADER:at + HEADER + length - 1].decode(errors="replace")
        content = (at + HEADER + length + 3) & ~3
        if name != "TRAILER!!!":
            entries[name] = {"inode": fields[0], "mode": oct(fields[1]), "owner": f"{fields[2]}:{fields[3]}", "time": fields[5], "size": size,
                             "content": hashlib.sha256(octets[content:content + size]).hexdigest()}
        at = (content + size + 3) & ~3
    return entries


def initrds(first, second):
    """Which files of two initrds differ; each is zstd frames of archives."""
    unpacked = [subprocess.run(["zstd", "-dcq"], input=octets, check=True, capture_output=True).stdout for octets in (first, second)]
    return compared(*map(archive, unpacked)) or ["no file in it: how it was packed"]


def sections(first, second):
    """Which sections of two boot files differ, as postkeep-firmware told them."""
    one, other = ({item["name"]: {"content": item["sha256"], "size": item["size"]} for item in measured["sections"]} for measured in (first, second))
    return compared(one, other) or ["its headers"]
