"""What of Debian is in a tree: the packages of which a file is left, with their licences as their copyright files tell them.

Oracle of the format: Debian's "Machine-readable debian/copyright file" 1.0 (DEP-5). What a file does not tell in that
form is told by licences.toml, or is NOASSERTION: nothing is guessed.
"""

import os
import pathlib
import re

UNKNOWN = "NOASSERTION"
# Nobody uses a package for these.
NOT_COUNTED = ("/usr/share/doc/", "/usr/share/lintian/", "/usr/share/man/")
GNU = re.compile(r"^(A?GPL|LGPL|GFDL)-?v?([0-9](?:\.[0-9])?)(?:\.0)*(\+)?(?:\+)?$", re.IGNORECASE)


def paragraphs(text):
    """The paragraphs of a control file (Debian Policy 5.1): field in lower case → value; a value keeps its lines."""
    result, fields, name = [], {}, None
    for line in text.splitlines() + [""]:
        if not line.strip():
            if fields:
                result.append(fields)
            fields, name = {}, None
        elif line[0] in " \t":
            if name:
                fields[name] += "\n" + line.strip()
        elif not line.startswith("#") and ":" in line:
            name, value = line.split(":", 1)
            name = name.lower()
            fields[name] = value.strip()
    return result


def one_licence(name, table):
    """A short name of Debian's as an SPDX identifier, or one of ours that keeps the name."""
    known = table.get(name.lower())
    if known:
        return known
    gnu = GNU.match(name)
    if gnu:
        family, version, later = gnu.group(1).upper(), gnu.group(2), gnu.group(3)
        version = version if "." in version else version + ".0"
        return f"{family}-{version}-{'or-later' if later else 'only'}"
    return "LicenseRef-Debian-" + (re.sub(r"[^A-Za-z0-9.]+", "-", name).strip("-") or "unnamed")


def joined(word, parts):
    """Expressions with AND or OR between them; each stands once."""
    unique = sorted(set(parts))
    if len(unique) == 1:
        return unique[0]
    return f" {word} ".join(f"({one})" if " AND " in one or " OR " in one else one for one in unique)


def expression(synopsis, table):
    """The first line of a License field as an SPDX expression. A comma binds last, then "or", then "and" (DEP-5)."""
    text = " ".join(synopsis.replace("|", " or ").split()).strip(" ,;.")
    if not text:
        return None
    if text.lower() in table:
        return table[text.lower()]
    for separator, word in ((r",\s+and\s+", "AND"), (r",\s+or\s+", "OR"), (r"\s+(?:and/)?or\s+", "OR"), (r"\s+and\s+|,\s+", "AND")):
        parts = [part for part in re.split(separator, text, flags=re.IGNORECASE) if part.strip()]
        if len(parts) > 1:
            return joined(word, [told for part in parts if (told := expression(part, table))])
    return one_licence(text, table)


def licence(copyright_text, table):
    """All licences that a copyright file names for any of the files of its source, as one SPDX expression."""
    all_paragraphs = paragraphs(copyright_text)
    if not all_paragraphs or "copyright-format" not in all_paragraphs[0].get("format", ""):
        return UNKNOWN
    told = []
    for fields in all_paragraphs:
        if "files" in fields and "license" in fields:
            one = expression(fields["license"].split("\n", 1)[0], table)
            if one:
                told.append(one)
    return joined("AND", told) if told else UNKNOWN


def read_inside(root, path):
    """A file of the tree, links followed as if the tree were /; nothing when it is not there."""
    for _ in range(8):
        if not path.is_symlink():
            break
        target = os.readlink(path)
        path = root / target.lstrip("/") if target.startswith("/") else path.parent / target
    return path.read_text(errors="replace") if path.is_file() else ""


def is_left(root, listing):
    """A file of the package is still there."""
    for line in listing.splitlines():
        if not line.startswith(NOT_COUNTED):
            path = root / line.lstrip("/")
            if path.is_symlink() or path.is_file():
                return True
    return False


def packages(root, licences):
    """The packages of which a file is left in the tree, by name."""
    root = pathlib.Path(root)
    info = root / "var/lib/dpkg/info"
    result = []
    for fields in paragraphs((root / "var/lib/dpkg/status").read_text()):
        name, architecture = fields["package"], fields["architecture"]
        if not fields.get("status", "").endswith(" installed"):
            continue
        listings = [path for path in (info / f"{name}.list", info / f"{name}:{architecture}.list") if path.exists()]
        if not listings or not is_left(root, listings[0].read_text()):
            continue
        source = fields.get("source", name).split()[0]
        told = licences["package"].get(name, {}).get("licence")
        notice = f"usr/share/doc/{name}/copyright"
        result.append({
            "name": name, "version": fields["version"], "architecture": architecture, "source": source, "notice": "/" + notice,
            "licence": told or licence(read_inside(root, root / notice), licences["name"]),
        })
    return sorted(result, key=lambda one: one["name"])
