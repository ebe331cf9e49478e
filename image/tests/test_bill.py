"""The bill of materials of the image that was built, held against those who say what one looks like: CycloneDX's own JSON
schema, SPDX's own validator. And Debian's copyright files, read as DEP-5 says.

Run by scripts/image on this machine, with .tools/venv-bill: it needs no box.
"""

import json
import os
import pathlib
import sys
import tempfile
import tomllib
import unittest

HERE = pathlib.Path(__file__).resolve().parent
ROOT = HERE.parent.parent
sys.path.insert(0, str(HERE.parent / "bill"))
import debian  # noqa: E402

STEM = os.environ.get("POSTKEEP_IMAGE", "")


def made(end):
    return pathlib.Path(f"{STEM}.{end}").read_text()


class CycloneDx(unittest.TestCase):
    def complaint(self, text):
        from cyclonedx.schema import SchemaVersion
        from cyclonedx.validation.json import JsonStrictValidator

        return JsonStrictValidator(SchemaVersion.V1_6).validate_str(text)

    def test_it_is_valid_by_the_schema_of_version_1_6(self):
        self.assertIsNone(self.complaint(made("cyclonedx.json")))

    def test_the_schema_finds_what_is_wrong(self):
        document = json.loads(made("cyclonedx.json"))
        document["components"][0]["type"] = "thing"
        self.assertIsNotNone(self.complaint(json.dumps(document)))


class Spdx(unittest.TestCase):
    def complaints(self, text):
        from spdx_tools.spdx.parser.parse_anything import parse_file
        from spdx_tools.spdx.validation.document_validator import validate_full_spdx_document

        with tempfile.NamedTemporaryFile("w", suffix=".spdx.json") as file:
            file.write(text)
            file.flush()
            return [one.validation_message for one in validate_full_spdx_document(parse_file(file.name), "SPDX-2.3")]

    def test_it_is_valid_by_version_2_3(self):
        self.assertEqual(self.complaints(made("spdx.json")), [])

    def test_the_validator_finds_what_is_wrong(self):
        document = json.loads(made("spdx.json"))
        document["hasExtractedLicensingInfos"].pop()
        self.assertNotEqual(self.complaints(json.dumps(document)), [])


class WhatTheySay(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.cyclonedx, cls.spdx = json.loads(made("cyclonedx.json")), json.loads(made("spdx.json"))
        cls.manifest = [line.split(" ", 4) for line in made("manifest").splitlines()]

    def test_both_and_the_manifest_list_the_same(self):
        one = {(each["name"], each["version"]) for each in self.cyclonedx["components"]}
        other = {(each["name"], each["versionInfo"]) for each in self.spdx["packages"] if each["SPDXID"] != "SPDXRef-image"}
        self.assertEqual(one, other)
        listed = {(name, version) for _, name, version, _, _ in self.manifest}
        programs = {each["name"] for each in tomllib.loads((ROOT / "image/programs.toml").read_text())["program"]}
        self.assertEqual({name for name, _ in one - listed} - programs, set())
        self.assertEqual(listed - one, set())

    def test_what_must_be_in_every_image_is_listed(self):
        names = {name for _, name, *_ in self.manifest}
        self.assertLess({"systemd", "libc6", "nftables", "rustls", "tokio", "std"}, names)
        self.assertTrue(any(name.startswith("linux-image-") for name in names))
        # Taken out by image/finalize.
        self.assertEqual(names & {"bash", "dash", "apt", "perl-base", "grep", "login"}, set())

    def test_microcode_and_firmware_come_with_their_licences(self):
        wanted = tomllib.loads((ROOT / "firmware/components.toml").read_text())["component"]
        listed = {name: licence for kind, name, _, _, licence in self.manifest if kind == "firmware"}
        self.assertEqual(listed, {one["package"]: one["licence"] for one in wanted})

    def test_most_licences_are_known(self):
        unknown = [name for _, name, _, _, licence in self.manifest if licence == debian.UNKNOWN]
        self.assertLess(len(unknown), 8, unknown)

    def test_the_time_is_the_one_of_the_whole_image(self):
        self.assertEqual(self.cyclonedx["metadata"]["timestamp"], self.spdx["creationInfo"]["created"])
        self.assertTrue(self.spdx["creationInfo"]["created"].startswith("1970-01-01"))


class CopyrightFiles(unittest.TestCase):
    """Oracle: DEP-5, "License specification"."""

    TABLE = {"expat": "MIT", "bsd-3-clause": "BSD-3-Clause"}

    def test_names_of_licences_become_spdx_identifiers(self):
        cases = {
            "GPL-2+": "GPL-2.0-or-later", "GPL-3": "GPL-3.0-only", "LGPL-2.1+": "LGPL-2.1-or-later", "Expat": "MIT",
            "GPL-1+ or Artistic": "GPL-1.0-or-later OR LicenseRef-Debian-Artistic",
            "GPL-2+ and BSD-3-clause": "BSD-3-Clause AND GPL-2.0-or-later",
            "GPL-1+ or Expat, and BSD-3-clause": "BSD-3-Clause AND (GPL-1.0-or-later OR MIT)",
            "public-domain": "LicenseRef-Debian-public-domain",
        }
        self.assertEqual({name: debian.expression(name, self.TABLE) for name in cases}, cases)

    def test_a_file_that_is_prose_is_not_guessed_at(self):
        self.assertEqual(debian.licence("This package is under the GPL, version 2 or later.\n", self.TABLE), debian.UNKNOWN)

    def test_all_licences_of_the_files_count_and_texts_of_licences_do_not(self):
        text = ("Format: https://www.debian.org/doc/packaging-manuals/copyright-format/1.0/\n\nFiles: *\nCopyright: A\nLicense: Expat\n\n"
                "Files: b\nCopyright: B\nLicense: GPL-2\n The text.\n\nLicense: BSD-3-clause\n Nobody uses it.\n")
        self.assertEqual(debian.licence(text, self.TABLE), "GPL-2.0-only AND MIT")


if __name__ == "__main__":
    unittest.main(verbosity=2)
