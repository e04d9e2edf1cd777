"""Whether a request is signed as AWS wants it (Signature Version 4), found by botocore's own signer."""

from __future__ import annotations

import hmac
import re
from email.message import Message

from botocore.auth import S3SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials

from tests.strict_s3.objects import S3Error
from tests.strict_s3.operations import Request

AUTHORIZATION = re.compile(
    r"AWS4-HMAC-SHA256 Credential=(?P<key>[^/]+)/\d{8}/(?P<region>[^/]+)/s3/aws4_request,"
    r" ?SignedHeaders=(?P<headers>[^,]+), ?Signature=(?P<signature>[0-9a-f]{64})"
)


def signer_of(request: Request, secret: str) -> str:
    """The access key that a request is signed with. Raises S3Error unless the signature is right."""
    found = AUTHORIZATION.fullmatch(request.headers.get("authorization", ""))
    if found is None:
        raise S3Error(403, "AccessDenied", "the request is not signed")
    signed = AWSRequest(request.method, f"http://{request.headers['host']}{request.target}", data=request.body)
    signed.headers = Message()  # type: ignore[assignment]
    for name in found["headers"].split(";"):
        signed.headers[name] = request.headers[name]
    signed.context["timestamp"] = request.headers["x-amz-date"]
    auth = S3SigV4Auth(Credentials(found["key"], secret), "s3", found["region"])
    text = auth.string_to_sign(signed, auth.canonical_request(signed))
    if not hmac.compare_digest(auth.signature(text, signed), found["signature"]):
        raise S3Error(403, "SignatureDoesNotMatch", "the signature is not that of the request")
    return found["key"]
