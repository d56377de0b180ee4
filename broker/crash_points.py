"""Places between two effects where a test kills the process. In production a crash point does nothing.

A run must end with the same bits wherever a process is killed and comes back in time; tests do so at every one of these.
"""

from collections.abc import Callable
from enum import Enum


class Between(Enum):
    """Every crash point: what is done / what is not done yet when the process ends there."""

    # server worker
    CLAIM_AND_LOAD = "a stream's lease is taken / its replica is loaded"
    STEP_AND_CHECKPOINT = "a batch is trained / a checkpoint holds it"
    CHUNK_AND_CHUNK = "a chunk of a blob is in the store / the next one is"
    CHECKPOINT_BLOBS_AND_POINTER = "a checkpoint's blobs are in the store / the stream's document points to them"
    POINTER_AND_SWEEP = "a document points to new blobs / those that it pointed to before are dropped"
    CHECKPOINT_AND_ACKS = "a checkpoint is durable / what it holds is acknowledged to the broker"
    ACKS_AND_ACKNOWLEDGEMENT = "deliveries are acknowledged to the broker / their client is told"
    REFUSAL_AND_LETTER = "the position has passed a refused message / its dead letter is sent"
    LETTER_AND_CONFIRM = "a dead letter is sent / the broker has confirmed it"
    CONFIRM_AND_REFUSAL_ACK = "a dead letter is safe / the refused message is acknowledged or a checkpoint has its hole"
    CLIENT_AND_NEXT_CLIENT = "a stream's client has ended / the next one's queue is consumed"
    COMMIT_BLOBS_AND_POINTER = "a commit's blobs are in the store / the stream's document points to them"
    COMMIT_AND_ACKNOWLEDGEMENT = "a stream is committed / its clients are told"
    ACKNOWLEDGEMENT_AND_NOTICE = "a committed stream's clients are told / the coordinator is"
    NOTICE_AND_ACKS = "the coordinator is told of a commit / its last deliveries are acknowledged to the broker"
    STREAM_AND_RELEASE = "a stream's channel is closed / its lease is given back"
    PREDICTION_AND_ACK = "a prediction is sent / its request is acknowledged to the broker"
    RESEND_AND_REOPEN = "a client is asked to send again / its queue's channel is opened anew"

    # coordinator
    RUN_AND_LEASE = "a run is created / it is led"
    INITIAL_BLOBS_AND_VERSION = "the initial layers are in the store / version 0 points to them"
    VERSION_AND_QUEUES = "version 0 is there / the run's queues are declared"
    MESSAGE_ACK_AND_ANSWER = "a client's message is acknowledged to the broker / it is acted upon"
    ROSTER_AND_QUEUE = "a client is in the roster / its queue is declared"
    QUEUE_AND_WELCOME = "an admitted client's queue is declared / it is welcomed"
    ROUND_AND_OFFERS = "a round is open / workers and clients are told"
    FREEZE_AND_AVERAGE = "a round is frozen / its replicas are averaged"
    LAYERS_AND_HALVES = "the servers' layers of a round are averaged / its clients' halves are"
    AVERAGE_AND_PUBLISH = "a round's averages are in the store / its version points to them"
    PUBLISH_AND_SWEEP = "a round is closed / blobs that nothing points to are dropped"
    CLOSE_AND_TARGETS = "a round is closed / clients are told"
    ANSWER_AND_ANSWER = "a client is sent its averaged half / the next one is"
    SCORES_AND_ANSWER = "a client's scores are recorded / it is told"
    SIGHT_AND_STEP = "a coordinator has written down what it sees / it goes on"
    DEPARTURE_AND_CLOSING = "a client is given up in the roster / anybody has heard of it"
    FAILURE_AND_TARGETS = "a run has failed for want of clients / clients are told"
    FINISH_AND_RESULTS = "a run is finished / its results are written"
    LAYERS_AND_SUMMARY = "the final layers are files / the summary is"
    RESULTS_AND_TARGETS = "results are written / clients are told that the run is finished"
    TARGETS_AND_REMOVAL = "clients have heard the end / their queues are removed"
    REMOVAL_AND_REMOVAL = "one client's queue is removed / the next one's is"
    REMOVAL_AND_OVER = "all clients' queues are removed / the run is over"

    # client
    WELCOME_AND_IDENTITY = "a client is welcomed / its state folder says as whom"
    IDENTITY_AND_DATA = "a client's state folder says who it is / its data and network are ready"
    FILE_AND_RENAME = "a file of the state folder is written beside / it replaces the one before"
    SNAPSHOT_AND_STEP = "the snapshot of a round is saved / its first batch is trained"
    STEP_AND_PUBLISH = "a client's half has made a step / the features are published"
    PART_AND_PART = "a part of a message is published / the next part is"
    PUBLISH_AND_CONFIRM = "features are published / their confirm is here"
    CONFIRM_AND_COUNT = "the broker has confirmed a message / the client counts it as sent"
    LAST_BATCH_AND_MARKER = "a round's last batch is published / its marker is"
    MARKER_AND_NEXT_ROUND = "a round's marker is published / the next round's snapshot is saved"
    HALF_AND_LOAD = "the averaged half of a round is here / the client has loaded it"
    LOAD_AND_SNAPSHOT = "the averaged half is loaded / the next round's snapshot holds it"
    FORGET_AND_FORGET = "an old snapshot is deleted / the next one is"
    SCORE_AND_REPORT = "a client has its score / a heartbeat says so"
    DISCARD_AND_RESTORE = "what is unconfirmed is forgotten to be sent again / the snapshot is loaded"
    REFUSAL_AND_REJOIN = "a client has heard that it was given up / it asks to join again"
    END_AND_LEAVE = "a client has heard the end / it says so"


_hook: Callable[[Between], None] | None = None


def crash_point(point: Between) -> None:
    """Mark a place between two effects."""
    if _hook is not None:
        _hook(point)


def arm(hook: Callable[[Between], None]) -> None:
    """Call a hook at every crash point of this process from now on; only a test harness does."""
    global _hook
    _hook = hook
