"""Our side of the people who watch: metrics, RSSAC002, the status page."""
