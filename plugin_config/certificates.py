"""Whose TLS certificates are trusted, and what is wrong with one that is not. Nothing here turns the check off."""

from __future__ import annotations

import os
import ssl
from functools import cache
from pathlib import Path

from plugin_config.errors import SettingsError

CA_BUNDLE = "ZEROMASK_CA_BUNDLE"
SYSTEM_BUNDLE, SYSTEM_FOLDER = "SSL_CERT_FILE", "SSL_CERT_DIR"
"""What OpenSSL reads in place of the system's certificates."""

# OpenSSL's X509_V_ERR_* (x509_vfy.h).
_NOT_YET, _EXPIRED = {9, 11}, {10, 12}
_UNKNOWN_AUTHORITY = {2, 18, 19, 20, 21, 27}
_OTHER_NAME = {62, 64}
_NO_TLS = {"WRONG_VERSION_NUMBER", "HTTP_REQUEST", "RECORD_LAYER_FAILURE", "UNKNOWN_PROTOCOL", "PACKET_LENGTH_TOO_LONG"}


def check_bundle(env: str, path: str) -> None:
    """Refuse a file of certificates that OpenSSL would not read, before anything connects.

    Args:
        env: the variable that names it.
        path: of the file.

    Raises:
        SettingsError: it is missing, empty, or no PEM file of certificates.
    """
    subject = f"setting {env}"
    file = Path(path).expanduser()
    if not file.is_file():
        raise SettingsError(subject, f"names no file, {path}", f"Correct it, or unset {env}.")
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_verify_locations(cafile=str(file))
    except OSError as error:  # of the file, or OpenSSL's
        problem = f"names a file that holds no certificates in PEM form, or a damaged one, {path} ({error})"
        if isinstance(error, PermissionError):
            problem = f"names a file that cannot be read, {path} ({error})"
        remedy = (
            "It must hold certificates of authorities, each between BEGIN CERTIFICATE and END CERTIFICATE. Another "
            "form is changed by: openssl x509 -inform der -in FILE -out FILE.pem."
        )
        raise SettingsError(subject, problem, remedy) from error


def trust(bundle: str = "") -> ssl.SSLContext:
    """The context of every TLS connection: what this machine trusts, certifi's authorities, and the bundle's.

    Where SSL_CERT_FILE or SSL_CERT_DIR is set, what it names stands in place of the first two, as in other programs.

    Args:
        bundle: path of a PEM file, as the setting ZEROMASK_CA_BUNDLE has it; "" = none.

    Raises:
        SettingsError: the bundle cannot be read.
    """
    # Not settings of ours: OpenSSL reads them by itself, here it is only asked whether they are there.
    return _trust(bundle, os.environ.get(SYSTEM_BUNDLE, ""), os.environ.get(SYSTEM_FOLDER, ""))


@cache  # it takes longer than many an image
def _trust(bundle: str, system_bundle: str, system_folder: str) -> ssl.SSLContext:
    if bundle:
        check_bundle(CA_BUNDLE, bundle)
    if system_bundle or system_folder:
        if system_bundle:
            check_bundle(SYSTEM_BUNDLE, system_bundle)
        context = ssl.create_default_context(cafile=system_bundle or None, capath=system_folder or None)
    else:
        import httpx  # here, because settings import this module, and most commands connect to nothing

        context = httpx.create_ssl_context(trust_env=False)  # certifi's
        context.load_default_certs(ssl.Purpose.SERVER_AUTH)
    if bundle:
        context.load_verify_locations(cafile=str(Path(bundle).expanduser()))
    return context


def tls_trouble(error: BaseException) -> tuple[str, str] | None:
    """Problem and remedy where TLS is why there was no answer; None where it is not.

    Args:
        error: of an HTTP client; the errors it came from are looked at too.
    """
    found: BaseException | None = error
    while found is not None and not isinstance(found, ssl.SSLError):
        found = found.__cause__ or found.__context__
    if isinstance(found, ssl.SSLCertVerificationError):
        return _certificate_trouble(found)
    if not isinstance(found, ssl.SSLError) or isinstance(found, ssl.SSLEOFError | ssl.SSLZeroReturnError):
        return None  # a connection that was cut says nothing about TLS
    reason = str(found.reason or found)
    if reason in _NO_TLS:
        return "does not speak TLS on this port", "Correct the port, or write http:// where it has no certificate."
    return f"does not agree about TLS ({reason})", "It must speak TLS 1.2 or later, and ask for no client certificate."


def _certificate_trouble(error: ssl.SSLCertVerificationError) -> tuple[str, str]:
    code, told = error.verify_code, error.verify_message
    if code in _UNKNOWN_AUTHORITY:
        problem = f"shows a certificate that is signed by an authority not known here ({told})"
        return problem, f"Set {CA_BUNDLE} to a PEM file with the certificate of that authority."
    if code in _EXPIRED:
        return "shows a certificate that has expired", "Renew it on that server, or set this machine's clock."
    if code in _NOT_YET:
        return "shows a certificate that is not valid yet", "Set the clocks of this machine and of that server."
    if code in _OTHER_NAME:
        problem = f"shows a certificate that is for another host name ({told.rstrip('.')})"
        return problem, "Use the name it is for, or have one issued for this name."
    return f"shows a certificate that is refused ({told})", "Have it issued anew by an authority that is known here."
