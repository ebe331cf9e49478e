"""The bill of materials of an image in two forms, CycloneDX 1.6 and SPDX 2.3, and the manifest that people read.

Pure: the same facts give the same bytes. The only time in it is the one that the whole image has; what must be unique is
made from the content.

Facts are {"version", "epoch", "rust", "programs": {name: SHA-256}, "packages": […], "crates": […]} as image/bill/debian.py
and image/bill/crates.py tell them, and "firmware": what firmware/components.toml says, by package.
"""

import datetime
import hashlib
import json
import re
import urllib.parse
import uuid

UNKNOWN = "NOASSERTION"
LICENCE_OF_OURS = "Apache-2.0"
# A name for the names that are made here; it stands for nothing else.
NAMESPACE = uuid.UUID("5f0c5b51-7a3c-4d0e-9a53-0f4f3f4a6b7e")


def quoted(text):
    return urllib.parse.quote(text, safe=".-_~")


def components(facts):
    """Everything in the image in one form, sorted: what it is, name, version, licence, purl."""
    result = []
    for name, digest in facts["programs"].items():
        result.append({"kind": "program", "name": name, "version": facts["version"], "architecture": "amd64", "licence": LICENCE_OF_OURS,
                       "sha256": digest, "purl": f"pkg:generic/{quoted(name)}@{quoted(facts['version'])}"})
    for one in facts["crates"]:
        purl = f"pkg:cargo/{quoted(one['name'])}@{quoted(one['version'])}"
        result.append({"kind": "crate", "name": one["name"], "version": one["version"], "architecture": "-", "licence": one["licence"], "purl": purl})
    result.append({"kind": "crate", "name": "std", "version": facts["rust"], "architecture": "-", "licence": "MIT OR Apache-2.0",
                   "purl": f"pkg:generic/rust-std@{quoted(facts['rust'])}"})
    for one in facts["packages"]:
        firmware = facts["firmware"].get(one["name"])
        purl = f"pkg:deb/debian/{quoted(one['name'])}@{quoted(one['version'])}?arch={one['architecture']}&distro=trixie"
        result.append({
            "kind": "firmware" if firmware else "debian", "name": one["name"], "version": one["version"], "architecture": one["architecture"],
            "licence": "LicenseRef-Firmware-" + one["name"] if firmware else one["licence"], "purl": purl,
            "source": one["source"], "notice": one["notice"], "places": one["places"], "firmware": firmware,
        })
    return sorted(result, key=lambda one: (one["kind"], one["name"], one["version"]))


def moment(facts):
    time = datetime.datetime.fromtimestamp(int(facts["epoch"]), datetime.timezone.utc)
    return time.strftime("%Y-%m-%dT%H:%M:%SZ")


def unique(facts, form):
    """A name that only this content has."""
    return uuid.uuid5(NAMESPACE, form + json.dumps(facts, sort_keys=True))


def text_of(document):
    return json.dumps(document, indent=1, ensure_ascii=False) + "\n"


# -- CycloneDX 1.6

CYCLONEDX_KINDS = {"program": "application", "crate": "library", "debian": "library", "firmware": "firmware"}


def cyclonedx(facts):
    listed = []
    for one in components(facts):
        component = {"type": CYCLONEDX_KINDS[one["kind"]], "bom-ref": one["purl"], "name": one["name"], "version": one["version"]}
        if "sha256" in one:
            component["hashes"] = [{"alg": "SHA-256", "content": one["sha256"]}]
        if one.get("firmware"):
            component["description"] = one["firmware"]["for"]
            component["licenses"] = [{"license": {"name": one["firmware"]["licence"], "acknowledgement": "declared"}}]
        elif one["licence"] != UNKNOWN:
            component["licenses"] = [{"expression": one["licence"], "acknowledgement": "declared"}]
        component["purl"] = one["purl"]
        properties = {}
        if one["kind"] in ("debian", "firmware"):
            properties = {"postkeep:notice": one["notice"], "postkeep:places": " ".join(one["places"]), "postkeep:source-package": one["source"]}
            if one["licence"] == UNKNOWN:
                properties["postkeep:licence"] = "its copyright file is prose"
        if one.get("firmware"):
            properties["postkeep:redistribution"] = one["firmware"]["redistributable"]
        if properties:
            component["properties"] = [{"name": name, "value": value} for name, value in sorted(properties.items())]
        listed.append(component)
    image = {"type": "operating-system", "bom-ref": "postkeep", "name": "postkeep", "version": facts["version"],
             "licenses": [{"expression": LICENCE_OF_OURS, "acknowledgement": "declared"}]}
    return text_of({
        "bomFormat": "CycloneDX", "specVersion": "1.6", "serialNumber": f"urn:uuid:{unique(facts, 'cyclonedx')}", "version": 1,
        "metadata": {"timestamp": moment(facts), "component": image},
        "components": listed,
        # Which crate uses which stands in Cargo.lock; here only that the image has them all.
        "dependencies": [{"ref": "postkeep", "dependsOn": [one["bom-ref"] for one in listed]}],
    })


# -- SPDX 2.3

SPDX_KINDS = {"program": "APPLICATION", "crate": "LIBRARY", "debian": "LIBRARY", "firmware": "FIRMWARE"}
REFERENCE = re.compile(r"LicenseRef-[A-Za-z0-9.-]+")


def identifier(one):
    """Letters, digits, dots and hyphens only; the digest keeps apart what that makes the same."""
    name = re.sub(r"[^A-Za-z0-9.-]+", "-", f"{one['kind']}-{one['name']}-{one['version']}")
    return f"SPDXRef-{name}-{hashlib.sha256(one['purl'].encode()).hexdigest()[:8]}"


def spdx(facts):
    packages = [{
        "SPDXID": "SPDXRef-image", "name": "postkeep", "versionInfo": facts["version"], "downloadLocation": UNKNOWN, "filesAnalyzed": False,
        "licenseConcluded": UNKNOWN, "licenseDeclared": LICENCE_OF_OURS, "copyrightText": UNKNOWN, "primaryPackagePurpose": "OPERATING-SYSTEM",
    }]
    extracted = {}
    for one in components(facts):
        package = {
            "SPDXID": identifier(one), "name": one["name"], "versionInfo": one["version"], "downloadLocation": UNKNOWN, "filesAnalyzed": False,
            "licenseConcluded": UNKNOWN, "licenseDeclared": one["licence"], "copyrightText": UNKNOWN, "primaryPackagePurpose": SPDX_KINDS[one["kind"]],
            "externalRefs": [{"referenceCategory": "PACKAGE-MANAGER", "referenceType": "purl", "referenceLocator": one["purl"]}],
        }
        if "sha256" in one:
            package["checksums"] = [{"algorithm": "SHA256", "checksumValue": one["sha256"]}]
        if one["kind"] in ("debian", "firmware"):
            package["sourceInfo"] = f"Debian's source package {one['source']}; in the image's {' and '.join(one['places'])}"
            package["licenseComments"] = f"What Debian's copyright file says of the source package; it is {one['notice']} in the image"
        packages.append(package)
        for name in REFERENCE.findall(one["licence"]):
            if one.get("firmware"):
                extracted[name] = f"{one['firmware']['licence']}. {one['firmware']['redistributable']} ({one['firmware']['source']})"
            elif name not in extracted:
                shown = name.removeprefix("LicenseRef-Debian-")
                extracted[name] = f"The licence that the copyright file of Debian's package {one['name']} calls {shown}: {one['notice']} in the image"
    relations = [{"spdxElementId": "SPDXRef-DOCUMENT", "relationshipType": "DESCRIBES", "relatedSpdxElement": "SPDXRef-image"}]
    relations += [{"spdxElementId": "SPDXRef-image", "relationshipType": "CONTAINS", "relatedSpdxElement": one["SPDXID"]} for one in packages[1:]]
    return text_of({
        "spdxVersion": "SPDX-2.3", "dataLicense": "CC0-1.0", "SPDXID": "SPDXRef-DOCUMENT", "name": f"postkeep-{facts['version']}",
        "documentNamespace": f"https://postkeep.example/spdx/postkeep-{quoted(facts['version'])}-{unique(facts, 'spdx')}",
        "creationInfo": {"created": moment(facts), "creators": ["Organization: Postkeep", "Tool: postkeep-image-bill"]},
        "packages": packages,
        "hasExtractedLicensingInfos": [{"licenseId": name, "name": name.removeprefix("LicenseRef-"), "extractedText": text} for name, text in sorted(extracted.items())],
        "relationships": relations,
    })


# -- For people

def manifest(facts):
    """One line for each: kind, name, version, architecture, licence. Sorted, so that a diff shows what changed."""
    lines = []
    for one in components(facts):
        if one["kind"] == "program":
            continue
        licence = one["firmware"]["licence"] if one.get("firmware") else one["licence"]
        lines.append(f"{one['kind']} {one['name']} {one['version']} {one['architecture']} {licence}")
    return "\n".join(lines) + "\n"
