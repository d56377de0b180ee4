"""Settings of the way between roles: the experiment's [transport] section."""

from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

MIB = 2**20
Bytes = Annotated[int, Field(ge=1024)]
Seconds = Annotated[float, Field(gt=0)]


class TransportSettings(BaseModel):
    """Bounds, time-outs and encodings of a run's messages; the same for all roles."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    wire_dtype: Literal["auto", "float32", "float16", "bfloat16", "uint8"] = Field(
        "auto", description="how features travel; auto: float16, or bfloat16 where steps are bfloat16; uint8: scaled by channel"
    )
    queue_type: Literal["quorum", "classic"] = Field("quorum", description="kind of RabbitMQ queue for activations")
    message_limit: Bytes = Field(32 * MIB, description="largest message in bytes; a larger batch travels in parts")
    unconfirmed_bytes: Bytes = Field(64 * MIB, description="bytes a client may have in flight to the broker")
    run_ahead_bytes: Bytes = Field(256 * MIB, description="bytes a client may have published beyond what is durably trained")
    queue_bytes: Bytes = Field(512 * MIB, description="bytes after which a client's queue refuses more, a backstop")
    held_bytes: Bytes = Field(256 * MIB, description="bytes of deliveries a server worker holds for a stream")
    refused_limit: Annotated[int, Field(ge=1)] = Field(
        1000, description="refused messages of a client in a round, beyond which its round ends there"
    )
    poison_limit: Annotated[int, Field(ge=1)] = Field(
        5, description="server workers lost in a row at one message, seen to take it, after which it is refused"
    )
    checkpoint_seconds: Seconds = Field(60.0, description="longest time between two checkpoints of a stream being trained")
    starved_seconds: Seconds = Field(
        2.0, description="checkpoint when nothing has arrived for this long and effects are unacknowledged"
    )
    lease_seconds: Seconds = Field(
        15.0, description="time after which a silent worker's stream, or a silent coordinator's run, is another's"
    )
    store_loss_window: Annotated[float, Field(ge=0)] = Field(
        0.0, description="seconds the store may lose when it crashes: 0 with appendfsync always, 3 with everysec"
    )
    heartbeat_interval: Seconds = Field(2.0, description="seconds between two heartbeats of a client")
    heartbeat_timeout: Seconds = Field(30.0, description="silence in seconds after which a client has dropped out")
    amqp_heartbeat: Annotated[int, Field(ge=2)] = Field(20, description="AMQP heartbeat in seconds")
    inference_ttl: Seconds = Field(60.0, description="seconds after which an unanswered inference request is dropped")
    inference_batch: Annotated[int, Field(ge=1, le=4096)] = Field(
        64, description="samples of waiting inference requests that a server worker computes at once"
    )
    inference_wait: Annotated[float, Field(ge=0, le=1)] = Field(
        0.002, description="seconds for which an idle server worker waits for such a batch to fill"
    )

    @model_validator(mode="after")
    def _bounds_are_ordered(self) -> Self:
        ordered = [("unconfirmed_bytes", "held_bytes"), ("run_ahead_bytes", "queue_bytes")]
        for smaller, larger in ordered:
            if getattr(self, smaller) >= getattr(self, larger):
                raise ValueError(f"{smaller} = {getattr(self, smaller)} must be below {larger} = {getattr(self, larger)}")
        if self.heartbeat_interval * 2 > self.heartbeat_timeout:
            raise ValueError(f"heartbeat_timeout = {self.heartbeat_timeout} must be at least twice heartbeat_interval")
        return self
