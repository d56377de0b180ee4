"""Grafana dashboards as tables of panels; `python -m monitoring.dashboards FOLDER` writes them as JSON."""
