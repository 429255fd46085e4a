"""Which replica writes a text: one that has read how it begins."""

from __future__ import annotations

import asyncio
import hashlib
import random
from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING

from ray.serve.request_router import PendingRequest, ReplicaID, RequestRouter, RunningReplica

from frspec_cpp.texts import TextRequest

if TYPE_CHECKING:
    from ray.serve.request_router import ReplicaResult  # no part of Ray's public interface

_BEGINNING = 128  # tokens of a prompt that say what it begins with, where no key does: two pages


def key_of(request: TextRequest) -> bytes:
    """What requests have in common that are for the same replica."""
    beginning = request.prompt_cache_key or list(request.prompt[:_BEGINNING])
    return repr((request.options.get("salt", ""), beginning)).encode()


def in_order(key: bytes, names: Sequence[str], asked: Sequence[int], places: int) -> list[int]:
    """The numbers of the replicas, the best one for a text first.

    That is the one of the highest hash of its name and the key (rendezvous): whoever asks comes to the same order, and
    a replica that comes or goes changes no text but its own. Before it come those that have as much less to do as
    they have places.

    Args:
        key: Of the request.
        names: Of the replicas.
        asked: What each of them has to write.
        places: Texts that each of them writes at once.
    """

    def place(number: int) -> tuple[int, bytes]:
        return -(asked[number] // places), hashlib.blake2b(key + names[number].encode(), digest_size=8).digest()

    return sorted(range(len(names)), key=place, reverse=True)


class ByBeginning(RequestRouter):
    """Sends texts that begin alike to the same replica, which has that beginning in its cache.

    What each replica was asked for Ray knows, but for no longer than ten seconds. So what was sent from here and is not
    answered yet is known here, too.
    """

    def initialize_state(self, places: int) -> None:
        """Takes what the deployment's configuration says of a replica."""
        self._places = places
        self._sent: dict[str, ReplicaID] = {}  # by request: who answers it

    def on_request_routed(self, pending_request: PendingRequest, replica_id: ReplicaID, result: ReplicaResult) -> None:
        """A replica has taken a request.

        The result that is handed over tells when the text ends, however it does. Ray's `on_request_completed` would
        not do: it comes before this where a text ends at once, and for each replica that did not take the request.
        """
        request = pending_request.metadata.internal_request_id
        self._sent[request] = replica_id
        loop = asyncio.get_running_loop()  # results tell it from threads of their own
        result.add_done_callback(lambda _: loop.call_soon_threadsafe(self._sent.pop, request, None))

    async def choose_replicas(
        self, candidate_replicas: list[RunningReplica], pending_request: PendingRequest | None = None
    ) -> list[list[RunningReplica]]:
        """The replicas, in the order in which they are to be tried; at random where no text is asked for."""
        replicas = random.sample(candidate_replicas, len(candidate_replicas))
        request = pending_request.args[0] if pending_request is not None and pending_request.args else None
        if pending_request is not None:
            pending_request.routing_context.should_backoff = True  # where all of them are full
        if not isinstance(request, TextRequest):
            return [replicas]
        names = [replica.replica_id.unique_id for replica in replicas]
        sent = Counter(self._sent.values())
        known = self.replica_queue_len_cache
        asked = [max(known.get(replica.replica_id) or 0, sent[replica.replica_id]) for replica in replicas]
        return [[replicas[number]] for number in in_order(key_of(request), names, asked, self._places)]
