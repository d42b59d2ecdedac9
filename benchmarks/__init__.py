"""Programs that measure ddaudit itself: speed, false alarms, coverage."""
