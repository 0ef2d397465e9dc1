"""An S3-compatible server of one test: moto, as a process of its own, which checks every request's signature."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import boto3
import pytest

from plugin_config.local.supervisor import answers_http, free_port
from tests.house import wait_until

BUCKET = "labels"
_REGION = "us-east-1"
_RIGHTS = {"Version": "2012-10-17", "Statement": [{"Effect": "Allow", "Action": "s3:*", "Resource": "*"}]}
_UNSIGNED = 4  # requests that are answered before signatures are checked: those that make a user with a key


@dataclass(frozen=True)
class S3Server:
    """A running server with an empty bucket.

    Attributes:
        url: its address.
        key, secret: of the user who may do anything there.
        process: of the server.
    """

    url: str
    key: str
    secret: str
    process: subprocess.Popen[bytes]

    def environ(self) -> dict[str, str]:
        """The standard variables by which a process is told of it."""
        return {"AWS_ENDPOINT_URL": self.url, "AWS_ACCESS_KEY_ID": self.key, "AWS_SECRET_ACCESS_KEY": self.secret,
                "AWS_DEFAULT_REGION": _REGION}  # fmt: skip

    def names(self) -> list[str]:
        """What the bucket holds."""
        client = boto3.client("s3", endpoint_url=self.url, region_name=_REGION, aws_access_key_id=self.key,
                              aws_secret_access_key=self.secret)  # fmt: skip
        return sorted(row["Key"] for row in client.list_objects_v2(Bucket=BUCKET).get("Contents", []))


@contextmanager
def s3_server() -> Iterator[S3Server]:
    """Serve for as long as the `with` block lasts."""
    port = free_port()
    env = {**os.environ, "INITIAL_NO_AUTH_ACTION_COUNT": str(_UNSIGNED)}
    command = [sys.executable, "-m", "moto.server", "--host", "127.0.0.1", "--port", str(port)]
    process = subprocess.Popen(command, env=env, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        url = f"http://127.0.0.1:{port}"
        wait_until(lambda: answers_http(f"{url}/moto-api/"), told="the S3 server")
        asked = {"endpoint_url": url, "region_name": _REGION, "aws_access_key_id": "x", "aws_secret_access_key": "x"}
        users = boto3.client("iam", **asked)
        users.create_user(UserName="worker")
        users.put_user_policy(UserName="worker", PolicyName="all", PolicyDocument=json.dumps(_RIGHTS))
        made = users.create_access_key(UserName="worker")["AccessKey"]
        boto3.client("s3", **asked).create_bucket(Bucket=BUCKET)
        yield S3Server(url, made["AccessKeyId"], made["SecretAccessKey"], process)
    finally:
        process.kill()
        process.wait()


@pytest.fixture(name="s3")
def s3_fixture(monkeypatch: pytest.MonkeyPatch) -> Iterator[S3Server]:
    """A server, which this process is told of by the standard variables."""
    for name in [name for name in os.environ if name.startswith(("AWS_", "FSSPEC_"))]:
        monkeypatch.delenv(name)
    with s3_server() as found:
        for name, value in found.environ().items():
            monkeypatch.setenv(name, value)
        yield found
