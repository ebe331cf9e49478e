"""A token of SoftHSM, and how OpenSSL's provider for PKCS #11 finds it. Used by image/tests."""

PIN = "271828"
OPENSSL = """openssl_conf = start
[start]
providers = providers
[providers]
default = default_provider
pkcs11 = token
[default_provider]
activate = 1
[token]
module = /usr/lib/x86_64-linux-gnu/ossl-modules/pkcs11.so
pkcs11-module-path = /usr/lib/softhsm/libsofthsm2.so
pkcs11-module-token-pin = file:{place}/pin
pkcs11-module-quirks = no-deinit
"""


def prepare(folder, place):
    """Lays what is needed into `folder`, which will be at `place` when it is used."""
    (folder / "tokens").mkdir(parents=True)
    (folder / "openssl.cnf").write_text(OPENSSL.format(place=place))
    (folder / "pin").write_text(PIN)
    (folder / "softhsm2.conf").write_text(f"directories.tokendir = {place}/tokens\nobjectstore.backend = file\n")
    (folder / "environment").write_text(f"SOFTHSM2_CONF={place}/softhsm2.conf\n")


def fill(manage, keys, names):
    """Moves private keys of the folder `keys` into the token, and names them in keys.toml. `manage` runs softhsm2-util, which must
    not have OpenSSL look for keys in the token that it is making."""
    manage("--init-token", "--free", "--label", "postkeep", "--pin", PIN, "--so-pin", "31415926")
    described = (keys / "keys.toml").read_text()
    for number, name in enumerate(names, 1):
        manage("--import", keys / f"{name}.key", "--token", "postkeep", "--label", name, "--id", f"{number:02}", "--pin", PIN)
        # From here on there is no such file.
        (keys / f"{name}.key").unlink()
        described = described.replace(f'"file:{name}.key"', f'"pkcs11:token=postkeep;object={name};type=private"')
    (keys / "keys.toml").write_text(described)
    assert described.count("pkcs11:") == len(names), described
