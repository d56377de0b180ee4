"""Pieces of PromQL that several panels share."""

# A client's own port tells what the coordinator tells for all clients: one of the two is added up.
CLIENTS = '{job!="client"}'
OPEN_SECONDS = "(time() - max(splitee_round_opened_timestamp_seconds > 0))"
MEAN_ROUND = "(sum(splitee_round_seconds_sum) / (sum(splitee_round_seconds_count) > 0))"
ROUNDS_LEFT = "(max(splitee_run_rounds) - max(splitee_round) + (max(splitee_round_opened_timestamp_seconds) > bool 0))"
ACTIVATIONS = '{queue=~"splitee[.].+[.]activations[.].+"}'
REQUESTS = '{queue=~"splitee[.].+[.]inference"}'
WORKERS = 'count(splitee_server_waiting_seconds_total{awaited="stream"})'  # each server process has it from its start
ACTIVE = '(sum(splitee_clients{state="active"}) > 0)'


def total(name: str, labels: str = "", by: str = "") -> str:
    """Return how fast a counter grows, per second. labels: a selector of its series. by: the labels that remain, "a, b"."""
    return f"sum{f' by ({by}) ' if by else ''}(rate({name}{labels}[$__rate_interval]))"


def mean(name: str, count: str, labels: str = "", by: str = "") -> str:
    """Return the mean of what one counter adds up and another counts, where it counts. labels, by: as of ``total``."""
    return f"{total(name, labels, by)} / ({total(count, labels, by)} > 0)"


def quantile(share: float, name: str, by: str = "") -> str:
    """Return a quantile of a histogram, where it has observations. by: the labels that remain, "a, b"."""
    labels = f"le, {by}" if by else "le"
    return f"histogram_quantile({share:g}, sum by ({labels}) (rate({name}_bucket[$__rate_interval]))) >= 0"
