"""Reports the time, random numbers and whatever else usually differs between two runs."""

import random
import secrets
import time
import uuid

from wit_world import exports
from wit_world.imports.types import Batch, Descriptor, Event, EventType, Outcome_Events, Pair, Statuses


class Plugin(exports.Plugin):
    def describe(self):
        return Descriptor(
            "repeatable", "Repeatable", "1.0.0", "https://example.com/", [], [], [], Statuses(401, 400, 503)
        )

    def authenticate(self, request):
        return []

    def normalize(self, request):
        found = {
            "clock": time.time_ns() // 1_000_000,
            "local": time.ctime(),
            "monotonic": time.monotonic_ns(),
            "random": secrets.token_hex(16),
            "float": random.SystemRandom().random(),
            "seeded": random.random(),
            "uuid": uuid.uuid4(),
            "hash": hash("ann@example.com"),
            "address": id(object()),
        }
        metadata = [Pair(name, str(value)) for name, value in found.items()]
        event = Event(
            index=0,
            event_type=EventType.OPENED,
            timestamp_ms=found["clock"],
            provider_event_id=None,
            recipient_email="ann@example.com",
            identifiers=[],
            campaign_id=None,
            campaign_name=None,
            message_id="m-1",
            subject=None,
            click_url=None,
            user_agent=None,
            ip_address=None,
            bounce_type=None,
            reason=None,
            tags=[],
            metadata=metadata,
            is_machine=None,
            sent_at_ms=None,
        )
        return Outcome_Events(Batch([event], [], []))
