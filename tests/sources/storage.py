"""A storage that speaks as much of S3 as Label Studio and a presigned address need, with MinIO's answers."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from email.utils import formatdate
from urllib.parse import parse_qs, unquote, urlsplit
from xml.sax.saxutils import escape

from tests.http_server import Answer, Asked

_XML = {"Content-Type": "application/xml", "Server": "MinIO"}
_CHANGED = 1_700_000_000


def s3(name: str, objects: Mapping[str, bytes]) -> Callable[[Asked], Answer]:
    """Answer for the one bucket, path style. Only signed requests are answered.

    Args:
        name: of the bucket.
        objects: by key.
    """

    def answer(asked: Asked) -> Answer:
        path, query = urlsplit(asked.path).path, parse_qs(urlsplit(asked.path).query)
        if not ("X-Amz-Signature" in query or asked.headers.get("Authorization", "").startswith("AWS4-HMAC-SHA256")):
            return _error(403, "AccessDenied", "Access Denied.")
        bucket, _, key = unquote(path).strip("/").partition("/")
        if bucket != name:
            return _error(404, "NoSuchBucket", "The specified bucket does not exist")
        if not key:
            return Answer(200, _listing(name, objects), _XML)
        if key not in objects:
            return _error(404, "NoSuchKey", "The specified key does not exist.")
        return _object(objects[key], asked)

    return answer


def _object(content: bytes, asked: Asked) -> Answer:
    tag = f'"{hashlib.md5(content).hexdigest()}"'
    headers = {"ETag": tag, "Last-Modified": formatdate(_CHANGED, usegmt=True), "Accept-Ranges": "bytes",
               "Server": "MinIO", "Content-Type": "image/png"}  # fmt: skip
    if asked.headers.get("If-None-Match") == tag:
        return Answer(304, headers=headers)
    return Answer(200, content, headers)


def _listing(name: str, objects: Mapping[str, bytes]) -> bytes:
    rows = "".join(
        f"<Contents><Key>{escape(key)}</Key><LastModified>2023-11-14T22:13:20.000Z</LastModified>"
        f"<ETag>&quot;{hashlib.md5(content).hexdigest()}&quot;</ETag><Size>{len(content)}</Size>"
        "<StorageClass>STANDARD</StorageClass></Contents>"
        for key, content in objects.items()
    )
    return (
        '<?xml version="1.0" encoding="UTF-8"?><ListBucketResult xmlns="http://s3.amazonaws.com/doc/2006-03-01/">'
        f"<Name>{name}</Name><Prefix></Prefix><KeyCount>{len(objects)}</KeyCount><MaxKeys>1000</MaxKeys>"
        f"<Delimiter></Delimiter><IsTruncated>false</IsTruncated>{rows}</ListBucketResult>"
    ).encode()


def _error(status: int, code: str, message: str) -> Answer:
    body = f'<?xml version="1.0" encoding="UTF-8"?><Error><Code>{code}</Code><Message>{message}</Message></Error>'
    return Answer(status, body.encode(), _XML)
