"""What is in a boot file's initrd, unpacked into a folder. Used in the tools tree by image/tests."""

import stat

import zstandard

import sums
from differences import HEADER

ZSTD = b"\x28\xb5\x2f\xfd"
NEWC = b"070701"


def entries(octets):
    """Mode, name and content of each file, as the kernel reads an initrd: archives in the newc format (cpio(5)), plain or in
    zstd frames, with zeros between them."""
    at = 0
    while at < len(octets):
        if octets[at] == 0:
            at += 1
        elif octets[at:at + len(ZSTD)] == ZSTD:
            frame = zstandard.ZstdDecompressor().decompressobj()
            yield from entries(frame.decompress(octets[at:]))
            at = len(octets) - len(frame.unused_data)
        elif octets[at:at + len(NEWC)] == NEWC:
            mode, links, size, length = (int(octets[at + field:at + field + 8], 16) for field in (14, 38, 54, 94))
            name = octets[at + HEADER:at + HEADER + length - 1].decode()
            content = (at + HEADER + length + 3) & ~3
            if name != "TRAILER!!!":
                if stat.S_ISREG(mode) and links > 1:
                    raise ValueError(f"{name} in the initrd has more than one name; only one of them would have a content here")
                yield mode, name, octets[content:content + size]
            at = (content + size + 3) & ~3
        else:
            raise ValueError(f"the initrd goes on at {at} with {octets[at:at + 8]!r}, which is no archive")


def unpack(boot_file, firmware, folder):
    """The files, folders and links of all that a boot file hands to the kernel as an initrd. Owners and devices are left out."""
    measured = sums.measure(firmware, boot_file)
    for section in (".ucode", ".initrd"):
        for mode, name, content in entries(sums.section(boot_file, measured, section)):
            path = folder / name
            if stat.S_ISDIR(mode):
                path.mkdir(parents=True, exist_ok=True)
            elif stat.S_ISLNK(mode):
                path.unlink(missing_ok=True)
                path.symlink_to(content.decode())
                continue
            elif stat.S_ISREG(mode):
                path.unlink(missing_ok=True)
                path.write_bytes(content)
            else:
                continue
            path.chmod(stat.S_IMODE(mode))
