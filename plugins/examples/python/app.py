"""Mandrill's webhooks, as in plugins/mandrill, in Python: forms with a JSON list of events, signed with HMAC.

The types are those of wit/1.0.0/connector.wit. What is raised in an `Err` is the error case of the result.
"""

import json
import re
from typing import Any, List, NoReturn, Optional, Tuple
from urllib.parse import parse_qsl

from componentize_py_types import Err
from wit_world import exports
from wit_world.imports.types import (
    BasicAuth,
    Batch,
    BounceType,
    Descriptor,
    Encoding,
    Event,
    EventType,
    Hash,
    HashConstruction,
    HashKey_Secret,
    KeyedHash,
    Outcome,
    Outcome_Events,
    Pair,
    Part_Bytes,
    Proof,
    Proof_BasicAuth,
    Proof_Handshake,
    Proof_KeyedHash,
    Rejected,
    Rejection_InvalidProof,
    Rejection_Malformed,
    Rejection_MissingProof,
    Request,
    SecretKey,
    SecretSpec,
    SettingSpec,
    Signature,
    Skipped,
    Statuses,
)

DOCS = "https://mailchimp.com/developer/transactional/guides/track-respond-activity-webhooks/"

SIGNATURE = "x-mandrill-signature"

# Mandrill sends one field. Putting the thousands of a stranger in order could take all the time that a delivery has.
MOST_FIELDS = 32

# The form of an empty list, as text or percent-encoded.
EMPTY_LISTS = (b"mandrill_events=[]", b"mandrill_events=%5b%5d")

# 9999-12-31T23:59:59.999Z: no event is later.
LAST_MS = 253402300799999

HALF_PAIR = re.compile("[\ud800-\udfff]")

EVENT_TYPES = {
    "send": (EventType.SENT, None),
    "delivered": (EventType.DELIVERED, None),
    "deferral": (EventType.DEFERRED, None),
    "hard_bounce": (EventType.BOUNCED, BounceType.HARD),
    "soft_bounce": (EventType.BOUNCED, BounceType.SOFT),
    "open": (EventType.OPENED, None),
    "click": (EventType.CLICKED, None),
    "spam": (EventType.MARKED_SPAM, None),
    "unsub": (EventType.UNSUBSCRIBED, None),
    "reject": (EventType.REJECTED, None),
}


class Plugin(exports.Plugin):
    """The plugin."""

    def describe(self) -> Descriptor:
        return Descriptor(
            slug="mandrill",
            display_name="Mandrill (Mailchimp Transactional)",
            version="1.0.0",
            docs_url=DOCS,
            secrets=[
                SecretSpec("webhook_key", "The webhook's own key, under Settings > Webhooks.", True),
                SecretSpec(
                    "basic_auth_user",
                    "User name that the webhook's URL or its authentication setting carries.",
                    False,
                ),
                SecretSpec("basic_auth_password", "Password that goes with `basic_auth_user`.", False),
            ],
            settings=[
                SettingSpec(
                    "webhook_url",
                    "The webhook's URL exactly as it was entered in Mandrill; it is signed.",
                    True,
                )
            ],
            hosts=[],
            statuses=Statuses(unproven=401, malformed=400, unavailable=503),
        )

    def authenticate(self, request: Request) -> List[Proof]:
        if is_address_check(request):
            return [Proof_Handshake()]
        proofs: List[Proof] = []
        if "basic_auth_user" in request.secrets or "basic_auth_password" in request.secrets:
            authorization = proof_header(request, "authorization")
            proofs.append(Proof_BasicAuth(BasicAuth(authorization, "basic_auth_user", "basic_auth_password")))
        if "webhook_key" in request.secrets:
            signature = proof_header(request, SIGNATURE)
            url = next((setting.value for setting in request.settings if setting.name == "webhook_url"), "").strip()
            if not url:
                raise Err(Rejection_InvalidProof("setting `webhook_url`, which Mandrill signs, is not set"))
            # The signed message: the URL, then name and value of every field, ordered by name.
            try:
                fields = sorted(form(request), key=lambda field: field[0])
            except Err:
                # Of a body that is no form, only the URL can have been signed; `normalize` refuses it once that is verified.
                fields = []
            message = url + "".join(name + value for name, value in fields)
            proofs.append(
                Proof_KeyedHash(
                    KeyedHash(
                        source=f"header `{SIGNATURE}`",
                        construction=HashConstruction.HMAC,
                        hash=Hash.SHA1,
                        key=HashKey_Secret(SecretKey("webhook_key", Encoding.UTF8, "")),
                        messages=[[Part_Bytes(message.encode())]],
                        signatures=[Signature(signature, Encoding.BASE64)],
                    )
                )
            )
        return proofs

    def normalize(self, request: Request) -> Outcome:
        batch = Batch([], [], [])
        if not is_address_check(request):
            for index, element in enumerate(elements(request)):
                add(batch, index, element if isinstance(element, dict) else {})
        return Outcome_Events(batch)


def is_address_check(request: Request) -> bool:
    """Mandrill asks whether the address exists before the webhook has a key to sign with: with HEAD or, if that does not arrive,
    with an empty list, which gives no event, whoever sends it."""
    return request.method == "HEAD" or request.body.lower() in EMPTY_LISTS


def proof_header(request: Request, wanted: str) -> str:
    for header in request.headers:
        if header.name == wanted and header.value.strip():
            return header.value
    raise Err(Rejection_MissingProof(f"header `{wanted}` is missing or empty"))


def malformed(reason: str) -> NoReturn:
    # Not chained to the parser's error, which may quote the body.
    raise Err(Rejection_Malformed(reason)) from None


def form(request: Request) -> List[Tuple[str, str]]:
    content_type = next((header.value for header in request.headers if header.name == "content-type"), "")
    if content_type.split(";")[0].strip().lower() != "application/x-www-form-urlencoded":
        malformed("the body is not a form")
    try:
        return parse_qsl(request.body.decode(errors="replace"), keep_blank_values=True, max_num_fields=MOST_FIELDS)
    except ValueError:
        malformed(f"the form has more than {MOST_FIELDS} fields")


class Number(str):
    """A JSON number as it is written: converted, an id would lose digits."""


def elements(request: Request) -> List[Any]:
    encoded = next((value for name, value in form(request) if name == "mandrill_events"), None)
    if encoded is None:
        malformed("the form has no field `mandrill_events`")
    try:
        decoded = whole(json.loads(encoded, parse_int=Number, parse_float=Number, parse_constant=refuse))
    except (ValueError, RecursionError):
        malformed("`mandrill_events` is not JSON")
    if not isinstance(decoded, list):
        malformed("`mandrill_events` is not a JSON array")
    return decoded


def refuse(constant: str) -> NoReturn:
    """Refuses what `json` reads although it is not JSON: NaN, Infinity and -Infinity."""
    raise ValueError(f"{constant} is not JSON")


def whole(value: Any) -> Any:
    """The value with U+FFFD for halves of surrogate pairs: JSON's escapes can write them, UTF-8 cannot."""
    if isinstance(value, dict):
        return {whole(name): whole(item) for name, item in value.items()}
    if isinstance(value, list):
        return [whole(item) for item in value]
    # A number is also a text here, and must stay a number.
    return value if isinstance(value, Number) or not isinstance(value, str) else HALF_PAIR.sub("\ufffd", value)


def add(batch: Batch, index: int, element: dict) -> None:
    name = text(element.get("event")) or ""
    if name == "" and text(element.get("type")) is None:
        batch.rejected.append(Rejected(index, "the element has no type"))
        return
    if name not in EVENT_TYPES:
        batch.skipped.append(skipped(index, name, element))
        return
    event_type, bounce_type = EVENT_TYPES[name]
    timestamp_ms = milliseconds(element.get("ts"))
    if timestamp_ms is None:
        batch.rejected.append(Rejected(index, "`ts` is not a valid time"))
        return
    message = mapping(element.get("msg"))
    recipient_email = text(message.get("email"))
    if recipient_email is None:
        batch.rejected.append(Rejected(index, "the event names no recipient"))
        return
    robot = (text(mapping(element.get("user_agent_parsed")).get("type")) or "").lower() == "robot"
    batch.events.append(
        Event(
            index=index,
            event_type=event_type,
            timestamp_ms=timestamp_ms,
            provider_event_id=None,
            recipient_email=recipient_email,
            identifiers=[],
            campaign_id=None,
            campaign_name=None,
            message_id=text(message.get("_id")) or text(element.get("_id")),
            subject=text(message.get("subject")),
            click_url=text(element.get("url")) if event_type is EventType.CLICKED else None,
            user_agent=text(element.get("user_agent")),
            ip_address=text(element.get("ip")),
            bounce_type=bounce_type,
            reason=reason(event_type, message),
            tags=texts(message.get("tags")),
            metadata=pairs(message.get("metadata")),
            is_machine=True if robot else None,
        )
    )


def skipped(index: int, name: str, element: dict) -> Skipped:
    if name == "inbound":
        return Skipped(index, name, "an incoming message")
    if name == "":
        return Skipped(index, text(element.get("type")), "synchronisation of a list, not about a message")
    return Skipped(index, name, "not used")


def reason(event_type: EventType, message: dict) -> Optional[str]:
    if event_type is EventType.BOUNCED:
        return text(message.get("diag")) or text(message.get("bounce_description"))
    if event_type is EventType.DEFERRED:
        # The event is about the last attempt; not every attempt has a text.
        attempts = message.get("smtp_events")
        for attempt in reversed(attempts if isinstance(attempts, list) else []):
            if diag := text(mapping(attempt).get("diag")):
                return diag
    return None


def milliseconds(value: Any) -> Optional[int]:
    """Seconds, with or without a fraction, as whole milliseconds."""
    match = re.fullmatch(r"([0-9]{1,15})(?:\.([0-9]*))?", (text(value) or "").strip())
    if match is None:
        return None
    fraction = (match[2] or "")[:3].ljust(3, "0")
    time = int(match[1]) * 1000 + int(fraction)
    return time if time <= LAST_MS else None


def mapping(value: Any) -> dict:
    return value if isinstance(value, dict) else {}


def text(value: Any) -> Optional[str]:
    """A text that is not blank, or a number."""
    return str(value) if isinstance(value, str) and value.strip() else None


def texts(value: Any) -> List[str]:
    """A list of texts, or the one text that stands for it."""
    found = (text(item) for item in (value if isinstance(value, list) else [value]))
    return [item for item in found if item is not None]


def pairs(value: Any) -> List[Pair]:
    return [Pair(name, metadata(item)) for name, item in mapping(value).items() if item is not None]


def metadata(value: Any) -> str:
    return str(value) if isinstance(value, str) else compact(value)


def compact(value: Any) -> str:
    """JSON without blanks, numbers as written."""
    if isinstance(value, Number):
        return str(value)
    if isinstance(value, dict):
        fields = (f"{compact(name)}:{compact(item)}" for name, item in value.items())
        return "{" + ",".join(fields) + "}"
    if isinstance(value, list):
        return "[" + ",".join(compact(item) for item in value) + "]"
    return json.dumps(value, ensure_ascii=False)
