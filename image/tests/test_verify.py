"""What is said of two builds that differ, and that a boot file is signed as it should be. Oracles: GNU cpio, mkfs.erofs,
postkeep-firmware."""

import importlib.machinery
import importlib.util
import os
import pathlib
import subprocess
import tempfile
import unittest

import differences
import sums

BUILD = pathlib.Path("/build")


def tree(files):
    """A folder with these files, all of the same time."""
    folder = pathlib.Path(tempfile.mkdtemp())
    for name, text in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    for path in [folder, *folder.rglob("*")]:
        os.utime(path, (0, 0))
    return folder


def packed(files):
    """The files as a cpio archive, packed by zstd."""
    folder = tree(files)
    names = "\0".join(sorted(str(path.relative_to(folder)) for path in folder.rglob("*")))
    archive = subprocess.run(["cpio", "--quiet", "-o", "-0", "-H", "newc", "--reproducible", "-D", folder], input=names.encode(), check=True, capture_output=True).stdout
    return subprocess.run(["zstd", "-q", "-c"], input=archive, check=True, capture_output=True).stdout


def root(files):
    """The files as an erofs."""
    image = pathlib.Path(tempfile.mkdtemp()) / "root"
    subprocess.run(["mkfs.erofs", "--quiet", "-T0", "-U", "00000000-0000-0000-0000-000000000000", image, tree(files)], check=True, capture_output=True)
    return image


class WhichFile(unittest.TestCase):
    def test_of_two_roots_the_file_whose_content_differs_is_named(self):
        one, other = root({"etc/a": "1", "etc/b": "same"}), root({"etc/a": "2", "etc/b": "same"})
        self.assertEqual(differences.roots(one, other), ["etc/a: content"])

    def test_of_two_roots_what_only_one_has_is_named(self):
        one, other = root({"a": "1", "b": "2"}), root({"a": "1", "c": "2"})
        self.assertEqual(differences.roots(one, other), ["b: only in the first build", "c: only in the second build"])

    def test_of_two_initrds_of_several_archives_the_file_is_named(self):
        modules = packed({"usr/lib/modules/x.ko": "module"})
        one, other = packed({"init": "1", "etc/a": "same"}) + modules, packed({"init": "22", "etc/a": "same"}) + modules
        self.assertEqual(differences.initrds(one, other), ["init: content, size"])
        self.assertEqual(differences.initrds(one, one), ["no file in it: how it was packed"])

    def test_every_file_of_an_archive_is_read(self):
        octets = subprocess.run(["zstd", "-dcq"], input=packed({"a": "1", "b/c": "070701 is in it", "b/d": ""}), check=True, capture_output=True).stdout
        self.assertEqual(sorted(differences.archive(octets)), ["a", "b", "b/c", "b/d"])


class Sums(unittest.TestCase):
    def test_what_is_written_is_read_again(self):
        values = {"root": "ab" * 32, "initrd": "cd" * 32}
        self.assertEqual(sums.read("# for people\n" + sums.written(values)), values)

    def test_a_line_that_is_no_sum_is_an_error_with_its_number(self):
        for text in ("abc  root\n", "ab" * 32 + "\n", sums.written({"a": "ab" * 32}) * 2):
            with self.assertRaisesRegex(ValueError, r"line \d"):
                sums.read(text)


class BootFile(unittest.TestCase):
    def test_only_the_moment_in_which_the_data_volume_opens_is_signed(self):
        measured = sums.measure(BUILD / "bin/postkeep-firmware", BUILD / "boot-file.efi")
        self.assertEqual(measured["signed"], [{"phase": sums.PHASE, "is_valid": True}])

    def test_the_kernel_in_it_is_debians_without_a_signature_of_ours(self):
        measured = sums.measure(BUILD / "bin/postkeep-firmware", BUILD / "boot-file.efi")
        kernel = sums.section(BUILD / "boot-file.efi", measured, ".linux")
        self.assertNotIn(b"boot signature", kernel)
        # Whoever has the key: Debian's are there, and no other.
        file = BUILD / "scratch/kernel.efi"
        file.write_bytes(kernel)
        listed = subprocess.run(["sbverify", "--list", file], check=True, capture_output=True, text=True).stdout
        subjects = [line for line in listed.splitlines() if "subject:" in line]
        self.assertTrue(all("Debian" in line for line in subjects), listed)

    def test_ukify_is_told_otherwise_only_what_must_be(self):
        ukify = wrapper()
        self.assertEqual(ukify.PHASES, sums.PHASE)
        self.assertEqual(ukify.changed(["--version"]), ["--version"])
        self.assertEqual(ukify.changed(["build", "--sign-kernel", "--pcr-private-key", "k", "--microcode", "m"], copy=str.upper),
                         ["build", "--no-sign-kernel", "--pcr-private-key", "k", "--microcode", "M", "--phases", ukify.PHASES])

    def test_the_archive_of_microcode_bears_no_times_and_is_otherwise_the_same(self):
        archive = subprocess.run(["cpio", "--quiet", "-o", "-H", "newc", "-D", "/etc"], input=b"hostname\npasswd\nsystemd\n", check=True, capture_output=True).stdout
        before, after = differences.archive(archive), differences.archive(wrapper().without_times(archive))
        self.assertEqual({name: one["time"] for name, one in after.items()}, dict.fromkeys(("hostname", "passwd", "systemd"), 0))
        self.assertEqual({name: {**one, "time": 0} for name, one in before.items()}, after)


def wrapper():
    """image/tools/ukify, as a module."""
    loader = importlib.machinery.SourceFileLoader("ukify", str(BUILD / "image/tools/ukify"))
    module = importlib.util.module_from_spec(importlib.util.spec_from_loader("ukify", loader))
    loader.exec_module(module)
    return module


if __name__ == "__main__":
    unittest.main(verbosity=2)
