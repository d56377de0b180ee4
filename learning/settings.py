"""Settings of the method: the experiment's [model], [data] and [training] sections."""

import math
from typing import Annotated, Literal, Self

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator

Positive = Annotated[int, Field(ge=1)]
MOST_CLASSES = 100_000
_MOST_VALUES = 2**32  # of one sample


def _fits_memory(shape: tuple[int, ...]) -> tuple[int, ...]:
    if math.prod(shape) > _MOST_VALUES:
        raise ValueError(f"a sample would have more than {_MOST_VALUES} values")
    return shape


class Section(BaseModel):
    """One section of an experiment: immutable, unknown keys refused."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class ModelSettings(Section):
    """The network that clients and servers share, as numbered layers 1..L."""

    name: str = Field("resnet18", description="resnet18, resnet34, or module:function returning an ordered list of layers")
    width: Positive = Field(64, description="channels of a ResNet's first stage")
    granularity: Literal["block", "stage"] = Field("block", description="what counts as one numbered layer of a ResNet")
    exit: str = Field("auto", description="early-exit head: auto (pool or mean, then linear) or module:function")


class DataSettings(Section):
    """Where samples come from and how they are divided over the clients."""

    name: str = Field(
        "digits", description="digits, mnist, cifar10, cifar100, stl10, imagefolder:PATH (train/ and test/), or module:function"
    )
    root: str = Field("data", description="folder of the downloaded data sets")
    download: bool = Field(False, description="let torchvision download a missing data set into root")
    image_size: Annotated[int, Field(ge=1, le=32_768)] | None = Field(
        None, description="side in pixels to which images are resized bilinearly; none keeps their size"
    )
    augment: Literal["auto", "none", "crop-flip"] = Field(
        "auto", description="training augmentation, drawn per image; auto is crop-flip for CIFAR and STL-10"
    )
    partition: Literal["iid", "dirichlet", "shards"] = Field("iid", description="how training samples are divided over the clients")
    alpha: Annotated[float, Field(gt=0)] = Field(0.5, description="concentration of the dirichlet partition; small is uneven")
    classes_per_client: Positive = Field(2, description="classes a client holds under the shards partition")
    classes: Annotated[int, Field(ge=1, le=MOST_CLASSES)] | None = Field(
        None, description="number of classes, where the coordinator does not have the data to look"
    )
    sample_shape: Annotated[tuple[Positive, ...], Field(max_length=8), AfterValidator(_fits_memory)] | None = Field(
        None, description="shape of one sample, such as [3, 32, 32], where the coordinator does not have the data to look"
    )
    train_limit: Positive | None = Field(None, description="train on a seeded random subset of this many samples")
    test_limit: Positive | None = Field(None, description="evaluate in mid-run on a seeded random subset of this many samples")


class OptimizerSettings(Section):
    """An optimizer and its learning-rate schedule, a function of the round."""

    name: Literal["adam", "adamw", "sgd"] = Field("adam", description="optimizer")
    lr: Annotated[float, Field(gt=0)] = Field(1e-3, description="learning rate at the first round")
    weight_decay: Annotated[float, Field(ge=0)] = Field(0.0, description="weight decay")
    momentum: Annotated[float, Field(ge=0, lt=1)] = Field(0.0, description="momentum (sgd)")
    schedule: Literal["constant", "cosine", "step"] = Field("constant", description="learning rate as a function of the round")
    step_rounds: Positive = Field(30, description="rounds between two drops of the step schedule")
    step_factor: Annotated[float, Field(gt=0, le=1)] = Field(0.1, description="factor of one drop of the step schedule")


class TrainingSettings(Section):
    """The training procedure; the same for all roles of a run."""

    strategy: Literal["averaging", "sequential", "distributed", "alone", "centralized"] = Field(
        "averaging",
        description="how a round's clients form streams; alone and centralized are baselines without servers: "
        "whole networks, one a client or one for all data, with the server optimizer",
    )
    streams: Positive | None = Field(None, description="averaging over this many streams instead of one a client")
    interleave: bool = Field(
        False,
        description="in a stream of several clients train on a batch of each in turn, not on one client's batches after "
        "another's; a server worker then holds batches of all of them at once, two of each at least",
    )
    rounds: Annotated[int, Field(ge=1, le=999_999)] = Field(15, description="rounds of training")
    local_epochs: Positive = Field(1, description="passes over its data that a client makes in a round")
    batch_size: Annotated[int, Field(ge=2)] = Field(16, description="samples in a batch")
    seed: Annotated[int, Field(ge=0)] = Field(0, description="seed of every random draw")
    client: OptimizerSettings = Field(OptimizerSettings(), description="the clients' optimizer")
    server: OptimizerSettings = Field(OptimizerSettings(), description="the server replicas' optimizer")
    optimizer_state: Literal["keep", "reset"] = Field("keep", description="a replica's optimizer state from round to round")
    weighting: Literal["uniform", "samples"] = Field(
        "uniform", description="weight of a replica in the mean: its clients, or its samples"
    )
    average: Literal["server", "all"] = Field(
        "server",
        description="what a round's end averages: the servers' layers, or all, clients' halves too (averaging and sequential only)",
    )
    evaluate_every: Positive = Field(1, description="rounds between two evaluations; the last round is always evaluated")
    precision: Literal["auto", "float32", "bfloat16"] = Field("auto", description="arithmetic of a step; auto: bfloat16 on cuda")
    device: Literal["auto", "cpu", "cuda"] = Field("auto", description="where steps run; auto: cuda where present")
    memory_format: Literal["auto", "contiguous", "channels_last"] = Field(
        "auto", description="layout of image tensors; auto: channels_last on cuda"
    )

    def evaluates(self, round: int) -> bool:
        """Return whether clients report scores after a round."""
        return round > 0 and (round % self.evaluate_every == 0 or round == self.rounds)

    def carries_half(self, round: int) -> bool:
        """Return whether a client's end of a round brings its half."""
        return self.average == "all" or round == self.rounds

    @model_validator(mode="after")
    def _all_is_averaged_where_servers_are(self) -> Self:
        if self.average == "all" and self.strategy not in ("averaging", "sequential"):
            raise ValueError(f"average = all needs strategy = averaging or sequential, not {self.strategy}")
        return self

    @model_validator(mode="after")
    def _streams_go_with_averaging(self) -> Self:
        if self.streams is not None and self.strategy != "averaging":
            raise ValueError(f"streams = {self.streams} needs strategy = averaging, not {self.strategy}")
        return self

    @model_validator(mode="after")
    def _interleaved_streams_have_several_clients(self) -> Self:
        if self.interleave and self.strategy != "sequential" and self.streams is None:
            raise ValueError("interleave = true needs streams of several clients: strategy = sequential, or averaging with streams")
        return self
