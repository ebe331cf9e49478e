"""A mirror of a release: a folder behind an HTTPS server, whose name the rehearsal's DNS knows and whose certificate the rehearsal's
authority has signed, which the box was told to believe (`[delivery] extra-roots`). Used by image/tests.
"""

import contextlib
import functools
import http.server
import ssl
import subprocess
import threading

from stage import HERE

# The rehearsal serves policies under this name, at another port.
NAME = "mta-sts.gmail.test"
# The same host under another name.
OTHER = "mta-sts.yahoo.test"
PORT = 8444


class Handler(http.server.SimpleHTTPRequestHandler):
    """Files of one folder; what was asked for is kept."""

    def log_message(self, form, *arguments):
        self.server.asked.append(self.path)


def certificate(owner, folder):
    """Key and certificate for NAME, of the rehearsal's authority."""
    authority_key, request, made, key = (folder / f"mirror.{end}" for end in ("authority", "csr", "crt", "key"))
    authority_key.write_text(owner.facts()["authority-key"])
    subprocess.run(["openssl", "req", "-new", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-subj", f"/CN={NAME}",
                    "-keyout", key, "-out", request], check=True, capture_output=True)
    extensions = folder / "mirror.extensions"
    extensions.write_text(f"subjectAltName=DNS:{NAME}\n")
    subprocess.run(["openssl", "x509", "-req", "-in", request, "-CA", owner.prepared / "box/authority.pem", "-CAkey", authority_key, "-days", "30",
                    "-extfile", extensions, "-out", made], check=True, capture_output=True)
    return made, key


@contextlib.contextmanager
def mirror(owner, folder, release):
    """Serves `release`; gives its URL and the list of what is asked for."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*certificate(owner, folder))
    server = http.server.ThreadingHTTPServer((HERE, PORT), functools.partial(Handler, directory=release))
    server.socket = context.wrap_socket(server.socket, server_side=True)
    server.asked = []
    serving = threading.Thread(target=server.serve_forever)
    serving.start()
    try:
        yield f"https://{NAME}:{PORT}/", server.asked
    finally:
        server.shutdown()
        serving.join()
        server.server_close()
