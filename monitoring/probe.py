"""Asks the role beside it whether it is well, for whoever starts containers again: `python -m monitoring.probe`."""

import http.client
import json
import os
import sys

PORT = "SPLITEE_METRICS_PORT"
SECONDS = 5.0


def main() -> None:
    """Print a role's reason in one line; exit code 0 if it is well, else 1."""
    text = os.environ.get(PORT, "")
    if not (text.isascii() and text.isdigit() and 0 < int(text) < 65536):
        sys.exit(f"{PORT} is {text!r}: give the port of the role's metrics, 1 to 65535")
    try:
        healthy, reason = _asked(int(text))
    except (OSError, ValueError, LookupError, http.client.HTTPException) as error:
        sys.exit(f"nobody tells of a role's health at port {text}: {error}")
    print(reason, file=sys.stdout if healthy else sys.stderr)
    sys.exit(0 if healthy else 1)


def _asked(port: int) -> tuple[bool, str]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=SECONDS)
    try:
        connection.request("GET", "/healthz")
        answer = connection.getresponse()
        return answer.status == http.client.OK, str(json.loads(answer.read())["reason"])
    finally:
        connection.close()


if __name__ == "__main__":
    main()
