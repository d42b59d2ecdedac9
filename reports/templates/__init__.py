"""The templates of reports; a package so that they are found when installed."""
