"""What a connection, a certificate and an answer mean, and what to do about it. Pure: nothing here touches a network.

``404 page not found`` is what the ingress and every deployment say to a path that they do not serve, before and without
authentication.
"""

import errno
import ssl
import time
from typing import Final

from isthmus.probe.asking import Answer, Peer, RoadError, Stage
from isthmus.probe.reports import Finding, Status
from isthmus.wire.names import ConnectionState
from isthmus.wire.probes import KnownConnection

#: What every unknown path is answered with.
NOT_FOUND_BODY: Final = b"404 page not found"
#: Azure resets connections that were idle for 240 to 300 s.
IDLE_SECONDS: Final = 240.0
#: Days before a certificate's end from which a row warns.
CERTIFICATE_WARNING_DAYS: Final = 14

# OpenSSL's X509_V_ERR_ numbers (x509_vfy.h).
_EXPIRED: Final = 10
_NOT_YET_VALID: Final = 9
_UNKNOWN_AUTHORITY: Final = frozenset({2, 18, 19, 20, 21})
_WRONG_NAME: Final = frozenset({62, 64})


def judge_tcp(where: str, error: RoadError | None, *, is_private: bool) -> Finding:
    """Whether the address takes connections."""
    if error is None or error.stage is not Stage.TCP:
        return Finding(Status.PASS, f"{where} takes connections")
    cause = error.cause
    if isinstance(cause, TimeoutError):
        return Finding(
            Status.FAIL,
            f"no answer from {where} within {error.seconds:.0f} s",
            "A pending, rejected or removed private endpoint connection carries nothing: see that the link service's "
            "owner has approved it (isthmus verify --endpoint NAME --resource-group GROUP asks Azure). Otherwise a "
            "firewall or network security group drops the packets."
            if is_private
            else "A firewall on the way drops the packets: allow outbound HTTPS to this address.",
        )
    match getattr(cause, "errno", None):
        case errno.ECONNREFUSED:
            return Finding(
                Status.FAIL,
                f"{where} refuses connections",
                "Nothing listens there: check that the cluster's ingress runs, and the load balancer's rules.",
            )
        case errno.ENETUNREACH | errno.EHOSTUNREACH:
            return Finding(
                Status.FAIL,
                f"there is no route to {where}",
                "The address lies in no network that this one reaches: the endpoint must be in this network or in one "
                "that is peered with it.",
            )
        case errno.ECONNRESET:
            return Finding(Status.FAIL, f"{where} resets connections", "A firewall or proxy on the way ends them.")
        case _:
            return Finding(Status.FAIL, f"{where}: {cause}", "See the operating system's error.")


def judge_connection(known: KnownConnection, error: RoadError | None) -> Finding:
    """Whether silence is that of the endpoint's connection. What was seen comes first: what is known may be old."""
    shown = f"the connection of endpoint {known.endpoint} is {known.state}"
    if known.state in (ConnectionState.APPROVED, ConnectionState.UNKNOWN):
        return Finding(Status.PASS, shown)
    if error is None or error.stage is not Stage.TCP or not isinstance(error.cause, TimeoutError):
        what = "takes" if error is None or error.stage is not Stage.TCP else "refuses"
        return Finding(Status.WARN, f"{shown}, it was said; the address {what} connections", "Ask again for its state.")
    because = f": {known.reason}" if known.reason and known.state is not ConnectionState.PENDING else ""
    remedy = (
        "Have the link service's owner approve it: isthmus link approve, or in the portal."
        if known.state is ConnectionState.PENDING
        else "Nobody can approve it any more: create the endpoint again (isthmus endpoint create --recreate), and have "
        "that approved."
    )
    return Finding(Status.FAIL, f"{shown}{because}", remedy, f"connection_{known.state}")


def judge_tls(name: str, peer: Peer | None, error: RoadError | None, *, now: float | None = None) -> Finding:
    """Whether the other end proves to be ``name``. ``now`` in Unix seconds."""
    if error is None or error.stage is Stage.HTTP:
        if peer is None:
            return Finding(Status.WARN, "the connection is not encrypted", "Use https.")
        days = (peer.not_after - (time.time() if now is None else now)) / 86400
        shown = f"{peer.protocol}, certificate for {', '.join(peer.names[:3])} by {peer.issuer}, {days:.0f} days left"
        if days < CERTIFICATE_WARNING_DAYS:
            return Finding(Status.WARN, shown, "Have the ingress's certificate renewed.")
        return Finding(Status.PASS, shown)
    return _judge_handshake(name, error.cause)


def _judge_handshake(name: str, cause: BaseException) -> Finding:
    if isinstance(cause, ssl.SSLCertVerificationError):
        return _judge_certificate(name, cause)
    if isinstance(cause, TimeoutError):
        return Finding(
            Status.FAIL,
            "the connection opened, but TLS got no answer",
            "Something on the way takes connections and does not pass them on, or packets of full size are lost (MTU). "
            "Where the link service sends PROXY v2, the ingress must expect it.",
        )
    if isinstance(cause, ssl.SSLError):
        return Finding(
            Status.FAIL,
            f"TLS failed: {getattr(cause, 'reason', None) or cause}",
            "The other side does not speak TLS here: check the port, and that PROXY v2 is expected where it is sent.",
        )
    return Finding(
        Status.FAIL,
        f"the connection was cut during TLS: {cause}",
        "A firewall that inspects TLS, or PROXY v2 on one side only, does this.",
    )


def _judge_certificate(name: str, cause: ssl.SSLCertVerificationError) -> Finding:
    code = cause.verify_code
    if code in _WRONG_NAME:
        return Finding(
            Status.FAIL,
            f"the certificate is not for {name}",
            "Use the cluster's name, never an address or a name of your own: the certificate is for that alone.",
        )
    if code in _UNKNOWN_AUTHORITY:
        return Finding(
            Status.FAIL,
            f"the certificate's authority is not known here: {cause.verify_message}",
            "Name the authority with --ca-file. If it is not the cluster's, something on the way opens TLS.",
        )
    if code in (_EXPIRED, _NOT_YET_VALID):
        return Finding(
            Status.FAIL, f"the certificate is not valid now: {cause.verify_message}", "Renew it, and check this clock."
        )
    return Finding(Status.FAIL, f"the certificate was refused: {cause.verify_message}", "See OpenSSL's verify codes.")


def judge_page(answer: Answer | RoadError) -> Finding:
    """Whether an unknown path gets the cluster's own ``404 page not found``."""
    if isinstance(answer, RoadError):
        return Finding(
            Status.FAIL, f"no HTTP answer: {answer.cause}", "Check that the cluster's ingress and the deployment run."
        )
    if answer.status == 404 and answer.body.strip() == NOT_FOUND_BODY:
        return Finding(Status.PASS, NOT_FOUND_BODY.decode())
    begin = answer.body[:60].decode("latin-1").strip().splitlines()
    return Finding(
        Status.FAIL,
        f"status {answer.status}: {begin[0] if begin else 'nothing'}",
        "Something else than the cluster's ingress answers: a proxy, a captive portal or another server here.",
    )


def judge_proxy(host: str, proxy: str) -> Finding:
    """Whether programs here would go through a proxy, on which a private address is of no use."""
    if not proxy:
        return Finding(Status.PASS, "programs here go straight to it")
    return Finding(
        Status.WARN,
        f"programs here go to {host} through the proxy {proxy}; what follows is the way without it",
        f"Add {host} to NO_PROXY, or set the agent's proxy to off, for the private path; the proxy resolves the name "
        "in its own network.",
    )


def judge_open_path(details: str, *, is_allowed: bool) -> Finding:
    """A public path that is served while the deployment is not restricted, or did not say that it is."""
    if is_allowed:
        return Finding(Status.PASS, f"{details}, as it may")
    return Finding(
        Status.WARN,
        details,
        "Once all agents come through the link, restrict the deployment: isthmus deployment restrict --to RANGE.",
    )


def judge_keep_alive(quiet_seconds: float) -> Finding:
    """Whether connections are used often enough to survive Azure's idle timeout."""
    shown = f"a connection is quiet for {quiet_seconds:.0f} s at most"
    if quiet_seconds < IDLE_SECONDS:
        return Finding(Status.PASS, shown)
    return Finding(
        Status.FAIL, shown, f"Azure resets connections that are idle for {IDLE_SECONDS:.0f} s: shorten the intervals."
    )
