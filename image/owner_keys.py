"""The keys of whoever makes the image: keys.toml, as `postkeep-firmware keys make` writes it, and the files beside it.

Where a key lies in a token, keys.toml has its PKCS #11 URI, and nothing of it is ever a file.
"""

import pathlib
import shutil
import subprocess
import sys
import tomllib

# What an image is signed with, by the names of its tables, and the names of the files.
SIGNING = {"signature": "db", "verity": "verity", "measurement": "pcr"}
# Whose certificates the firmware has, and the box counts as its own.
ENROLLED = {"platform": "PK", "exchange": "KEK", "signature": "db"}
ALL = {**ENROLLED, **SIGNING}


def read(folder):
    """Role → where its key lies (a path, or a PKCS #11 URI), and its certificate's path."""
    file = pathlib.Path(folder) / "keys.toml"
    if not file.exists():
        sys.exit(f"error: {file} is not there. Make keys for Secure Boot with: postkeep-firmware keys make {folder} --owner NAME")
    described = tomllib.loads(file.read_text())

    def place(text):
        return file.parent / text.removeprefix("file:") if text.startswith("file:") else text

    if missing := ALL.keys() - described.keys():
        sys.exit(f"error: {file} does not describe {', '.join(sorted(missing))}")
    keys = {role: (place(described[role]["key"]), place(described[role]["certificate"])) for role in ALL}
    if urls := [role for role in keys if not isinstance(keys[role][1], pathlib.Path)]:
        sys.exit(f"error: {file}: the certificate of {', '.join(urls)} is no file; it is public: export it")
    return keys


def must_be_within_reach(keys, token=None):
    """Keys in a token are, where the folder `token` says how."""
    if token and not (pathlib.Path(token) / "openssl.cnf").exists():
        sys.exit(f"error: TOKEN={token}: there is no openssl.cnf in it, which says how the token is reached")
    if not token and (tokens := [role for role in SIGNING if not isinstance(keys[role][0], pathlib.Path)]):
        sys.exit(f"error: {', '.join(tokens)}: the key is in a token. TOKEN=FOLDER says how it is reached (docs/operate/secure-boot.md); "
                 "installers and measurements of the image take keys that are files")


def certificates(keys, target):
    """Copies the certificates, which are public, as ROLE.crt: what whoever repeats a build needs."""
    target.mkdir(parents=True, exist_ok=True)
    for role, name in ALL.items():
        copy = target / f"{name}.crt"
        shutil.copyfile(keys[role][1], copy)
        copy.chmod(0o644)


def lay(folder, target, firmware):
    """Lays what the tools need into `target`, `keys` in mkosi's folder: copies of the keys that are files, for this build only. The
    lines by which mkosi finds them."""
    keys = read(folder)
    target.mkdir(mode=0o700)
    certificates(keys, target)
    lines = []
    described = tomllib.loads((pathlib.Path(folder) / "keys.toml").read_text())
    for role, name in ALL.items():
        place = keys[role][0]
        if isinstance(place, pathlib.Path):
            # Neither enrolment key is needed here.
            if role in SIGNING:
                shutil.copy(place, target / f"{name}.key")
                (target / f"{name}.key").chmod(0o600)
            place = f"file:{name}.key"
        lines += [f"[{role}]", f'key = "{place}"', f'certificate = "file:{name}.crt"', f'fingerprint = "{described[role]["fingerprint"]}"']
    (target / "keys.toml").write_text("\n".join(lines) + "\n")
    asked = [pathlib.Path(firmware).resolve(), "keys", "arguments", f"{target.name}/keys.toml", "mkosi"]
    done = subprocess.run(asked, cwd=target.parent, stdout=subprocess.PIPE, text=True)
    if done.returncode:
        sys.exit(1)
    return done.stdout


def make(folder, firmware):
    """Keys for trying things: files that nobody guards."""
    made = pathlib.Path(folder) / "making"
    shutil.rmtree(made, ignore_errors=True)
    subprocess.run([firmware, "keys", "make", made, "--owner", "Postkeep, for trying"], check=True, stdout=subprocess.DEVNULL)
    # The description last: without it there are no keys.
    for file in sorted(made.iterdir(), key=lambda file: file.name == "keys.toml"):
        file.replace(made.parent / file.name)
    made.rmdir()


def main():
    """For shell scripts: `certificates KEYS TARGET` copies them; `key KEYS ROLE` and `certificate KEYS ROLE` say where it lies."""
    what, folder, last = sys.argv[1:]
    keys = read(folder)
    if what == "certificates":
        certificates(keys, pathlib.Path(last))
    else:
        print(keys[last][("key", "certificate").index(what)])


if __name__ == "__main__":
    main()
