"""Rows of the pipeline's dashboard: bytes and the store, and what went wrong and was dealt with."""

from monitoring.dashboards.dashboard import Row
from monitoring.dashboards.panels import Panel, Query
from monitoring.dashboards.parts import CLIENTS, quantile, total

BYTES = Row(
    "Bytes and the store",
    8,
    (
        Panel(
            title="Bytes of features a second",
            what="What clients send: raw, as float32; on the wire, as published. What servers have trained, as it came.",
            normal="on the wire about raw with `wire_dtype` float32, half of it with float16, a quarter with uint8.",
            otherwise="more than the network carries: a smaller `transport.wire_dtype`, or a deeper cut.",
            unit="binBps",
            width=6,
            queries=(
                Query(total("splitee_client_raw_bytes_total", CLIENTS), "raw"),
                Query(total("splitee_client_wire_bytes_total", CLIENTS), "on the wire"),
                Query(total("splitee_server_bytes_total"), "trained by servers"),
            ),
        ),
        Panel(
            title="Memory of Redis",
            what="Memory that Redis uses, and its limit (`maxmemory`; 0: it has none).",
            normal="level from round to round, well below the limit.",
            otherwise="near the limit: raise `maxmemory`, or roles end with `no memory left`. `splitee clean` removes finished "
            "runs.",
            unit="bytes",
            width=6,
            queries=(Query("max(splitee_store_bytes)", "used"), Query("max(splitee_store_limit_bytes)", "limit")),
        ),
        Panel(
            title="Bytes saved a second",
            what="Replicas and optimizer states that workers write to Redis: checkpoints in mid-stream, commits at its end.",
            normal="a commit of each stream in each round; checkpoints every `transport.checkpoint_seconds`.",
            otherwise="many checkpoints: `transport.held_bytes` is small for these batches.",
            unit="binBps",
            width=6,
            stacked=True,
            queries=(Query(total("splitee_checkpoint_bytes_total", by="kind"), "{{kind}}"),),
        ),
        Panel(
            title="Time to save",
            what="Time to write a checkpoint or a commit to Redis: 99 % took at most so long.",
            normal="below a second for small networks; with `appendfsync always` as long as the disk takes.",
            otherwise="seconds: the disk of Redis, or the network to it. Workers hold what they trained until it is written.",
            unit="s",
            width=6,
            queries=(Query(quantile(0.99, "splitee_checkpoint_seconds", "kind"), "{{kind}}"),),
        ),
    ),
)
FAULTS = Row(
    "What went wrong, and was dealt with",
    8,
    (
        Panel(
            title="Messages refused, by kind",
            what="Dead letters since the processes started. malformed: no message of the run. misplaced: nothing has a place "
            "there. unfit: it does not fit the run. nonfinite: not a number, or infinite. poison: workers died of it.",
            normal="flat at 0.",
            otherwise="`splitee dead list --run NAME` shows each, with its reason.",
            unit="none",
            width=6,
            decimals=0,
            stairs=True,
            queries=(
                Query("sum by (kind) (splitee_dead_letters_total)", "{{kind}}"),
                Query("sum(splitee_replicas_set_back_total)", "replica set back"),
            ),
        ),
        Panel(
            title="Messages again, and missing",
            what="Messages that came a second time and were dropped, and times that a client was asked for one that was missing.",
            normal="flat. A worker that was lost, or a broker restarted, brings some; nothing is trained twice.",
            otherwise="rising all the time: connections break, see *Connections made anew*.",
            unit="none",
            width=6,
            decimals=0,
            stairs=True,
            queries=(Query("sum(splitee_duplicates_total)", "came again"), Query("sum(splitee_gaps_total)", "asked for")),
        ),
        Panel(
            title="Connections made anew",
            what="Times that roles were connected to RabbitMQ again.",
            normal="flat.",
            otherwise="steps of all at once: RabbitMQ was away. Of one role all the time: its network, or a proxy that closes "
            "connections.",
            unit="none",
            width=6,
            decimals=0,
            stairs=True,
            queries=(
                Query(
                    'sum by (role) (splitee_reconnects_total{role!="client"} or splitee_reconnects_total{job!="client"})',
                    "{{role}}",
                ),
            ),
        ),
        Panel(
            title="Who reaches the servers",
            what="Share of the processes that reached RabbitMQ (broker) and Redis (store) when they last tried.",
            normal="100 %.",
            otherwise="0 %: that server is down. In between: some machine does not get there.",
            unit="percentunit",
            width=6,
            high=1,
            stairs=True,
            queries=(Query("avg by (server) (splitee_reachable)", "{{server}}"),),
        ),
    ),
)
